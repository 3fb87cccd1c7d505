"""Misses without a task: the request goes to the origin on a kept connection, and a response that has come whole is judged,
stored and answered in one call, where it arrives.

Only plain ones are so. Any other goes on as a flight like all others, from where it is: nothing is asked twice. `pipeline` says
which requests are misses, `connection` has them run and writes what they bring.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

from edgecache.observe.record import HTTP_1, Record
from edgecache.policy.coding import code
from edgecache.policy.forwarding import NotForwardable, dated
from edgecache.policy.freshness import age_field
from edgecache.policy.lookup import Miss
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.storing import NoStore, admit, strip
from edgecache.policy.trailing import wants_trailers
from edgecache.serve.call import Asked, Call, flight_key
from edgecache.serve.client_body import CLIENT_GONE
from edgecache.serve.fetching import Fetcher
from edgecache.serve.forwarded import forwarded
from edgecache.serve.keeping import Keeper
from edgecache.serve.long_bodies import LongBodies
from edgecache.serve.request_id import next_request_id
from edgecache.serve.respond import Outcome, Responder, suits
from edgecache.serve.settings import ServeSettings
from edgecache.serve.wire import KEEP_ALIVE_10, head_block
from edgecache.sites import Route, Site
from edgecache.source import Interim, Reply
from edgecache.store import Store
from edgecache.upstream.begun import Begun
from edgecache.upstream.body import BytesBody
from edgecache.upstream.collapse import Flights, Seat
from edgecache.upstream.origins import Origins
from edgecache.upstream.predictor import Predictor
from edgecache.upstream.whole import WholeResponse

_MAX_HINTS = 16


class Errand:
    """One miss under way. Its holder hears by `tell`, or gives it up by `Errands.abandon`."""

    __slots__ = (
        "_hints",
        "_on_interim",
        "asked",
        "begun",
        "call",
        "decision",
        "in_turn",
        "key",
        "origins",
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
        seat: Seat,
        sent: Request,
        *,
        origins: Origins,
        since: int,
        asked: float,
        tell: Callable[[bytes | None], None],
    ) -> None:
        """`key`: what the predictor learns about; `since`: purges before it was asked, at the time `asked`."""
        self.call = call
        self.decision = decision
        self.key = key
        self.seat = seat
        self.sent = sent
        self.origins = origins
        self.since = since
        self.asked = asked
        self.tell = tell
        self.begun: Begun | None = None
        self.in_turn = False
        """The answer must not be for `tell`, whatever it is: its connection has more to say than that."""
        self._hints: list[Response] = []
        self._on_interim: Interim | None = None

    def hint(self, response: Response) -> None:
        """An interim response: for the client, once somebody passes it on."""
        if self._on_interim is not None:
            self._on_interim(response)
        elif len(self._hints) < _MAX_HINTS:
            self._hints.append(response)

    def pass_on(self, on_interim: Interim | None) -> None:
        """Have interim responses go there, those too that have come."""
        self._on_interim = on_interim
        hints, self._hints = self._hints, []
        if on_interim is not None:
            for response in hints:
                on_interim(response)


class Errands:
    """One process's. `respond` and `settings` may be replaced."""

    def __init__(
        self,
        *,
        origins: Callable[[Site], Origins],
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
    ) -> None:
        self._origins = origins
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
        self.answered = 0
        """Requests answered without a task since the start."""

    def begin(
        self, request: Request, route: Route, decision: Miss, client_ip: str, tell: Callable[[bytes | None], None]
    ) -> Errand | None:
        """Ask the origin for what is not stored at all. None: it is not so plain, and nothing has been done.

        `tell` is called once, later: with the answer, or with None where `resumed` has to bring it.
        """
        rule = route.rule
        if request.method != "GET" or request.target == "*" or not decision.collapse or route.generator is not None or rule.esi:
            return None
        if self._under_way or wants_trailers(request) or self._parts.find(request, route) is not None:
            return None
        now = self._clock()
        key = flight_key(request, route, self._store.vary(request.uri))
        shared = not self._predictor.uncacheable(key, now)
        seat = self._flights.reserve(key if shared else object())
        if seat is None:
            return None
        call = Call(request=request, body=None, client_ip=client_ip, request_id=next_request_id(), route=route)
        origins = self._origins(route.site)
        try:
            sent = forwarded(call, self.settings, whole=shared)
        except NotForwardable:
            seat.vacate()
            return None
        errand = Errand(
            call,
            decision,
            key if shared else None,
            seat,
            sent,
            origins=origins,
            since=self._purges.count,
            asked=now,
            tell=tell,
        )
        errand.begun = origins.begin(sent, partial(self._arrived, errand), errand.hint)
        if errand.begun is None:
            seat.vacate()
            return None
        return errand

    def abandon(self, errand: Errand) -> None:
        """The client has gone."""
        begun, seat = errand.begun, errand.seat
        if begun is None:
            # It goes on as a flight, which the client has not come to wait for.
            seat.leave_soon()
        elif seat.alone:
            errand.begun = None
            begun.drop()
            seat.vacate()
        else:
            self._go_on(errand)
            seat.vacate()
        self._report(errand, CLIENT_GONE, 0, cache="none", reason="", truncated=True)

    def _arrived(self, errand: Errand) -> None:
        begun = errand.begun
        whole = None if begun is None or errand.in_turn or not errand.seat.alone else begun.whole
        answer = None if whole is None else self._answer(errand, whole)
        if answer is None:
            self._go_on(errand)
        elif begun is not None and whole is not None:
            errand.begun = None
            begun.settle(whole)
            errand.seat.vacate()
            self.answered += 1
        errand.tell(answer)

    def _go_on(self, errand: Errand) -> None:
        """Have it fly."""
        begun, errand.begun = errand.begun, None
        if begun is None:
            raise ValueError("the errand is over")
        asked = Asked(errand.origins.going_on(begun), errand.asked, errand.since)
        call = replace(errand.call, on_interim=errand.hint, asked=asked)
        errand.seat.launch(partial(self._fetcher.produce, call, errand.sent, None, None, errand.key), begun.drop)

    def _answer(self, errand: Errand, whole: WholeResponse) -> bytes | None:
        """What the client gets, and what is to be stored is stored. None: this is not for here, and nothing has been done."""
        call, rule = errand.call, errand.call.route.rule
        request, body, now = call.request, whole.body, self._clock()
        above = self._store.spool_above
        if whole.status == 206 or len(body) > rule.max_object_bytes or (above is not None and len(body) > above):
            return None
        response = dated(Response(whole.status, whole.reason, whole.headers), now)
        if code(request, response, rule.compress)[0] is not response:
            return None
        timed = Timed(response, errand.asked, now)
        admitted = admit(request, timed, rule)
        if isinstance(admitted, NoStore):
            self._fetcher.refused(call, timed, None, admitted.reason, errand.key)
            passed = Reply(response, BytesBody(body))
            outcome = Outcome("miss", admitted.reason)
            answer = self.respond.passed(call, errand.decision, passed, passed.body, outcome)
            self._report(errand, whole.status, len(body), cache="miss", reason=admitted.reason)
            return head_block(answer, length=len(body), chunked=False, keep_alive=True, http10=request.version == "1.0") + body
        stored = Timed(strip(response), errand.asked, now)
        vary = self._keeper.merged_vary(request.uri, admitted.vary)
        entry = self._keeper.entry(call, stored, admitted, body, vary)
        if not suits(call, entry):
            return None
        self._keeper.keep(entry, errand.since)
        if errand.key is not None:
            self._predictor.forget(errand.key)
        self._report(errand, whole.status, len(body), cache="miss", reason="")
        age = now - admitted.terms.born
        return b"%b%b%b%b\r\n%b" % (
            entry.head,
            b"Age: %b\r\n" % age_field(age).encode() if age >= 1 else b"",
            self.respond.stored_fields(errand.decision, call.request_id),
            KEEP_ALIVE_10 if request.version == "1.0" else b"",
            body,
        )

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
                reason=reason,
                truncated=truncated,
            )
        )
