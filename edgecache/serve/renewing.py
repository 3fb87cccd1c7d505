"""Stored responses fetched anew in the background: stale ones that answered, hot ones about to expire, what a purge refreshes.

`pipeline` says which. One renewal a key at a time; none of them holds up a client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edgecache.observe.record import Renewal
from edgecache.policy.fields import freeze, names, without
from edgecache.policy.forwarding import CONDITIONAL_FIELDS, HopsExhausted, Loop
from edgecache.policy.lookup import Validate, conditions
from edgecache.policy.message import Request
from edgecache.policy.variance import variant_key
from edgecache.serve.call import Call
from edgecache.serve.misses.flying import Flyer
from edgecache.serve.prefetching import Prefetching
from edgecache.serve.purging.refreshing import request_for
from edgecache.serve.request_id import next_request_id
from edgecache.sites import Route
from edgecache.source import SourceError
from edgecache.store import Entry
from edgecache.upstream.background import Background

_log = logging.getLogger(__name__)


class Renewer:
    """`route`: where a request belongs; None: nowhere. `told`: of each renewal its site, why it was, and whether it succeeded."""

    def __init__(
        self,
        flyer: Flyer,
        background: Background,
        route: Callable[[Request], Route | None],
        told: Callable[[str, Renewal, bool], None],
    ) -> None:
        self._flyer = flyer
        self._background = background
        self._route = route
        self._told = told
        self._prefetching = Prefetching()

    def refetch(self, entry: Entry) -> asyncio.Task[None] | None:
        """Fetch `entry` anew in the background, unless that is under way, or its keys do not tell what to ask."""
        request = request_for(entry)
        route = None if request is None else self._route(request)
        if request is None or route is None or route.site.name != entry.site:
            return None
        if variant_key(request, entry.vary, route.rule) != entry.variant:
            return None
        call = Call(request=request, body=None, client_ip="", request_id=next_request_id(), route=route)
        return self.later(call, entry, Renewal.PURGE)

    def prefetch(self, request: Request, route: Route, entry: Entry, left: float) -> None:
        """Fetch `entry` anew in the background where it is asked for often and about to expire."""
        if self._prefetching.due(entry, left, route.rule.prefetch):
            call = Call(request=request, body=None, client_ip="", request_id=next_request_id(), route=route)
            self.later(call, entry, Renewal.PREFETCH)

    def later(self, call: Call, entry: Entry, why: Renewal) -> asyncio.Task[None] | None:
        """RFC 5861 section 3: one revalidation a key, in the background."""
        decision = Validate(conditions(entry.timed.response), stale_if_error=True, stale_if_unreachable=True, must=False)
        quiet = Call(
            request=_as_plain_get(call.request), body=None, client_ip=call.client_ip, request_id=call.request_id, route=call.route
        )
        return self._background.start(self._flyer.key(quiet, None), self._renew(quiet, decision, entry, why))

    async def _renew(self, call: Call, decision: Validate, entry: Entry, why: Renewal) -> None:
        self._told(call.route.site.name, why, await self._revalidate(call, decision, entry))

    async def _revalidate(self, call: Call, decision: Validate, entry: Entry) -> bool:
        """False: the source has not said what is to be stored."""
        try:
            answer = await self._flyer.fly(call, decision, entry)
        except (SourceError, Loop, HopsExhausted) as error:
            _log.warning("revalidation of %s failed: %s", call.request.uri, error)
            return False
        done = answer.cache != "stale"
        if not done:
            _log.warning("revalidation of %s failed: %s", call.request.uri, answer.reason)
        try:
            if not isinstance(answer.body, bytes):
                async for _ in answer.body:
                    pass
        except SourceError as error:
            _log.warning("revalidation of %s failed: %s", call.request.uri, error)
            done = False
        finally:
            await answer.close()
        return done


def _as_plain_get(request: Request) -> Request:
    """What a revalidation asks: the representation itself, whatever the client that caused it wanted of it."""
    dropped = CONDITIONAL_FIELDS | {"cache-control", "pragma"}
    fields = without(request.headers, dropped)
    if "no-transform" in names(request.headers, "Cache-Control"):
        # It selects the variant where this edge compresses.
        fields.append(("Cache-Control", "no-transform"))
    return Request("GET", request.scheme, request.authority, request.target, freeze(fields))
