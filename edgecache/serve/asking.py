"""Asking sources: the request as they get it, the generator or the origin it goes to, and the coding that this edge applies.

What is made of the answer is `fetching`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from edgecache.policy.coding import IDENTITY, code, negotiated
from edgecache.policy.dates import format_date
from edgecache.policy.esi import CAPABILITY, is_template
from edgecache.policy.fields import freeze
from edgecache.policy.forwarding import METHOD_FIELDS, REWRITING_FIELDS, to_source
from edgecache.policy.message import Headers, Request, Response
from edgecache.policy.substitute import briefly
from edgecache.policy.trailing import announced, wants_trailers
from edgecache.serve.call import Call
from edgecache.serve.compressing import CodedBody
from edgecache.serve.settings import ServeSettings
from edgecache.serve.traced import fetch_from_generator, fetch_from_origin
from edgecache.sites import OnError, Route, Site
from edgecache.source import Culprit, Reply, Source, SourceError, TrailedBody
from edgecache.store import Entry
from edgecache.upstream.body import ReplayableBody

_log = logging.getLogger(__name__)
_REQUEST_ID = frozenset({"x-request-id"})
_SHARED = frozenset({"GET", "HEAD"})
_ACCEPT_ENCODING = frozenset({"accept-encoding"})
_CONTENT_LENGTH = frozenset({"content-length"})


class Asker:
    """The sources of all sites. `settings` and `replay_bytes` may be replaced."""

    def __init__(
        self,
        *,
        origins: Callable[[Site], Source],
        generators: Callable[[Call], Source],
        clock: Callable[[], float],
        settings: ServeSettings,
        replay_bytes: int,
    ) -> None:
        self._origins = origins
        self._generators = generators
        self._clock = clock
        self.settings = settings
        self.replay_bytes = replay_bytes

    def forwarded(self, call: Call, *, whole: bool = False, conditional: Headers | None = None) -> Request:
        """The request as sources get it. Raises NotForwardable."""
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
            own.append(("Surrogate-Capability", f'{self.settings.edge_id}="{CAPABILITY}"'))
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
            edge_id=self.settings.edge_id,
            whole=whole,
            conditional=conditional,
            max_passes=self.settings.max_loops,
            replaced=replaced,
            own=own,
        )
        return Request(request.method, request.scheme, request.authority, request.target, headers)

    async def ask(self, call: Call, sent: Request, entry: Entry | None) -> Reply:
        """The source's answer; where a generator fails, what the route's `on_error` says. Raises SourceError."""
        route = call.route
        body = None if call.body is None else ReplayableBody(call.body, self.replay_bytes)
        if route.generator is None:
            return self._dated(await fetch_from_origin(self._origins(route.site), call, sent, body, call.on_interim))
        try:
            return self._dated(await fetch_from_generator(self._generators(call), call, sent, body))
        except SourceError as error:
            if error.culprit is not Culprit.GENERATOR or not self._falls_back(route, entry):
                raise
            if body is not None and not body.rewind():
                raise
            failure = error
        _log.info("generator %s failed, asking the origin: %s", route.generator.name, failure)
        try:
            reply = self._dated(await fetch_from_origin(self._origins(route.site), call, sent, body, call.on_interim))
        except SourceError:
            raise failure from None
        response = briefly(reply.response, route.rule, self._clock())
        return replace(reply, response=response, detail=f"generator-{failure.reason}")

    def _dated(self, reply: Reply) -> Reply:
        """RFC 9110 section 6.6.1: a recipient with a clock adds the Date that is missing."""
        response = reply.response
        if "Date" in response.headers:
            return reply
        fields = freeze([*response.headers.items(), ("Date", format_date(self._clock()))])
        return replace(reply, response=Response(response.status, response.reason, fields))

    def _falls_back(self, route: Route, entry: Entry | None) -> bool:
        """Whether the origin comes before a stored response in the route's list."""
        for action in route.generator.on_error if route.generator else ():
            match action:
                case OnError.STALE:
                    if entry is not None and not entry.terms.directives.forbids_stale:
                        return False
                case OnError.ORIGIN:
                    return bool(route.site.origins)
                case OnError.ERROR:
                    return False
        return False


def coded(call: Call, reply: Reply) -> Reply:
    """What the source said in the coding that this edge applies for this client, if any. Templates are coded once assembled."""
    if is_template(reply.response, call.route.rule):
        return reply
    response, coding = code(call.request, reply.response, call.route.rule.compress)
    if response is reply.response:
        return reply
    # Trailers, if any, are about what the source has sent.
    body = reply.body
    if coding is not None and call.request.method != "HEAD":
        body = CodedBody(body, coding, prompt=content_length(reply.response) is None)
    return Reply(response, body, reply.detail)


def content_length(response: Response) -> int | None:
    """The declared length of the body; the client library has checked that it is one number."""
    value = response.headers.get("Content-Length")
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) <= 18 else None
