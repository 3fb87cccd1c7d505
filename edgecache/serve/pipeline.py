"""The request path: route, look up, decide, answer from the store or through a flight. Knows no sockets.

`connection` hands it requests; guests' sub-requests and `control`'s purges come in here too. Decisions are `policy`'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, assert_never

from edgecache.observe.record import NullObserver, Observer, Record, Renewal
from edgecache.observe.trace_context import FIELD, TraceParent, parse
from edgecache.observe.tracing import Parent, Tracer
from edgecache.policy.access import Refusal, retry_after
from edgecache.policy.forwarding import HopsExhausted, Loop
from edgecache.policy.lookup import (
    Bypass,
    BypassReason,
    Decision,
    Fresh,
    Miss,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
    decide,
)
from edgecache.policy.message import Request
from edgecache.policy.upgrading import Upgradable, by_extended_connect
from edgecache.serve.answer import Answer, HeldBody
from edgecache.serve.assembling import assemble
from edgecache.serve.call import Call, Selected
from edgecache.serve.elsewhere import Elsewhere
from edgecache.serve.fast_lane import FastLane
from edgecache.serve.file_body import sound
from edgecache.serve.gate import Gate, Refused
from edgecache.serve.looking import Looker, Missed
from edgecache.serve.misses.asking import coded
from edgecache.serve.misses.errand import Errand
from edgecache.serve.misses.sourcing import Sourcing
from edgecache.serve.purging.forgetting import Forgetting, Siblings
from edgecache.serve.purging.purger import Purger
from edgecache.serve.renewing import Renewer
from edgecache.serve.respond import CacheOutcome, Responder
from edgecache.serve.settings import ServeSettings
from edgecache.serve.upgrading import Upgrades
from edgecache.sites import Route, Site, SiteTable
from edgecache.source import Body, Interim, Reply, Source, SourceError
from edgecache.store import Entry, Store, StoredBody
from edgecache.upstream.background import Background
from edgecache.upstream.flights.collapse import Private, SharedReply
from edgecache.upstream.settings import UpstreamSettings

_log = logging.getLogger(__name__)
_UNSUPPORTED = frozenset({"CONNECT", "HEAD"})
"""Methods are case-sensitive (RFC 9110 section 9.1), but the client library upstream expects no body after `head` either."""


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
        self.respond = Responder(self.settings, clock)
        self._gate = Gate()
        self._upgrades = upgrades
        self._sourcing = Sourcing(
            store=store,
            origins=origins,
            generators=generators,
            clock=clock,
            settings=self.settings,
            upstream=upstream,
            respond=self.respond,
            report=self._report,
            elsewhere=elsewhere,
        )
        self.flights, self.errands = self._sourcing.flights, self._sourcing.errands
        self._background = Background(upstream.background_limit)
        self._renewer = Renewer(self._sourcing.flyer, self._background, self._route, self._renewed)
        self._looker = Looker(sites=sites, store=store, clock=clock, prefetch=self._renewer.prefetch)
        self.look, self.hit = self._looker.look, self._looker.hit
        self._purger = Purger(store, self._sourcing.keeper.purges, self._renewer.refetch)
        self.purge = self._purger.purge
        self.invalidate = self._purger.invalidate
        self._forgetting = Forgetting(self._purger, siblings)
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
        self._sourcing.change(settings, upstream, self.respond)
        self._background.limit = upstream.background_limit

    def _report(self, record: Record) -> None:
        self.observer.on_request(record)

    def _renewed(self, site: str, why: Renewal, done: bool) -> None:
        self.observer.on_renewal(site, why, done=done)

    @property
    def fast_hits(self) -> int:
        """Requests that the fast lanes have answered since the start."""
        return self.fast_lane.answered + self.secure_lane.answered

    def begin(self, request: Request, missed: Missed, client_ip: str, tell: Callable[[bytes | None], None]) -> Errand | None:
        """Have a miss answered without a task, if it is plain enough; see `errand`."""
        if self.tracer is not None:
            return None
        return self.errands.begin(request, missed.route, missed.decision, client_ip, tell)

    async def go_on(self, errand: Errand, on_interim: Interim) -> Answer:
        """The answer that an errand could not bring by itself."""
        call = errand.call
        errand.pass_on(on_interim)
        return await self._guarded(call, self._sourcing.flyer.land(call, errand.decision, None, errand.seat.seat, errand.since))

    async def handle(
        self, request: Request, body: Body | None, client_ip: str, request_id: str, on_interim: Interim | None = None
    ) -> Answer:
        """The answer to one client's request; errors are answers too. The caller reads or closes it."""
        route = self._route(request)
        if route is None:
            text = f"No site here has the host {request.authority!r}."
            accept = request.headers.get("Accept", "")
            return self.respond.problem(421, text, request_id, outcome=CacheOutcome("none", "unknown-host"), accept=accept)
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
        outcome = CacheOutcome("none", refused.why)
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
            route=self._sites.snapshot.sub_route(site, request.authority, request.target.partition("?")[0]),
            prepared=False,
            trace=trace,
        )
        return await self._answer(call)

    async def close(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109 - shared out between the owners of tasks
        """End background work and flights, giving them up to `timeout` seconds."""
        await self._purger.close()
        await self._background.close(timeout)
        await self.flights.close(timeout)

    def _route(self, request: Request) -> Route | None:
        return self._looker.route(request)

    def _stored(self, route: Route, request: Request) -> Entry | None:
        return self._looker.stored(route, request)

    async def _answer(self, call: Call, *, waited: bool = False) -> Answer:
        request, route = call.request, call.route
        if request.method != "HEAD" and request.method.upper() in _UNSUPPORTED:
            text = f"{request.method} is not implemented here."
            return self.respond.refused(call, 501, text, outcome=CacheOutcome("none", "method"))
        if request.method == "TRACE":
            return self.respond.not_allowed(call)
        if request.method == "PURGE":
            return await self._forgetting.purge(call, self.respond)
        if request.target == "*":
            return self.respond.own_options(call)
        if self._upgrades is not None and (protocol := self._upgrades.wanted(call)) is not None:
            return await self._guarded(call, self._switch(call, self._upgrades, protocol))
        if by_extended_connect(request):
            return self.respond.refused(call, 501, "No WebSockets are passed on here.", outcome=CacheOutcome("none", "method"))
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
        getting = request.method == "GET"
        if isinstance(decision, Miss) and getting and not waited and await self._sourcing.long_bodies.ended(request.uri):
            return await self._answer(call, waited=True)
        if entry is None and getting and not route.rule.esi:
            decision, entry = self._sourcing.keeper.parts.decide(request, route, decision, now, self.settings.max_ranges)
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
            return self.respond.refused(call, 508, text, outcome=CacheOutcome("none", "loop"))
        except HopsExhausted:
            return self.respond.own_options(call)
        except SourceError as error:
            _log.info("%s %s failed: %s", request.method, request.uri, error)
            return self.respond.failed(call, error)

    async def _act(self, call: Call, decision: Decision, entry: Entry | None) -> Answer:
        match decision:
            case Fresh(age, left) if entry is not None:
                if call.route.rule.prefetch:
                    self._renewer.prefetch(call.request, call.route, entry, left)
                return self.respond.hit(call, entry, age, left)
            case StaleWhileRevalidate() if entry is not None:
                self._renewer.later(call, entry, Renewal.STALE)
                return self.respond.stale(call, entry, "refresh" if entry.renewing else "stale-while-revalidate")
            case Unsatisfiable():
                text = "Nothing stored answers this only-if-cached request."
                return self.respond.refused(call, 504, text, outcome=CacheOutcome("none", "only-if-cached"))
            case Fresh() | StaleWhileRevalidate():
                raise TypeError("a decision for a stored response without one")
            case Bypass():
                return await self._pass(call, decision)
            case Miss() | Validate():
                return await self._sourcing.flyer.fly_traced(call, decision, entry)
            case _:
                assert_never(decision)

    async def _switch(self, call: Call, upgrades: Upgrades, protocol: Upgradable) -> Answer:
        """To the origins and back; where one agrees, the connection is a tunnel from then on."""
        opened = await upgrades.open(call, self._sourcing.asker.forwarded(call), protocol)
        decision = Bypass(BypassReason.UPGRADE)
        outcome = CacheOutcome("bypass", decision.reason)
        if isinstance(opened, Reply):
            return self.respond.passed(call, decision, opened, opened.body, outcome)
        return self.respond.switched(call, decision, opened, outcome)

    async def _pass(self, call: Call, decision: Bypass) -> Answer:
        """To the source and back; stored only where the answer to a POST may answer a later GET (RFC 9110 section 9.3.3)."""
        sent = self._sourcing.asker.forwarded(call)
        if call.request.method != "POST":
            reply = coded(call, await self._sourcing.asker.ask(call, sent, None))
            await self._forgetting.invalidate(call.request, reply.response)
            return self.respond.passed(call, decision, reply, reply.body, CacheOutcome("bypass", decision.reason))
        invalidate = partial(self._forgetting.invalidate, call.request)
        seat = self.flights.board(object(), partial(self._sourcing.fetcher.produce_unsafe, call, sent, invalidate))
        try:
            landed = await seat.landed()
        except BaseException:
            await seat.leave()
            raise
        match landed:
            case Private(reply):
                body = HeldBody(reply.body, seat.leave)
                return self.respond.passed(call, decision, reply, body, CacheOutcome("bypass", decision.reason))
            case SharedReply(body=streamed, token=Selected() as selected):
                return self.respond.streamed(call, decision, seat, streamed, selected)
            case _:
                raise TypeError(f"unknown landing {landed!r}")
