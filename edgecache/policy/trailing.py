"""Trailer fields (RFC 9110 section 6.5): who wants them, and which may be passed on. Values in, values out.

Of responses: called by `serve.misses.fetching` for what clients ask, and by `upstream.http1.trailers` for what origins send.
Of requests: by `serve.misses.asking` for what clients announce, and by `upstream.http1.origin` for what then follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edgecache.policy.connection import HOP_BY_HOP
from edgecache.policy.fields import is_token, names
from edgecache.policy.forwarding import SPEAKING_FIELDS
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

_NEVER_UP: Final = _NEVER | SPEAKING_FIELDS | {"forwarded", "referer", "traceparent", "tracestate"}
"""Besides: what an origin that merges trailers with the head would believe."""
_NEVER_BEGIN: Final = ("if-",)
_NEVER_BEGIN_UP: Final = ("if-", "access-control-", "proxy-", "sec-", "x-forwarded-")
MAX_TRAILERS: Final = 64
"""Fields of one trailer section that is passed on, and names announced. RFC 9110 section 6.5: others may be dropped."""


def wants_trailers(request: Request) -> bool:
    """Whether the client has said that it keeps them (RFC 9110 section 10.1.4)."""
    return "TE" in request.headers and "trailers" in names(request.headers, "TE")


def passable(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those that may be sent on as trailers."""
    return tuple(
        (name, value) for name, value in fields if name.lower() not in _NEVER and not name.lower().startswith(_NEVER_BEGIN)
    )


def announced(request: Request) -> tuple[str, ...]:
    """Names of the trailers that a client says will follow its request's body (RFC 9110 section 6.6.2), which may be sent on.

    Others are not: without that word an origin cannot tell before the body that there is something to wait for.
    """
    if "Trailer" not in request.headers:
        return ()
    found = tuple(
        name
        for name in names(request.headers, "Trailer")
        if is_token(name) and (meant := name.replace("_", "-")) not in _NEVER_UP and not meant.startswith(_NEVER_BEGIN_UP)
    )
    return found[:MAX_TRAILERS]


def following(sent: Request, fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those of `fields` that the Trailer field of a request as it was sent has promised."""
    promised = frozenset(names(sent.headers, "Trailer"))
    return tuple((name, value) for name, value in fields if name.lower() in promised)
