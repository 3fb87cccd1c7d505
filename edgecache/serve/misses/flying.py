"""Flights as requests take them: which may be shared, what comes of a landing, and what answers instead where one fails.

`pipeline` sends misses and validations here, `renewing` what goes on in the background; `fetching` is what a flight does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

from edgecache.policy.lookup import Fresh, Miss, MissReason, Validate, decide
from edgecache.policy.message import Timed
from edgecache.policy.variance import variant_key
from edgecache.serve.answer import Answer, HeldBody
from edgecache.serve.call import Call, Selected, flight_key
from edgecache.serve.misses.asking import Asker
from edgecache.serve.misses.fetching import Fetcher
from edgecache.serve.respond import CacheOutcome, Responder, suits
from edgecache.sites import OnError
from edgecache.source import UNREACHABLE, Culprit, SourceError
from edgecache.store import Entry, Store
from edgecache.upstream.flights.collapse import Flights, Private, Released, Seat, Settled, SharedReply
from edgecache.upstream.flights.predictor import Predictor

_RANGE = "range"
_PRECONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


class Flyer:
    """Takes requests through the flights of one process. `respond` may be replaced."""

    def __init__(
        self,
        *,
        flights: Flights,
        fetcher: Fetcher,
        asker: Asker,
        store: Store,
        predictor: Predictor,
        clock: Callable[[], float],
        respond: Responder,
    ) -> None:
        self._flights = flights
        self._fetcher = fetcher
        self._purges = fetcher.purges
        self._asker = asker
        self._store = store
        self._predictor = predictor
        self._clock = clock
        self.respond = respond

    async def fly_traced(self, call: Call, decision: Miss | Validate, entry: Entry | None) -> Answer:
        """As `fly`, as a span of the request's trace where it has one: until the head of the answer is known."""
        if call.trace is None:
            return await self.fly(call, decision, entry)
        span = call.trace.begin("flight")
        try:
            answer = await self.fly(replace(call, trace=span), decision, entry)
        except BaseException as error:
            span.end(error.reason if isinstance(error, SourceError) else type(error).__name__)
            raise
        span.attributes.update({"edgecache.cache": answer.cache, "edgecache.collapsed": answer.collapsed})
        span.end()
        return answer

    async def fly(
        self,
        call: Call,
        decision: Miss | Validate,
        entry: Entry | None,
        *,
        vary: tuple[str, ...] | None = None,
        alone: bool = False,
        epoch: int | None = None,
    ) -> Answer:
        """The answer to `call` from a flight: shared where the response may be, alone where it may not. Raises NotForwardable,
        SourceError.

        `alone`: share it with nobody. `epoch`: a number of purges; join no flight that asked its source before there were so
        many.
        """
        boarded = self._purges.count
        seat = self._board(call, decision, entry, self.key(call, vary), alone=alone, epoch=epoch)
        return await self.land(call, decision, entry, seat, boarded, vary=vary)

    async def land(
        self,
        call: Call,
        decision: Miss | Validate,
        entry: Entry | None,
        seat: Seat,
        boarded: int,
        *,
        vary: tuple[str, ...] | None = None,
    ) -> Answer:
        """The answer that a flight brings for `call`. `boarded`: how many purges there had been when it took its seat. Raises as
        `fly`."""
        try:
            landed = await seat.landed()
        except SourceError as error:
            await seat.leave()
            stale = self._stale_instead(call, decision, entry, error)
            if stale is not None:
                return stale
            _judge(decision, error)
            raise
        except BaseException:
            await seat.leave()
            raise
        match landed:
            case Private(reply, reason):
                return self.respond.passed(call, decision, reply, HeldBody(reply.body, seat.leave), CacheOutcome("miss", reason))
            case SharedReply(token=Selected() as selected, kept=Entry() as kept) if seat.first and suits(call, kept):
                await seat.leave()
                return self.respond.brought(call, decision, kept, selected)
            case SharedReply(token=Selected()) if not seat.first:
                return await self._along(call, decision, entry, seat, landed, boarded=boarded, vary=vary)
            case SharedReply(body=body, token=Selected() as selected):
                return self.respond.streamed(call, decision, seat, body, selected)
            case Settled(value=Entry() as validated):
                await seat.leave()
                if seat.first:
                    return self.respond.revalidated(call, validated, decision, collapsed=False, stored=landed.stored)
                return await self._joined(call, decision, entry, landed, validated=validated, boarded=boarded, vary=vary)
            case Released():
                await seat.leave()
                return await self.fly(call, decision, entry, alone=True)
            case _:
                raise TypeError(f"unknown landing {landed!r}")

    async def _along(
        self,
        call: Call,
        decision: Miss | Validate,
        entry: Entry | None,
        seat: Seat,
        landed: SharedReply,
        *,
        boarded: int,
        vary: tuple[str, ...] | None,
    ) -> Answer:
        """The answer to `call` where another request's response is on its way. Raises as `fly`."""
        selected: Selected = landed.token
        if not self._purges.allow(selected.expected, selected.since, boarded):
            await seat.leave()
            return await self.fly(call, decision, entry, vary=vary, epoch=boarded)
        if selected.variant != variant_key(call.request, selected.vary, call.route.rule):
            await seat.leave()
            return await self.fly(call, decision, entry, vary=selected.vary, alone=vary is not None)
        if landed.late and not self._answers(call, selected):
            await seat.leave()
            return await self.fly(call, decision, entry, alone=True)
        return self.respond.streamed(call, decision, seat, landed.body, selected)

    def _answers(self, call: Call, selected: Selected) -> bool:
        """Whether a response that had begun before the request came is fresh enough for it, as one that is stored must be."""
        stored = Timed(selected.stored, selected.asked, selected.answered)
        return isinstance(decide(call.request, stored, call.route.rule, self._clock()), Fresh)

    async def _joined(
        self,
        call: Call,
        decision: Miss | Validate,
        entry: Entry | None,
        landed: Settled,
        *,
        validated: Entry,
        boarded: int,
        vary: tuple[str, ...] | None,
    ) -> Answer:
        """The answer to `call` where another request has validated what is stored. Raises as `fly`."""
        if landed.expected is not None and not self._purges.allow(landed.expected, landed.since, boarded):
            return await self.fly(call, decision, entry, vary=vary, epoch=boarded)
        if validated.variant != variant_key(call.request, validated.vary, call.route.rule):
            # RFC 9111 section 4.1: the 304 has brought another Vary.
            return await self.fly(call, decision, entry, vary=validated.vary, alone=vary is not None)
        return self.respond.revalidated(call, validated, decision, collapsed=True, stored=landed.stored)

    def _board(
        self, call: Call, decision: Miss | Validate, entry: Entry | None, key: Hashable, *, alone: bool, epoch: int | None
    ) -> Seat:
        """A seat on a flight that others may share, or on one of its own. Raises NotForwardable, SourceError."""
        # Parts are validated for one range: others may not wait for what comes of it.
        of_parts = entry is not None and entry.timed.response.status == 206
        validated = decision if isinstance(decision, Validate) else None
        collapse = not alone and not of_parts and self._collapses(call, decision, key)
        same_range = None if collapse or alone or of_parts else self._same_range(call, decision, key)
        sent = self._asker.forwarded(call, whole=collapse, conditional=None if validated is None else validated.headers)
        learn: Hashable | None = None
        if same_range:
            learn = (_RANGE, key)
        elif collapse or (validated is not None and not of_parts and call.request.method == "GET"):
            learn = key
        shared = key if collapse else same_range
        flight = object() if shared is None else shared if epoch is None else (shared, epoch)
        return self._flights.board(flight, partial(self._fetcher.produce, call, sent, entry, validated, learn))

    def _collapses(self, call: Call, decision: Miss | Validate, key: Hashable) -> bool:
        if call.request.method != "GET" or (isinstance(decision, Miss) and not decision.collapse):
            return False
        rule = call.route.rule
        if rule.forward_ranges and not rule.esi and isinstance(decision, Miss) and "Range" in call.request.headers:
            return False
        return not self._predictor.uncacheable(key, self._clock())

    def _same_range(self, call: Call, decision: Miss | Validate, key: Hashable) -> Hashable | None:
        """The key of a flight for this very range, which others who ask for the same may board; None: nobody may."""
        headers = call.request.headers
        if call.request.method != "GET" or isinstance(decision, Validate) or decision.reason is MissReason.AUTHORIZATION:
            return None
        if "Range" not in headers or any(name in headers for name in _PRECONDITIONS):
            return None
        if self._predictor.uncacheable((_RANGE, key), self._clock()):
            return None
        return _RANGE, key, tuple(headers.getall("Range")), tuple(headers.getall("If-Range", ()))

    def key(self, call: Call, vary: tuple[str, ...] | None) -> Hashable:
        return flight_key(call.request, call.route, self._store.vary(call.request.uri) if vary is None else vary)

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


def _judge(decision: Miss | Validate, error: SourceError) -> None:
    """RFC 9111 section 5.2.2.2: 504 where validation was required and the origin could not be reached."""
    refused = error.status == 502 or error.reason in UNREACHABLE
    if isinstance(decision, Validate) and decision.must and error.culprit is Culprit.ORIGIN and refused:
        error.status = 504
