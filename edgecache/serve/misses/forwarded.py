"""The request as sources get it: `policy.forwarding` with what this edge has to say for itself.

`asking` and `errand` send it.
"""

from __future__ import annotations

from edgecache.policy.coding import IDENTITY, negotiated
from edgecache.policy.esi import CAPABILITY
from edgecache.policy.forwarding import METHOD_FIELDS, REWRITING_FIELDS, to_source
from edgecache.policy.message import Headers, Request
from edgecache.policy.trailing import announced, wants_trailers
from edgecache.serve.call import Call
from edgecache.serve.settings import ServeSettings
from edgecache.source import TrailedBody

_REQUEST_ID = frozenset({"x-request-id"})
_SHARED = frozenset({"GET", "HEAD"})
_ACCEPT_ENCODING = frozenset({"accept-encoding"})
_CONTENT_LENGTH = frozenset({"content-length"})


def forwarded(call: Call, settings: ServeSettings, *, whole: bool = False, conditional: Headers | None = None) -> Request:
    """The request of `call` as sources get it; see `to_source`. Raises NotForwardable."""
    request, rule = call.request, call.route.rule
    # A part of a template, or a 304 about one, is worth nothing to a client.
    whole = whole or (rule.esi and request.method in ("GET", "HEAD"))
    own: list[tuple[str, str]] = []
    coding = IDENTITY if rule.esi else negotiated(request, rule.compress)
    # Where this edge compresses, sources see of Accept-Encoding what the variant key holds of it. Templates come uncoded.
    replaced = _REQUEST_ID if coding is None else _REQUEST_ID | _ACCEPT_ENCODING
    rewriting = REWRITING_FIELDS | METHOD_FIELDS if request.method in _SHARED else REWRITING_FIELDS
    replaced |= rewriting.difference(map(str.lower, rule.vary)) if rule.vary else rewriting
    if coding is not None:
        own.append(("Accept-Encoding", coding))
    if rule.esi:
        own.append(("Surrogate-Capability", f'{settings.edge_id}="{CAPABILITY}"'))
    if call.route.generator is None and call.prepared and wants_trailers(request):
        own += (("TE", "trailers"), ("Connection", "TE"))
    body = call.body
    # First, for most have none: telling a protocol takes microseconds.
    if body is not None and call.route.generator is None and isinstance(body, TrailedBody) and body.trailers is not None:
        promised = announced(request)
        if promised:
            own.append(("Trailer", ", ".join(promised)))
            # Only a chunked body has a place for them (RFC 9112 section 7.1.2).
            replaced |= _CONTENT_LENGTH
    own.append(("X-Request-Id", call.request_id))
    headers = to_source(
        request,
        client_ip=call.client_ip,
        edge_id=settings.edge_id,
        whole=whole,
        conditional=conditional,
        max_passes=settings.max_loops,
        replaced=replaced,
        own=own,
    )
    return Request(request.method, request.scheme, request.authority, request.target, headers)
