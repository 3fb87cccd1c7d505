"""Fields that belong to one connection and not to the message (RFC 9110 section 7.6.1).

Called by forwarding, storing, validation and trailing: such fields are neither passed on nor kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from edgecache.policy.fields import split_list
from edgecache.policy.message import Headers

HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_NOT_FOR_ONE_HOP = frozenset(
    {"cdn-loop", "content-length", "forwarded", "host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
)
"""Framing, loop detection and provenance: a peer may not have them removed by listing them in Connection."""

_MEMO_LIMIT_CHARS: Final = 64
"""Longer values are read each time, so that a hostile peer cannot fill the memo with them."""


def hop_by_hop(headers: Headers) -> frozenset[str]:
    """Lower-case names of the fields of `headers` that end at this hop: the well-known ones and those that Connection lists."""
    lines = headers.getall("Connection", None)
    if lines is None:
        return HOP_BY_HOP
    return _remembered(*lines) if sum(map(len, lines)) <= _MEMO_LIMIT_CHARS else _listed(*lines)


def _listed(*lines: str) -> frozenset[str]:
    listed = frozenset(name.lower() for line in lines for name in split_list(line))
    return HOP_BY_HOP | (listed - _NOT_FOR_ONE_HOP)


_remembered = lru_cache(maxsize=256)(_listed)
