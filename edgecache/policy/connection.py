"""Fields that belong to one connection and not to the message (RFC 9110 section 7.6.1).

Called by forwarding and storing: such fields are neither passed on nor kept.
"""

from __future__ import annotations

from edgecache.policy.fields import names
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


def hop_by_hop(headers: Headers) -> frozenset[str]:
    """Lower-case names of the fields of `headers` that end at this hop: the well-known ones and those that Connection lists."""
    if "Connection" not in headers:
        return HOP_BY_HOP
    return HOP_BY_HOP | (frozenset(names(headers, "Connection")) - _NOT_FOR_ONE_HOP)
