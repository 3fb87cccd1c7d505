"""How long a connection to an origin may be idle, by what the origin says of it."""

from __future__ import annotations

import pytest

from edgecache.upstream.http1.origin_protocol import idle_limit


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("timeout=5", 4.0),
        ("timeout=5, max=100", 4.0),
        ("max=100, Timeout = 60", 59.0),
        ("timeout=1", 0.5),
        ("timeout=0", 0.0),
        ("", None),
        ("timeout", None),
        ("timeout=soon", None),
        ("xtimeout=5", None),
    ],
)
def test_a_connection_is_given_up_before_its_origin_does(said: str, limit: float | None) -> None:
    assert idle_limit(said) == limit
