"""Listening sockets that several processes share: bound once by the leader, inherited, and divided among those who serve.

A place (one address of the host, one of the copies) is a socket of its own with SO_REUSEPORT (socket(7)): the kernel spreads new
connections over the places. The leader keeps all of them open, so none is lost when the process that accepted there dies.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress


def bind(host: str, port: int, copies: int) -> tuple[socket.socket, ...]:
    """`copies` sockets for each address of `host`; port 0 takes a free one. Not listening yet. Raises OSError.

    A single copy shares its port with nobody.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    made: list[socket.socket] = []
    try:
        for family, address in addresses:
            if copies == 1:
                made.append(_bound(family, address, shared=False))
                continue
            # Without SO_REUSEPORT first: two edges that share a port by mistake must not pass unnoticed.
            with _bound(family, address, shared=False) as probe:
                address = probe.getsockname()  # noqa: PLW2901 - now with its port
            made.extend(_bound(family, address, shared=True) for _ in range(copies))
    except OSError:
        for sock in made:
            sock.close()
        raise
    return tuple(made)


def grown(socks: Sequence[socket.socket], copies: int) -> tuple[socket.socket, ...]:
    """`socks` with more of the kind, up to `copies` for each address, where they share their port."""
    by_address: dict[tuple[int, tuple[object, ...]], int] = {}
    for sock in socks:
        key = (sock.family, sock.getsockname())
        by_address[key] = by_address.get(key, 0) + 1
    more: list[socket.socket] = []
    for (family, address), count in by_address.items():
        with suppress(OSError):  # bound by one process for itself: several then accept at the one socket
            more.extend(_bound(family, address, shared=True) for _ in range(copies - count))
    return (*socks, *more)


def inherited(descriptors: Iterable[int]) -> tuple[socket.socket, ...]:
    """The sockets that a process was started with; its own children do not get them by themselves."""
    socks = tuple(socket.socket(fileno=descriptor) for descriptor in descriptors)
    for sock in socks:
        sock.set_inheritable(False)
    return socks


def divide(places: int, members: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
    """Which places each member accepts at: every place has one, and where there are fewer places, members share them."""
    if not members:
        return {}
    shares: dict[int, list[int]] = {member: [] for member in members}
    for turn in range(max(places, len(members)) if places else 0):
        shares[members[turn % len(members)]].append(turn % places)
    return {member: tuple(sorted(set(given))) for member, given in shares.items()}


def close_all(socks: Iterable[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def _bound(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address[0]} port {address[1]}: {error.strerror}") from error
    return sock
