from __future__ import annotations

import pytest

from edgecache.policy.connection import HOP_BY_HOP, hop_by_hop
from tests.unit.policy.values import headers


def test_listed_fields_end_here() -> None:
    assert hop_by_hop(headers(("Connection", "close, X-A"), ("connection", "Cache-Control"))) == HOP_BY_HOP | {
        "close",
        "x-a",
        "cache-control",
    }


def test_without_connection_the_known_ones_end_here() -> None:
    assert hop_by_hop(headers(X_A="1")) is HOP_BY_HOP


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Via", "CDN-Loop", "X-Forwarded-For", "Forwarded"])
def test_a_peer_cannot_have_framing_or_provenance_removed(name: str) -> None:
    assert name.lower() not in hop_by_hop(headers(Connection=name))
