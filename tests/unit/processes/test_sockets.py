"""Listening sockets are bound once, divided so that none is left without anybody who accepts there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.processes.sockets import bind, close_all, divide


@given(places=st.integers(0, 20), members=st.lists(st.integers(0, 300), unique=True, max_size=20))
def test_every_place_has_somebody_and_everybody_a_place(places: int, members: list[int]) -> None:
    shares = divide(places, members)
    assert set(shares) == set(members)
    if members:
        assert {place for given in shares.values() for place in given} == set(range(places))
    if places:
        assert all(shares.values())
    if places >= len(members):
        assert sum(map(len, shares.values())) == (places if members else 0), "two at one place where there is room for all"


def test_copies_share_a_port_that_nobody_else_may_take() -> None:
    made = bind("127.0.0.1", 0, 3)
    try:
        ports = {sock.getsockname()[1] for sock in made}
        assert (len(made), len(ports)) == (3, 1)
        made[0].listen()
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1"):
            bind("127.0.0.1", ports.pop(), 2)
    finally:
        close_all(made)


def test_a_name_that_does_not_resolve_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on no\.invalid port 1: "):
        bind("no.invalid", 1, 1)


def test_each_address_of_a_name_has_its_copies() -> None:
    made = bind("localhost", 0, 2)
    try:
        by_host: dict[str, set[int]] = {}
        for sock in made:
            host, port = sock.getsockname()[:2]
            by_host.setdefault(host, set()).add(port)
        assert len(made) == 2 * len(by_host)
        assert all(len(ports) == 1 for ports in by_host.values())
    finally:
        close_all(made)
