"""Misses without a task: the source is asked at once, and a response that has come whole is judged, stored and answered in one
call, where it arrives.

Only plain ones are so. Any other goes on as a flight like all others, from where it is: nothing is asked twice. `pipeline` says
which requests are misses, `turnstile` has them run and writes what they bring.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

from edgecache.observe.record import HTTP_1, Record
from edgecache.policy.coding import code
from edgecache.policy.forwarding import NotForwardable, dated
from edgecache.policy.freshness import age_field
from edgecache.policy.lookup import Miss
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.storing import NoStore, NoStoreReason, admit, strip
from edgecache.policy.trailing import wants_trailers
from edgecache.serve.call import Asked, Call, flight_key
from edgecache.serve.client_body import CLIENT_GONE
from edgecache.serve.elsewhere import Claim, Elsewhere
from edgecache.serve.misses.fetching import Fetcher
from edgecache.serve.misses.forwarded import forwarded
from edgecache.serve.misses.keeping import Keeper
from edgecache.serve.misses.long_bodies import LongBodies
from edgecache.serve.request_id import next_request_id
from edgecache.serve.respond import CacheOutcome, Responder, suits_plain
from edgecache.serve.settings import ServeSettings
from edgecache.serve.wire import KEEP_ALIVE_10, head_block
from edgecache.sites import Route, Site
from edgecache.source import Begun, Interim, Reply, Source, SourceError, Whole
from edgecache.store import Store
from edgecache.upstream.flights.collapse import Flights, Seat
from edgecache.upstream.flights.predictor import Predictor
from edgecache.upstream.flights.reserving import Reservation
from edgecache.upstream.http1.body import BytesBody

_log = logging.getLogger(__name__)


class Errand:
    """One miss under way. Its holder hears by `tell`, or gives it up by `Errands.abandon`."""

    __slots__ = (
        "_hints",
        "_on_interim",
        "asked",
        "begun",
        "call",
        "claim",
        "decision",
        "in_turn",
        "key",
        "seat",
        "sent",
        "since",
        "tell",
    )

    def __init__(
        self,
        call: Call,
        decision: Miss,
        key: Hashable | None,
        seat: Reservation[Seat],
        sent: Request,
        *,
        claim: Claim | None,
        since: int,
        asked: float,
        tell: Callable[[bytes | None], None],
    ) -> None:
        """`key`: what the predictor learns about; `claim`: held for it where other processes may want the same; `since`: how many
        purges there had been at `asked`, seconds since the epoch."""
        self.call = call
        self.decision = decision
        self.key = key
        self.seat = seat
        self.claim = claim
        self.sent = sent
        self.since = since
        self.asked = asked
        self.tell = tell
        self.begun: Begun | None = None
        self.in_turn = False
        """The answer is not for `tell`: the connection has more to write than that, and a turn writes both."""
        self._hints: list[Response] = []
        self._on_interim: Interim | None = None

    @property
    def alone(self) -> bool:
        """Whether nobody else waits for what it brings, here or in another process."""
        return self.seat.alone and not (self.claim is not None and self.claim.awaited)

    def hint(self, response: Response) -> None:
        """Keep an interim response for the client until `pass_on` says where it goes. A source lets only a few pass."""
        if self._on_interim is not None:
            self._on_interim(response)
        else:
            self._hints.append(response)

    def pass_on(self, on_interim: Interim | None) -> None:
        """Send interim responses there, those that have come already too."""
        self._on_interim = on_interim
        hints, self._hints = self._hints, []
        if on_interim is not None:
            for response in hints:
                on_interim(response)


class Errands:
    """The errands of one process. `respond` and `settings` may be replaced."""

    def __init__(
        self,
        *,
        origins: Callable[[Site], Source],
        generators: Callable[[Call], Source],
        flights: Flights,
        fetcher: Fetcher,
        keeper: Keeper,
        long_bodies: LongBodies,
        store: Store,
        predictor: Predictor,
        report: Callable[[Record], None],
        clock: Callable[[], float],
        settings: ServeSettings,
        respond: Responder,
        elsewhere: Elsewhere | None,
    ) -> None:
        self._origins = origins
        self._generators = generators
        self._flights = flights
        self._fetcher = fetcher
        self._keeper = keeper
        self._under_way = long_bodies.under_way
        self._purges = keeper.purges
        self._parts = keeper.parts
        self._store = store
        self._predictor = predictor
        self._heard = report
        self._clock = clock
        self.settings = settings
        self.respond = respond
        self._elsewhere = elsewhere
        self.answered = 0
        """Requests answered without a task since the start."""

    def begin(
        self, request: Request, route: Route, decision: Miss, client_ip: str, tell: Callable[[bytes | None], None]
    ) -> Errand | None:
        """Ask the source for a plain request (`shape.is_plain`), for which nothing is stored. None: it needs a flight, and
        nothing has been done.

        `tell` is called once, later: with the answer, or with None where a flight brings it, on which the errand has its seat.
        """
        if request.method != "GET" or request.target == "*" or not decision.collapse or route.rule.esi:
            return None
        if self._under_way or wants_trailers(request) or self._parts.find(request, route) is not None:
            return None
        now = self._clock()
        key = flight_key(request, route, self._store.vary(request.uri))
        shared = not self._predictor.uncacheable(key, now)
        seat = self._flights.reserve(key if shared else object())
        if seat is None:
            return None
        claim = None
        if shared and self._elsewhere is not None:
            claim = self._elsewhere.hold(key, request.uri)
            if claim is None:
                seat.vacate()
                return None
        call = Call(request=request, body=None, client_ip=client_ip, request_id=next_request_id(), route=route)
        learnt = key if shared else None
        try:
            sent = forwarded(call, self.settings, whole=shared)
            errand = Errand(call, decision, learnt, seat, sent, claim=claim, since=self._purges.now(), asked=now, tell=tell)
            source = self._origins(route.site) if route.generator is None else self._generators(call)
            errand.begun = source.begin(sent, call.request_id, partial(self._arrived, errand), errand.hint)
        except (NotForwardable, SourceError):
            _give_back(seat, claim)
            return None
        except Exception:
            # The flight would be reserved for ever, and whoever asks for the same would wait for it.
            _log.exception("%s could not be asked for at once", request.uri)
            _give_back(seat, claim)
            return None
        if errand.begun is None:
            _give_back(seat, claim)
            return None
        return errand

    def abandon(self, errand: Errand) -> None:
        """The client has gone."""
        begun, seat = errand.begun, errand.seat
        if begun is None:
            # It goes on as a flight, which the client has not come to wait for.
            seat.seat.leave_soon()
        elif seat.alone:
            errand.begun = None
            begun.drop()
            _give_back(seat, errand.claim)
        else:
            self._go_on(errand)
            seat.vacate()
        self._report(errand, CLIENT_GONE, 0, cache="none", reason="", truncated=True)

    def _arrived(self, errand: Errand) -> None:
        begun = errand.begun
        if begun is None:
            return
        try:
            whole = begun.whole() if errand.alone and not errand.in_turn else None
            answer = None if whole is None else self._answer(errand, begun, whole)
        except Exception:
            # Nobody up the stack could answer the client.
            _log.exception("the answer to %s is judged again, in a task", errand.call.request.uri)
            answer = None
        if answer is None:
            self._go_on(errand)
        else:
            errand.begun = None
            _give_back(errand.seat, errand.claim)
            self.answered += 1
        errand.tell(answer)

    def _go_on(self, errand: Errand) -> None:
        """Launch its flight, whose first answer is the one to what has been asked already."""
        begun, errand.begun = errand.begun, None
        if begun is None:
            raise ValueError("the errand is over")
        claim = errand.claim
        call = replace(errand.call, on_interim=errand.hint, asked=Asked(begun.rest(), errand.asked, errand.since, claim))

        def ended() -> None:
            begun.drop()
            if claim is not None:
                # It may never have flown.
                claim.settle(None)

        errand.seat.seat.launch(partial(self._fetcher.produce, call, errand.sent, None, None, errand.key), ended)

    def _answer(self, errand: Errand, begun: Begun, whole: Whole) -> bytes | None:
        """The answer for the client, stored and reported already. None: a flight has to judge it, and nothing has been done."""
        call, rule = errand.call, errand.call.route.rule
        request, body, now = call.request, whole.body, self._clock()
        above = self._store.spool_above
        if whole.response.status == 206 or len(body) > rule.max_object_bytes or (above is not None and len(body) > above):
            return None
        response = dated(whole.response, now)
        if code(request, response, rule.compress)[0] is not response:
            return None
        timed = Timed(response, errand.asked, now)
        admitted = admit(request, timed, rule)
        if isinstance(admitted, NoStore):
            return self._passed(errand, begun, timed, admitted.reason, whole)
        vary = self._keeper.merged_vary(request.uri, admitted.vary)
        entry = self._keeper.entry(call, Timed(strip(response), errand.asked, now), admitted, body, vary)
        if not suits_plain(call, entry):
            return None
        age = now - admitted.terms.born
        answer = b"%b%b%b%b\r\n%b" % (
            entry.head,
            b"Age: %b\r\n" % age_field(age).encode() if age >= 1 else b"",
            self.respond.stored_fields(errand.decision, call.request_id, whole.detail),
            KEEP_ALIVE_10 if request.version == "1.0" else b"",
            body,
        )
        # What counts comes last: it would be counted again if this failed on the way.
        self._keeper.keep(entry, errand.since)
        if errand.key is not None:
            self._predictor.forget(errand.key)
        begun.settle()
        self._report(errand, response.status, len(body), cache="miss", reason="")
        return answer

    def _passed(self, errand: Errand, begun: Begun, timed: Timed, reason: NoStoreReason, whole: Whole) -> bytes:
        """As `respond.passed`, for a response that is not stored."""
        call, body = errand.call, whole.body
        self._fetcher.refused(call, timed, None, reason, errand.key, since=errand.since)
        reply = Reply(timed.response, BytesBody(body), whole.detail)
        answer = self.respond.passed(call, errand.decision, reply, reply.body, CacheOutcome("miss", reason))
        http10 = call.request.version == "1.0"
        said = head_block(answer, length=len(body), chunked=False, keep_alive=True, http10=http10) + body
        begun.settle()
        self._report(errand, timed.response.status, len(body), cache="miss", reason=reason)
        return said

    def _report(self, errand: Errand, status: int, size: int, *, cache: str, reason: str, truncated: bool = False) -> None:
        call = errand.call
        self._heard(
            Record(
                time=errand.asked,
                request_id=call.request_id,
                client=call.client_ip,
                method=call.request.method,
                uri=call.request.uri,
                protocol=HTTP_1,
                status=status,
                bytes_sent=size,
                duration=max(0.0, self._clock() - errand.asked),
                cache=cache,
                site=call.route.site.name,
                generator=call.route.generator.name if call.route.generator else None,
                cpu_ns=call.meter.cpu_ns,
                reason=reason,
                truncated=truncated,
            )
        )


def _give_back(seat: Reservation[Seat], claim: Claim | None) -> None:
    """It has brought nothing that others wait for."""
    seat.vacate()
    if claim is not None:
        claim.settle(None)
