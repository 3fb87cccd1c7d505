"""Request heads as they are sent to origins, where no client library writes them. Values in, bytes out; `bodiless` sends them."""

from __future__ import annotations

import itertools
from typing import Final

from edgecache.policy.fields import encode_lines
from edgecache.policy.message import Request

_METHODS: Final = frozenset({"GET", "HEAD"})
_HOST: Final = frozenset(map("".join, itertools.product("Hh", "Oo", "Ss", "Tt")))


def is_bodiless(request: Request) -> bool:
    """Whether a request that comes without a body may be sent so."""
    return request.method in _METHODS and "Upgrade" not in request.headers and "Expect" not in request.headers


def encode_request(request: Request, host: str) -> bytes:
    """The request head, Host first (RFC 9110 section 7.2); `host` where the request has none.

    Raises ValueError where a control character would break its framing.
    """
    fields = request.headers
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {fields.get('Host', host)}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if name not in _HOST]
    return encode_lines(lines) + b"\r\n"
