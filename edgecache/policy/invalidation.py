"""Which stored responses an unsafe request makes untrustworthy (RFC 9111 section 4.4).

Called when the answer to such a request has arrived.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from edgecache.policy.authority import DEFAULT_PORTS
from edgecache.policy.message import Request, Response

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110 section 9.2.1. A method not known here is not safe."""


def targets(request: Request, response: Response) -> tuple[str, ...]:
    """URIs whose stored responses must be invalidated: the target, and Location and Content-Location at the same origin.

    None after a safe method or an error; URIs of other origins are left alone, else one site could empty another's cache.
    """
    if request.method in SAFE_METHODS or not 200 <= response.status < 400:
        return ()
    found = [request.uri]
    for name in ("Location", "Content-Location"):
        for value in response.headers.getall(name, ()):
            uri = _same_origin(request, value.strip(" \t"))
            if uri is not None:
                found.append(uri)
    return tuple(dict.fromkeys(found))


def names_target(request: Request, reference: str) -> bool:
    """Whether a URI reference in a response, resolved, is the target of `request`."""
    return _same_origin(request, reference.strip(" \t")) == request.uri


def _same_origin(request: Request, reference: str) -> str | None:
    try:
        resolved = urlsplit(urljoin(request.uri, reference))
        if _origin(resolved) != _origin(urlsplit(request.uri)):
            return None
    except ValueError:
        return None
    target = resolved.path or "/"
    if resolved.query:
        target += f"?{resolved.query}"
    # The authority as this request wrote it, so that the URI is the key under which responses are stored.
    return f"{request.scheme}://{request.authority}{target}"


def _origin(uri: SplitResult) -> tuple[str, str | None, int | None]:
    """RFC 6454 section 4. Raises ValueError for an impossible port."""
    return uri.scheme, uri.hostname, uri.port or DEFAULT_PORTS.get(uri.scheme)
