"""The request path: route, look up, decide, answer from the store or through a flight. Knows no sockets.

`connection` hands it requests; guests' sub-requests and `control`'s purges come in here too. Decisions are `policy`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol, assert_never

from edgecache.observe.record import NullObserver, Observer
from edgecache.observe.trace_context import FIELD, TraceParent, parse
from edgecache.observe.tracing import Parent, Tracer
from edgecache.policy.access import Refusal, may_purge, retry_after
from edgecache.policy.esi import is_template
from edgecache.policy.fields import freeze, names, without
from edgecache.policy.forwarding import CONDITIONAL_FIELDS, HopsExhausted, Loop
from edgecache.policy.invalidation import targets
from edgecache.policy.lookup import (
    Bypass,
    BypassReason,
    Decision,
    Fresh,
    Miss,
    MissReason,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
    conditions,
    decide,
)
from edgecache.policy.message import Request, Response
from edgecache.policy.purging import Purge
from edgecache.policy.upgrading import Upgradable, asked
from edgecache.policy.variance import variant_key
from edgecache.serve.answer import Answer, HeldBody
from edgecache.serve.assembling import assemble
from edgecache.serve.elsewhere import Elsewhere
from edgecache.serve.fast_lane import FastLane
from edgecache.serve.fetching import Call, Fetcher, Selected, coded
from edgecache.serve.file_body import sound
from edgecache.serve.gate import Gate, Refused
from edgecache.serve.prefetching import Prefetching
from edgecache.serve.purger import Purger
from edgecache.serve.refreshing import request_for
from edgecache.serve.request_id import next_request_id
from edgecache.serve.respond import Outcome, Responder
from edgecache.serve.settings import ServeSettings
from edgecache.serve.upgrading import Upgrades
from edgecache.sites import OnError, Route, Site, SiteTable
from edgecache.source import UNREACHABLE, Body, Culprit, Interim, Reply, Source, SourceError
from edgecache.store import Entry, Store, StoredBody
from edgecache.upstream.background import Background
from edgecache.upstream.collapse import Flights, Private, Released, Settled, Stream
from edgecache.upstream.predictor import Predictor
from edgecache.upstream.settings import UpstreamSettings

_log = logging.getLogger(__name__)
_UNSUPPORTED = frozenset({"CONNECT", "HEAD"})
"""Methods are case-sensitive (RFC 9110 section 9.1), but the client library upstream expects no body after `head` either."""
_RANGE = "range"
_PRECONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


class Hit(NamedTuple):
    """A stored response about to answer; seconds."""

    entry: Entry
    age: float
    lifetime_left: float
    now: float
    route: Route


class Siblings(Protocol):
    """The other processes that serve the same sites, each with a store of its own."""

    async def purge(self, purge: Purge) -> int:
        """Put it in force in all processes, this one too; how many entries it concerns. Raises SourceError."""

    async def invalidate(self, uris: tuple[str, ...]) -> None:
        """Have the others forget every variant of `uris`; returns when they have."""


class Pipeline:
    """One process's request path over one store."""

    def __init__(
        self,
        *,
        sites: SiteTable,
        store: Store,
        origins: Callable[[Site], Source],
        generators: Callable[[Call], Source],
        observer: Observer | None = None,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.time,
        settings: ServeSettings | None = None,
        upstream: UpstreamSettings | None = None,
        siblings: Siblings | None = None,
        elsewhere: Elsewhere | None = None,
        upgrades: Upgrades | None = None,
    ) -> None:
        self.observer: Observer = observer or NullObserver()
        self.tracer = tracer
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
            elsewhere=elsewhere,
        )
        self._gate = Gate()
        self._upgrades = upgrades
        self.flights = Flights(upstream)
        self._background = Background(upstream.background_limit)
        self._prefetching = Prefetching()
        self._purger = Purger(store, self._fetcher.purges, self._refetch)
        self.purge = self._purger.purge
        self.invalidate = self._purger.invalidate
        self._siblings = siblings
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

    def change(self, settings: ServeSettings, upstream: UpstreamSettings) -> None:
        """Go on with these; a request under way may see both. Name and fast lanes stay as they were made."""
        self.settings = settings
        self.respond = Responder(settings, self.clock)
        self._fetcher.change(settings, upstream.replay_bytes)
        self.flights.change(upstream)
        self._background.limit = upstream.background_limit

    @property
    def fast_hits(self) -> int:
        """Requests that the fast lanes have answered since the start."""
        return self.fast_lane.answered + self.secure_lane.answered

    @property
    def prefetched(self) -> int:
        """Stored responses fetched anew before they expired, since the start."""
        return self._prefetching.started

    def hit(self, request: Request) -> Hit | None:
        """The fresh stored response that answers `request`, if there is one: without waiting for anybody."""
        route = self._route(request)
        if route is None or not route.site.access.open or (route.site.upgrade and asked(request, route.site.upgrade)):
            return None
        entry = self._stored(route, request)
        if entry is None or (route.rule.esi and is_template(entry.timed.response, route.rule)):
            return None
        now = self.clock()
        decision = decide(request, entry.timed, route.rule, now, known=entry.terms, marked_stale=entry.marked_stale)
        if not isinstance(decision, Fresh):
            return None
        if route.rule.prefetch:
            self._prefetch(request, route, entry, decision.lifetime_left)
        return Hit(entry, decision.age, decision.lifetime_left, now, route)

    async def handle(
        self, request: Request, body: Body | None, client_ip: str, request_id: str, on_interim: Interim | None = None
    ) -> Answer:
        """The answer to one client's request; errors are answers too. The caller reads or closes it."""
        route = self._route(request)
        if route is None:
            text = f"No site here has the host {request.authority!r}."
            return self.respond.problem(421, text, request_id, outcome=Outcome("none", "unknown-host"))
        call = Call(
            request=request,
            body=body,
            client_ip=client_ip,
            request_id=request_id,
            route=route,
            trace=None if self.tracer is None else self.tracer.begin(request_id, self.parent_of(request)),
            on_interim=on_interim,
        )
        refused = self._gate.refuse(route.site, client_ip, self.clock())
        if refused is not None:
            return self._not_let_in(call, refused)
        answer = await self._answer(call)
        return assemble(call, answer, self._answer, self._route) if answer.template else answer

    def _not_let_in(self, call: Call, refused: Refused) -> Answer:
        outcome = Outcome("none", refused.why)
        if refused.why is Refusal.DENIED:
            return self.respond.refused(call, 403, "This site does not answer this client.", outcome=outcome)
        fields = (("Retry-After", retry_after(refused.wait_seconds)),)
        return self.respond.refused(call, 429, "This client asks more often than this site allows.", fields, outcome=outcome)

    def parent_of(self, request: Request) -> TraceParent | None:
        """What the client said of its trace; None also where this edge does not trace."""
        return None if self.tracer is None else parse(request.headers.getall(FIELD, ()))

    async def fetch_through(
        self, site: Site, request: Request, body: Body | None = None, *, request_id: str = "", trace: Parent | None = None
    ) -> Answer:
        """A guest's sub-request: through the cache to the site's own origins, never to a generator."""
        call = Call(
            request=request,
            body=body,
            client_ip="",
            request_id=request_id,
            route=Route(site, None),
            prepared=False,
            trace=trace,
        )
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
        everywhere = self._purger.purge if self._siblings is None else self._siblings.purge
        try:
            return self.respond.purged(call, await everywhere(wanted))
        except SourceError as error:
            return self.respond.failed(call, error)

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

    async def _answer(self, call: Call) -> Answer:
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
        if self._upgrades is not None and (protocol := self._upgrades.wanted(call)) is not None:
            return await self._guarded(call, self._switch(call, self._upgrades, protocol))
        lookup = None if call.trace is None else call.trace.begin("cache lookup")
        entry = self._stored(route, request)
        if entry is not None and isinstance(entry.body, StoredBody) and not await sound(entry.body):
            entry = None
        now = self.clock()
        stored = None if entry is None else entry.timed
        known = None if entry is None else entry.terms
        marked = entry is not None and entry.marked_stale
        renewing = entry is not None and entry.renewing
        decision = decide(request, stored, route.rule, now, known=known, marked_stale=marked, renewing=renewing)
        if entry is None and request.method == "GET" and not route.rule.esi:
            decision, entry = self._fetcher.parts.decide(request, route, decision, now, self.settings.max_ranges)
        if lookup is not None:
            lookup.attributes.update({"edgecache.decision": type(decision).__name__, "edgecache.stored": entry is not None})
            lookup.end()
        return await self._guarded(call, self._act(call, decision, entry))

    async def _guarded(self, call: Call, answering: Coroutine[Any, Any, Answer]) -> Answer:
        """The answer, or one that says why there is none."""
        request = call.request
        try:
            return await answering
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
                if call.route.rule.prefetch:
                    self._prefetch(call.request, call.route, entry, left)
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
                return await self._fly_traced(call, decision, entry)
            case _:
                assert_never(decision)

    async def _switch(self, call: Call, upgrades: Upgrades, protocol: Upgradable) -> Answer:
        """To the origins and back; where one agrees, the connection is a tunnel from then on."""
        opened = await upgrades.open(call, self._fetcher.forwarded(call), protocol)
        decision = Bypass(BypassReason.UPGRADE)
        outcome = Outcome("bypass", decision.reason)
        if isinstance(opened, Reply):
            return self.respond.passed(call, decision, opened, opened.body, outcome)
        return self.respond.switched(call, decision, opened, outcome)

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
        uris = tuple(targets(call.request, response))
        for uri in uris:
            self._purger.invalidate(uri)
        if uris and self._siblings is not None:
            await self._siblings.invalidate(uris)

    async def _fly_traced(self, call: Call, decision: Miss | Validate, entry: Entry | None) -> Answer:
        """As `_fly`, as a span of the request's trace where it has one: until the head of the answer is known."""
        if call.trace is None:
            return await self._fly(call, decision, entry)
        span = call.trace.begin("flight")
        try:
            answer = await self._fly(replace(call, trace=span), decision, entry)
        except BaseException as error:
            span.end(error.reason if isinstance(error, SourceError) else type(error).__name__)
            raise
        span.attributes.update({"edgecache.cache": answer.cache, "edgecache.collapsed": answer.collapsed})
        span.end()
        return answer

    async def _fly(
        self,
        call: Call,
        decision: Miss | Validate,
        entry: Entry | None,
        *,
        vary: tuple[str, ...] | None = None,
        alone: bool = False,
        epoch: int | None = None,
    ) -> Answer:
        """Through a flight: shared where the response may be, alone where it may not.

        `epoch`: not through one that began before so many purges.
        """
        key = self._key(call, vary)
        purges = self._fetcher.purges
        boarded = purges.count
        # Parts are validated for one range: others may not wait for what comes of it.
        of_parts = entry is not None and entry.timed.response.status == 206
        collapse = not alone and not of_parts and self._collapses(call, decision, key)
        conditional = decision.headers if isinstance(decision, Validate) else None
        sent = self._fetcher.forwarded(call, whole=collapse, conditional=conditional)
        same_range = None if collapse or alone or of_parts else self._same_range(call, decision, key)
        learn = (
            (_RANGE, key)
            if same_range
            else key
            if collapse or (not of_parts and conditional is not None and call.request.method == "GET")
            else None
        )
        shared = key if collapse else same_range
        flight = object() if shared is None else shared if epoch is None else (shared, epoch)
        seat = self.flights.board(
            flight,
            partial(self._fetcher.produce, call, sent, entry, decision if isinstance(decision, Validate) else None, learn),
        )
        try:
            landed = await seat.landed()
        except SourceError as error:
            await seat.leave()
            stale = self._stale_instead(call, decision, entry, error)
            if stale is not None:
                return stale
            refused = error.status == 502 or error.reason in UNREACHABLE
            if isinstance(decision, Validate) and decision.must and error.culprit is Culprit.ORIGIN and refused:
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
                if not (seat.first or purges.allow(selected.expected, selected.since, boarded)):
                    await seat.leave()
                    return await self._fly(call, decision, entry, vary=vary, epoch=boarded)
                if seat.first or selected.variant == variant_key(call.request, selected.vary, call.route.rule):
                    return self.respond.streamed(call, decision, seat, body, selected)
                await seat.leave()
                return await self._fly(call, decision, entry, vary=selected.vary, alone=vary is not None)
            case Settled(value=Entry() as validated, since=since):
                await seat.leave()
                if not (seat.first or purges.allow(validated, since, boarded)):
                    return await self._fly(call, decision, entry, vary=vary, epoch=boarded)
                return self.respond.revalidated(call, validated, decision, collapsed=not seat.first)
            case Released():
                await seat.leave()
                return await self._fly(call, decision, entry, alone=True)
            case _:
                raise TypeError(f"unknown landing {landed!r}")

    def _collapses(self, call: Call, decision: Miss | Validate, key: Hashable) -> bool:
        if call.request.method != "GET" or (isinstance(decision, Miss) and not decision.collapse):
            return False
        rule = call.route.rule
        if rule.forward_ranges and not rule.esi and isinstance(decision, Miss) and "Range" in call.request.headers:
            return False
        return not self._predictor.uncacheable(key, self.clock())

    def _same_range(self, call: Call, decision: Miss | Validate, key: Hashable) -> Hashable | None:
        """Who asks the source for the same range may wait for the same answer; None: not where more than the range is asked."""
        headers = call.request.headers
        if call.request.method != "GET" or isinstance(decision, Validate) or decision.reason is MissReason.AUTHORIZATION:
            return None
        if "Range" not in headers or any(name in headers for name in _PRECONDITIONS):
            return None
        if self._predictor.uncacheable((_RANGE, key), self.clock()):
            return None
        return _RANGE, key, tuple(headers.getall("Range")), tuple(headers.getall("If-Range", ()))

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

    def _prefetch(self, request: Request, route: Route, entry: Entry, left: float) -> None:
        """Fetch `entry` anew in the background where it is asked for often and about to expire."""
        if self._prefetching.due(entry, left, route.rule.prefetch):
            call = Call(request=request, body=None, client_ip="", request_id=next_request_id(), route=route)
            self._revalidate_later(call, entry)

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
