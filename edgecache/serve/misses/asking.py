"""Asking sources: the request as they get it, the generator or the origin it goes to, and the coding that this edge applies.

What is made of the answer is `fetching`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from edgecache.policy.coding import code
from edgecache.policy.esi import is_template
from edgecache.policy.forwarding import dated
from edgecache.policy.message import Headers, Request, content_length
from edgecache.policy.substitute import briefly
from edgecache.serve.call import Call
from edgecache.serve.compressing import CodedBody
from edgecache.serve.misses.forwarded import forwarded
from edgecache.serve.misses.traced import fetch_from_generator, fetch_from_origin
from edgecache.serve.settings import ServeSettings
from edgecache.sites import OnError, Route, Site
from edgecache.source import Culprit, Reply, Source, SourceError
from edgecache.store import Entry
from edgecache.upstream.http1.body import ReplayableBody

_log = logging.getLogger(__name__)


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
        return forwarded(call, self.settings, whole=whole, conditional=conditional)

    async def ask(self, call: Call, sent: Request, entry: Entry | None) -> Reply:
        """The source's answer; where a generator fails, what the route's `on_error` says. Raises SourceError."""
        route = call.route
        body = None if call.body is None else ReplayableBody(call.body, self.replay_bytes)
        if route.generator is None:
            source = self._origins(route.site) if call.asked is None else call.asked.source
            return self._dated(await fetch_from_origin(source, call, sent, body, call.on_interim))
        try:
            source = self._generators(call) if call.asked is None else call.asked.source
            return self._dated(await fetch_from_generator(source, call, sent, body))
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
        response = dated(reply.response, self._clock())
        return reply if response is reply.response else replace(reply, response=response)

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
    """`reply` in the coding that this edge applies for this client, if any. Templates are coded once assembled."""
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
