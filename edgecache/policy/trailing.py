"""Trailer fields (RFC 9110 section 6.5): who wants them, and which may be passed on. Values in, values out.

Called by `serve.fetching` for what clients ask, and by `upstream.trailers` for what origins send.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edgecache.policy.connection import HOP_BY_HOP
from edgecache.policy.fields import names
from edgecache.policy.message import Request

_NEVER: Final = HOP_BY_HOP | {
    "age",
    "authorization",
    "cache-control",
    "cache-status",
    "cdn-cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "host",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "vary",
    "via",
    "warning",
    "www-authenticate",
}
"""RFC 9110 section 6.5.1: what is for framing, routing, authentication, caching or the content, and must be known before it."""


def wants_trailers(request: Request) -> bool:
    """Whether the client has said that it keeps them (RFC 9110 section 10.1.4)."""
    return "TE" in request.headers and "trailers" in names(request.headers, "TE")


def passable(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those that may be sent on as trailers."""
    return tuple((name, value) for name, value in fields if name.lower() not in _NEVER and not name.lower().startswith("if-"))
