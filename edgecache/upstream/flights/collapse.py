"""Request collapsing: one flight a key, its landing shared by all who boarded. No policy: the producer says what may be shared.

`serve.misses.flying` boards; what cannot be shared goes to one seat, and all others are released at once to go on their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

from edgecache.policy.message import Response
from edgecache.source import Body, Culprit, Reply, SourceError
from edgecache.upstream.background import Background
from edgecache.upstream.flights.reserving import Reservation
from edgecache.upstream.flights.shared_body import BufferBudget, SharedBody, SharedReader, again
from edgecache.upstream.settings import UpstreamSettings


class Storing(Protocol):
    """What becomes of a body that is shared while it is stored. A flight calls it, in its own task."""

    def fresh(self) -> bool:
        """Whether it may answer those who come while its body is on its way."""

    def kept(self) -> bool:
        """Whether what has arrived is being stored by somebody else, whatever its length."""

    def spoiled(self) -> None:
        """The body is not kept whole any longer: it, or all that are on their way together, has outgrown the limit."""

    def commit(self, body: bytes) -> object:
        """Store the complete body; returns what was stored."""

    def interrupted(self, beginning: bytes) -> None:
        """The body broke off or was given up after this, which is at most `Shareable.resumable_bytes`."""

    def ended(self) -> None:
        """The last call, however the flight ended."""


@dataclass(frozen=True, slots=True)
class Shareable:
    """A response that is being stored."""

    response: Response
    body: Body
    limit_bytes: int
    """Of a longer body nothing is committed."""
    storing: Storing
    token: Any
    """Opaque here: by it, those who boarded tell whether it answers them."""
    length: int | None
    """Content-Length, where known."""
    joinable: bool = True
    """False: stored, but for one seat only (it may not answer others without validation)."""
    resumable_bytes: int = 0
    """0: of a body that breaks off nothing is of use."""


@dataclass(frozen=True, slots=True)
class Private:
    """A response for one client alone."""

    reply: Reply
    reason: str = ""
    """Why it is not shared."""


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer without a body of its own: a stored entry that was validated."""

    value: Any
    since: int = 0
    expected: Any = None
    """Opaque here, both: by them, those who boarded tell whether it was asked for too early for them."""
    joinable: bool = True
    stored: bool = True
    """False: validated for this once."""


Landing = Shareable | Private | Settled


@dataclass(frozen=True, slots=True)
class SharedReply:
    """A seat's view of a shareable landing."""

    response: Response
    body: Body
    token: Any
    late: bool
    """Boarded after the head had arrived."""
    kept: Any = None
    """What `commit` has returned, where the body has ended already."""


@dataclass(frozen=True, slots=True)
class Released:
    """Somebody else's private response: go on alone."""


Landed = SharedReply | Private | Settled | Released


class _Flight:
    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.landing: asyncio.Future[Landing] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[object] | None = None
        self.seats: list[Seat] = []
        self.claimed = False
        self.shared: SharedBody | None = None
        self.kept: object = None

    def boardable(self) -> bool:
        if not self.landing.done():
            return True
        if self.shared is None or not self.shared.whole or self.claimed:
            return False
        landing = self.landing.result()
        return isinstance(landing, Shareable) and landing.storing.fresh()

    def land(self, landing: Landing) -> None:
        """Give every waiting seat its place on the body before its first byte can be dropped."""
        if isinstance(landing, Shareable) and self.shared is not None:
            self.claimed = not landing.joinable
            for seat in self.seats:
                if landing.joinable or seat.first:
                    seat.reader = self.shared.reader()
        self.landing.set_result(landing)
        self.announce()

    def announce(self) -> None:
        """Wake the seats: the landing is known."""
        for seat in self.seats:
            if seat.landing is not None and not seat.landing.done():
                seat.landing.set_result(None)

    def worth_finishing(self, share: float) -> bool:
        """Whether `share` of a body that is being stored has arrived."""
        landing = self.landing.result() if self.shared is not None else None
        if self.shared is None or not isinstance(landing, Shareable) or not (self.shared.whole or landing.storing.kept()):
            return False
        length = landing.length
        return share == 0 or (length is not None and self.shared.received >= length * share)


class Seat:
    """One client's place on a flight. `leave` when done with what it landed with; idempotent."""

    def __init__(self, flights: Flights, flight: _Flight, *, first: bool) -> None:
        self._flights = flights
        self._flight = flight
        self.first = first
        self._late = flight.landing.done()
        self._left = False
        self.landing: asyncio.Future[None] | None = None
        """What `landed` waits for, while it waits."""
        self.reader: SharedReader | None = flight.shared.reader() if flight.shared is not None else None
        flight.seats.append(self)

    async def landed(self) -> Landed:
        """Wait for the head. Raises the producer's SourceError, a fresh one for each seat."""
        flight = self._flight
        if not flight.landing.done():
            self.landing = asyncio.get_running_loop().create_future()
            await self.landing
        try:
            landing = flight.landing.result()
        except SourceError as error:
            raise again(error) from None
        match landing:
            case Shareable():
                if self.reader is None:
                    return Released()
                return SharedReply(landing.response, self.reader, landing.token, self._late, flight.kept)
            case Settled(joinable=True):
                return landing
            case Private() | Settled():
                # It was asked for with the first one's fields, its cookies among them.
                if flight.claimed or not self.first:
                    return Released()
                flight.claimed = True
                return landing
            case _:
                assert_never(landing)

    @property
    def alone(self) -> bool:
        """Whether nobody else is aboard."""
        return len(self._flight.seats) == 1

    def launch(self, produce: Callable[[], Awaitable[Landing]], ended: Callable[[], None]) -> None:
        """Start a reserved flight. `ended` is called at its end, even if `produce` was never run."""
        self._flights._launch(self._flight, produce, ended)

    def vacate(self) -> None:
        """Leave a reserved flight: it is over unless others are aboard, for whom it must have been launched."""
        self._left = True
        self._flight.seats.remove(self)
        if not self._flight.seats:
            self._flights._drop(self._flight)

    def leave_soon(self) -> None:
        """As `leave`, for callers that cannot await."""
        self._flights._tasks.start(self, self.leave())

    async def leave(self, *, finish: bool = False) -> None:
        """Done with it; idempotent. `finish`: a body that is being stored is worth fetching to its end."""
        if self._left:
            return
        self._left = True
        if self.reader is not None:
            await self.reader.close()
        await self._flights._leave(self._flight, self, finish=finish)


class Flights:
    """All flights of one edge."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._flights: dict[Hashable, _Flight] = {}
        self._reserved: dict[Hashable, Reservation[Seat]] = {}
        """Reservations of flights that have not been made."""
        self._budget = BufferBudget(settings.flight_buffer_bytes)
        self._tasks = Background(limit=2**31)
        self.joined = 0
        """Seats that were taken on somebody else's flight, since the start."""

    def change(self, settings: UpstreamSettings) -> None:
        """Go on with these; flights under way keep what they began with."""
        self._settings = settings
        self._budget.capacity_bytes = settings.flight_buffer_bytes

    def board(self, key: Hashable, produce: Callable[[], Awaitable[Landing]]) -> Seat:
        """A seat on the flight of `key`; `produce` is run, in a task of its own, only where there is none.

        SourceError when the edge is shutting down.
        """
        if (reserved := self._reserved.get(key)) is not None:
            # Somebody has asked for it already, and is no longer alone.
            _ = reserved.seat
        flight = self._flights.get(key)
        if flight is not None and flight.boardable():
            self.joined += 1
            return Seat(self, flight, first=False)
        flight = _Flight(key)
        seat = Seat(self, flight, first=True)
        task = self._tasks.start(flight, self._fly(flight, produce))
        if task is None:
            raise SourceError(Culprit.EDGE, "shutting-down", status=503)
        flight.task = task
        self._flights[key] = flight
        return seat

    def reserve(self, key: Hashable) -> Reservation[Seat] | None:
        """The first seat on a flight of `key` that waits to be launched; others may board it. None: there is one already.

        The reservation's holder has its seat launched or vacates it before long.
        """
        if key in self._flights or key in self._reserved:
            return None
        return Reservation(key, self._reserved, self._occupy)

    def _occupy(self, key: Hashable) -> Seat:
        flight = self._flights[key] = _Flight(key)
        return Seat(self, flight, first=True)

    def __len__(self) -> int:
        return len(self._flights) + len(self._reserved)

    async def close(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109 - handed to the flights
        await self._tasks.close(timeout)
        # A task that was cancelled before its first step has told nobody.
        for flight in [flight for flight in self._flights.values() if flight.task is not None]:
            self._drop(flight)
            _fail(flight, SourceError(Culprit.EDGE, "aborted", status=503))

    def _launch(self, flight: _Flight, produce: Callable[[], Awaitable[Landing]], ended: Callable[[], None]) -> None:
        flight.task = self._tasks.start(flight, self._fly(flight, produce))
        if flight.task is not None:
            flight.task.add_done_callback(lambda _task: ended())
            return
        self._drop(flight)
        _fail(flight, SourceError(Culprit.EDGE, "shutting-down", status=503))
        ended()

    async def _fly(self, flight: _Flight, produce: Callable[[], Awaitable[Landing]]) -> None:
        try:
            landing = await produce()
            if isinstance(landing, Shareable):
                await self._stream(flight, landing)
            else:
                self._drop(flight)
                flight.land(landing)
        except SourceError as error:
            self._drop(flight)
            _fail(flight, error)
        finally:
            self._drop(flight)
            _fail(flight, SourceError(Culprit.EDGE, "aborted", status=503))

    async def _stream(self, flight: _Flight, landing: Shareable) -> None:
        shared = SharedBody(limit_bytes=landing.limit_bytes, window_bytes=self._settings.flight_window_bytes, budget=self._budget)
        flight.shared = shared
        flight.land(landing)
        if not landing.joinable:
            self._drop(flight)
        try:
            async for chunk in landing.body:
                await shared.feed(chunk)
                if not shared.whole and self._flights.get(flight.key) is flight:
                    self._drop(flight)
                    landing.storing.spoiled()
            if (content := shared.content()) is not None:
                flight.kept = landing.storing.commit(content)
            shared.finish()
        except BaseException as error:
            if (beginning := shared.beginning(landing.resumable_bytes)) is not None:
                landing.storing.interrupted(beginning)
            shared.fail(error)
            if not isinstance(error, SourceError):
                raise
        finally:
            landing.storing.ended()
            shared.release()
            await landing.body.close()

    async def _leave(self, flight: _Flight, seat: Seat, *, finish: bool) -> None:
        flight.seats.remove(seat)
        if flight.seats:
            return
        if flight.landing.done() and flight.landing.exception() is None:
            landing = flight.landing.result()
            if isinstance(landing, Private) and not flight.claimed:
                flight.claimed = True
                await landing.reply.body.close()
        share = 0.0 if finish else self._settings.finish_without_clients_share
        if flight.task is not None and not flight.task.done() and not flight.worth_finishing(share):
            self._drop(flight)
            flight.task.cancel()

    def _drop(self, flight: _Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


def _fail(flight: _Flight, error: SourceError) -> None:
    if not flight.landing.done():
        flight.landing.set_exception(error)
        flight.landing.exception()
        flight.announce()
