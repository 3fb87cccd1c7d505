"""The request path: route, look up, decide, answer from the store or through a flight. Knows no sockets.

`connection` hands it requests; guests' sub-requests and `control`'s purges come in here too. Decisions are `policy`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple, assert_never

from edgecache.observe.record import NullObserver, Observer
from edgecache.policy.access import Refusal, may_purge, retry_after
from edgecache.policy.fields import freeze, names, without
from edgecache.policy.forwarding import CONDITIONAL_FIELDS, HopsExhausted, Loop
from edgecache.policy.invalidation import targets
from edgecache.policy.lookup import (
    Bypass,
    Decision,
    Fresh,
    Miss,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
    conditions,
    decide,
)
from edgecache.policy.message import Request, Response
from edgecache.policy.purging import Purge
from edgecache.policy.variance import variant_key
from edgecache.serve.answer import Answer, HeldBody
from edgecache.serve.fast_lane import FastLane
from edgecache.serve.fetching import Call, Fetcher, Selected, coded
from edgecache.serve.file_body import sound
from edgecache.serve.gate import Gate, Refused
from edgecache.serve.purger import Purger
from edgecache.serve.refreshing import request_for
from edgecache.serve.request_id import next_request_id
from edgecache.serve.respond import Outcome, Responder
from edgecache.serve.settings import ServeSettings
from edgecache.sites import OnError, Route, Site, SiteTable
from edgecache.source import UNREACHABLE, Body, Culprit, Interim, Source, SourceError
from edgecache.store import Entry, Store, StoredBody
from edgecache.upstream.background import Background
from edgecache.upstream.collapse import Flights, Private, Released, Settled, Stream
from edgecache.upstream.predictor import Predictor
from edgecache.upstream.settings import UpstreamSettings

_log = logging.getLogger(__name__)
_UNSUPPORTED = frozenset({"CONNECT", "HEAD"})
"""Methods are case-sensitive (RFC 9110 section 9.1), but the client library upstream expects no body after `head` either."""


class Hit(NamedTuple):
    """A stored response about to answer; seconds."""

    entry: Entry
    age: float
    lifetime_left: float
    now: float
    route: Route


class Pipeline:
    """One edge's request path over one store."""

    def __init__(
        self,
        *,
        sites: SiteTable,
        store: Store,
        origins: Callable[[Site], Source],
        generators: Callable[[Call], Source],
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
        settings: ServeSettings | None = None,
        upstream: UpstreamSettings | None = None,
    ) -> None:
        self.observer: Observer = observer or NullObserver()
        self.clock = clock
        self.settings = settings or ServeSettings()
        upstream = upstream or UpstreamSettings()
        self._sites = sites
        self._store = store
        self._predictor = Predictor(upstream.predictor_capacity, upstream.predictor_ttl)
        self._fetcher = Fetcher(
            store=store,
            origins=origins,
            generators=generators,
            clock=clock,
            settings=self.settings,
            predictor=self._predictor,
            replay_bytes=upstream.replay_bytes,
        )
        self._gate = Gate()
        self.flights = Flights(upstream)
        self._background = Background(upstream.background_limit)
        self._purger = Purger(store, self._fetcher.purges, self._refetch)
        self.purge = self._purger.purge
        self.respond = Responder(self.settings, clock)
        lane = partial(
            FastLane,
            sites=sites,
            store=store,
            clock=clock,
            member=self.respond.hit_member,
            heads=self.settings.fast_lane_heads,
            limit_bytes=self.settings.fast_lane_bytes,
        )
        # The bytes of a head do not say over what they came, and the two schemes share no entry.
        self.fast_lane, self.secure_lane = lane(), lane()

    @property
    def fast_hits(self) -> int:
        """Requests that the fast lanes have answered since the start."""
        return self.fast_lane.answered + self.secure_lane.answered

    def hit(self, request: Request) -> Hit | None:
        """The fresh stored response that answers `request`, if there is one: without waiting for anybody."""
        route = self._route(request)
        if route is None or not route.site.access.open:
            return None
        entry = self._stored(route, request)
        if entry is None:
            return None
        now = self.clock()
        decision = decide(request, entry.timed, route.rule, now, known=entry.terms, marked_stale=entry.marked_stale)
        return Hit(entry, decision.age, decision.lifetime_left, now, route) if isinstance(decision, Fresh) else None

    async def handle(
        self, request: Request, body: Body | None, client_ip: str, request_id: str, on_interim: Interim | None = None
    ) -> Answer:
        """The answer to one client's request; errors are answers too. The caller reads or closes it."""
        route = self._route(request)
        if route is None:
            text = f"No site here has the host {request.authority!r}."
            return self.respond.problem(421, text, request_id, outcome=Outcome("none", "unknown-host"))
        call = Call(request=request, body=body, client_ip=client_ip, request_id=request_id, route=route, on_interim=on_interim)
        refused = self._gate.refuse(route.site, client_ip, self.clock())
        return await self._answer(call) if refused is None else self._not_let_in(call, refused)

    def _not_let_in(self, call: Call, refused: Refused) -> Answer:
        outcome = Outcome("none", refused.why)
        if refused.why is Refusal.DENIED:
            return self.respond.refused(call, 403, "This site does not answer this client.", outcome=outcome)
        fields = (("Retry-After", retry_after(refused.wait_seconds)),)
        return self.respond.refused(call, 429, "This client asks more often than this site allows.", fields, outcome=outcome)

    async def fetch_through(self, site: Site, request: Request, body: Body | None = None, *, request_id: str = "") -> Answer:
        """A guest's sub-request: through the cache to the site's own origins, never to a generator."""
        call = Call(request=request, body=body, client_ip="", request_id=request_id, route=Route(site, None), prepared=False)
        return await self._answer(call)

    async def _purge_asked(self, call: Call) -> Answer:
        """The method PURGE: the URL it names, every variant, of the site that it is asked of."""
        access = call.route.site.access
        if not access.purge:
            return self.respond.not_allowed(call)
        if not may_purge(access, call.client_ip):
            text = "This site does not let this client purge."
            return self.respond.refused(call, 403, text, outcome=Outcome("none", "purge-denied"))
        try:
            wanted = Purge(urls=(call.request.uri,), site=call.route.site.name)
        except ValueError as error:
            return self.respond.refused(call, 400, f"This is no URL to purge: {error}.", outcome=Outcome("none", "purge"))
        return self.respond.purged(call, await self._purger.purge(wanted))

    async def close(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109 - shared out between the owners of tasks
        """End background work and flights, giving them up to `timeout` seconds."""
        await self._purger.close()
        await self._background.close(timeout)
        await self.flights.close(timeout)

    def _route(self, request: Request) -> Route | None:
        return self._sites.snapshot.route(request.authority, request.target.partition("?")[0])

    def _stored(self, route: Route, request: Request) -> Entry | None:
        """What is stored, unless it belongs to a site that had this host before."""
        entry = self._store.get(request.uri, request, route.rule)
        return entry if entry is not None and entry.site == route.site.name else None

    async def _answer(self, call: Call, *, waited: bool = False) -> Answer:
        request, route = call.request, call.route
        if request.method != "HEAD" and request.method.upper() in _UNSUPPORTED:
            text = f"{request.method} is not implemented here."
            return self.respond.refused(call, 501, text, outcome=Outcome("none", "method"))
        if request.method == "TRACE":
            return self.respond.not_allowed(call)
        if request.method == "PURGE":
            return await self._purge_asked(call)
        if request.target == "*":
            return self.respond.own_options(call)
        entry = self._stored(route, request)
        if entry is not None and isinstance(entry.body, StoredBody) and not await sound(entry.body):
            entry = None
        now = self.clock()
        stored = None if entry is None else entry.timed
        known = None if entry is None else entry.terms
        marked = entry is not None and entry.marked_stale
        renewing = entry is not None and entry.renewing
        decision = decide(request, stored, route.rule, now, known=known, marked_stale=marked, renewing=renewing)
        if isinstance(decision, Miss) and not waited and request.method == "GET" and await self._fetcher.spooled(request.uri):
            return await self._answer(call, waited=True)
        try:
            return await self._act(call, decision, entry)
        except Loop:
            text = "The request has passed this edge before: an origin points back at it."
            return self.respond.refused(call, 508, text, outcome=Outcome("none", "loop"))
        except HopsExhausted:
            return self.respond.own_options(call)
        except SourceError as error:
            _log.info("%s %s failed: %s", request.method, request.uri, error)
            return self.respond.failed(call, error)

    async def _act(self, call: Call, decision: Decision, entry: Entry | None) -> Answer:
        match decision:
            case Fresh(age, left) if entry is not None:
                return self.respond.hit(call, entry, age, left)
            case StaleWhileRevalidate() if entry is not None:
                self._revalidate_later(call, entry)
                return self.respond.stale(call, entry, "refresh" if entry.renewing else "stale-while-revalidate")
            case Unsatisfiable():
                text = "Nothing stored answers this only-if-cached request."
                return self.respond.refused(call, 504, text, outcome=Outcome("none", "only-if-cached"))
            case Fresh() | StaleWhileRevalidate():
                raise TypeError("a decision for a stored response without one")
            case Bypass():
                return await self._pass(call, decision)
            case Miss() | Validate():
                return await self._fly(call, decision, entry)
            case _:
                assert_never(decision)

    async def _pass(self, call: Call, decision: Bypass) -> Answer:
        """To the source and back; stored only where the answer to a POST may answer a later GET (RFC 9110 section 9.3.3)."""
        sent = self._fetcher.forwarded(call)
        if call.request.method != "POST":
            reply = coded(call, await self._fetcher.ask(call, sent, None))
            await self._invalidate(call, reply.response)
            return self.respond.passed(call, decision, reply, reply.body, Outcome("bypass", decision.reason))
        seat = self.flights.board(object(), partial(self._fetcher.produce_unsafe, call, sent, partial(self._invalidate, call)))
        try:
            landed = await seat.landed()
        except BaseException:
            await seat.leave()
            raise
        match landed:
            case Private(reply):
                body = HeldBody(reply.body, seat.leave)
                return self.respond.passed(call, decision, reply, body, Outcome("bypass", decision.reason))
            case Stream(body=streamed, token=Selected() as selected):
                return self.respond.streamed(call, decision, seat, streamed, selected)
            case _:
                raise TypeError(f"unknown landing {landed!r}")

    async def _invalidate(self, call: Call, response: Response) -> None:
        """A successful unsafe request makes what is stored untrustworthy (RFC 9111 section 4.4)."""
        for uri in targets(call.request, response):
            self._purger.invalidate(uri)

    async def _fly(
        self,
        call: Call,
        decision: Miss | Validate,
        entry: Entry | None,
        *,
        vary: tuple[str, ...] | None = None,
        alone: bool = False,
    ) -> Answer:
        """Through a flight: shared where the response may be, alone where it may not."""
        key = self._key(call, vary)
        collapse = not alone and self._collapses(call, decision, key)
        conditional = decision.headers if isinstance(decision, Validate) else None
        sent = self._fetcher.forwarded(call, whole=collapse, conditional=conditional)
        learn = key if collapse or (conditional is not None and call.request.method == "GET") else None
        seat = self.flights.board(
            key if collapse else object(),
            partial(self._fetcher.produce, call, sent, entry, decision if isinstance(decision, Validate) else None, learn),
        )
        try:
            landed = await seat.landed()
        except SourceError as error:
            await seat.leave()
            stale = self._stale_instead(call, decision, entry, error)
            if stale is not None:
                return stale
            if isinstance(decision, Validate) and decision.must and error.culprit is Culprit.ORIGIN and error.status == 502:
                # RFC 9111 section 5.2.2.2: 504 where validation was required and the origin could not be reached.
                error.status = 504
            raise
        except BaseException:
            await seat.leave()
            raise
        match landed:
            case Private(reply, reason):
                return self.respond.passed(call, decision, reply, HeldBody(reply.body, seat.leave), Outcome("miss", reason))
            case Stream(body=body, token=Selected() as selected):
                if seat.first or selected.variant == variant_key(call.request, selected.vary, call.route.rule):
                    return self.respond.streamed(call, decision, seat, body, selected)
                await seat.leave()
                return await self._fly(call, decision, entry, vary=selected.vary, alone=vary is not None)
            case Settled(value=Entry() as validated):
                await seat.leave()
                return self.respond.revalidated(call, validated, decision, collapsed=not seat.first)
            case Released():
                await seat.leave()
                return await self._fly(call, decision, entry, alone=True)
            case _:
                raise TypeError(f"unknown landing {landed!r}")

    def _collapses(self, call: Call, decision: Miss | Validate, key: Hashable) -> bool:
        if call.request.method != "GET" or (isinstance(decision, Miss) and not decision.collapse):
            return False
        return not self._predictor.uncacheable(key, self.clock())

    def _key(self, call: Call, vary: tuple[str, ...] | None) -> Hashable:
        uri, route = call.request.uri, call.route
        names = self._store.vary(uri) if vary is None else vary
        generator = route.generator.name if route.generator else None
        return route.site.name, generator, uri, variant_key(call.request, names, route.rule)

    def _stale_instead(self, call: Call, decision: Miss | Validate, entry: Entry | None, error: SourceError) -> Answer | None:
        """The stored response in place of a failure (RFC 5861 section 4, and the route's `on_error`)."""
        if entry is None or not isinstance(decision, Validate):
            return None
        generator = call.route.generator
        by_route = (
            generator is not None
            and error.culprit is Culprit.GENERATOR
            and OnError.STALE in generator.on_error
            and not entry.terms.directives.forbids_stale
        )
        unreachable = error.culprit is Culprit.ORIGIN and error.reason in UNREACHABLE and decision.stale_if_unreachable
        if not (by_route or unreachable or (decision.stale_if_error and error.culprit is not Culprit.CLIENT)):
            return None
        return self.respond.stale(call, entry, error.reason)

    def _refetch(self, entry: Entry) -> asyncio.Task[None] | None:
        """Fetch `entry` anew in the background, unless that is under way, or its keys do not tell what to ask."""
        request = request_for(entry)
        route = None if request is None else self._route(request)
        if request is None or route is None or route.site.name != entry.site:
            return None
        if variant_key(request, entry.vary, route.rule) != entry.variant:
            return None
        return self._revalidate_later(
            Call(request=request, body=None, client_ip="", request_id=next_request_id(), route=route), entry
        )

    def _revalidate_later(self, call: Call, entry: Entry) -> asyncio.Task[None] | None:
        """RFC 5861 section 3: one revalidation a key, in the background."""
        decision = Validate(conditions(entry.timed.response), stale_if_error=True, stale_if_unreachable=True, must=False)
        quiet = Call(
            request=_as_plain_get(call.request), body=None, client_ip=call.client_ip, request_id=call.request_id, route=call.route
        )
        return self._background.start(self._key(quiet, None), self._revalidate(quiet, decision, entry))

    async def _revalidate(self, call: Call, decision: Validate, entry: Entry) -> None:
        try:
            answer = await self._fly(call, decision, entry)
        except (SourceError, Loop, HopsExhausted) as error:
            _log.warning("revalidation of %s failed: %s", call.request.uri, error)
            return
        if answer.cache == "stale":
            _log.warning("revalidation of %s failed: %s", call.request.uri, answer.reason)
        try:
            if not isinstance(answer.body, bytes):
                async for _ in answer.body:
                    pass
        except SourceError as error:
            _log.warning("revalidation of %s failed: %s", call.request.uri, error)
        finally:
            await answer.close()


def _as_plain_get(request: Request) -> Request:
    """What a revalidation asks: the representation itself, whatever the client that caused it wanted of it."""
    dropped = CONDITIONAL_FIELDS | {"cache-control", "pragma"}
    fields = without(request.headers, dropped)
    if "no-transform" in names(request.headers, "Cache-Control"):
        # It selects the variant where this edge compresses.
        fields.append(("Cache-Control", "no-transform"))
    return Request("GET", request.scheme, request.authority, request.target, freeze(fields))
