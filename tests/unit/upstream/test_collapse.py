"""Reserved places on flights: no flight is made for who stays alone, and who comes meanwhile shares it."""

from __future__ import annotations

import asyncio

from edgecache.source import SourceError
from edgecache.upstream.flights.collapse import Flights, Landing, Settled
from edgecache.upstream.settings import UpstreamSettings


async def _never() -> Landing:
    raise AssertionError("a second flight of the same key")


async def test_a_reservation_given_up_alone_leaves_nothing() -> None:
    flights = Flights(UpstreamSettings())
    reserved = flights.reserve("key")
    assert reserved is not None
    assert reserved.alone
    assert flights.reserve("key") is None
    assert len(flights) == 1
    reserved.vacate()
    assert len(flights) == 0
    again = flights.reserve("key")
    assert again is not None
    again.vacate()


async def test_who_boards_a_reserved_flight_waits_for_its_launch() -> None:
    flights = Flights(UpstreamSettings())
    reserved = flights.reserve("key")
    assert reserved is not None
    other = flights.board("key", _never)
    assert (reserved.alone, other.first, reserved.seat.first, len(flights)) == (False, False, True, 1)
    ended = asyncio.Event()

    async def produce() -> Landing:
        return Settled("value")

    reserved.seat.launch(produce, ended.set)
    for seat in (reserved.seat, other):
        assert await seat.landed() == Settled("value")
        await seat.leave()
    await ended.wait()
    assert len(flights) == 0
    await flights.close()


async def test_who_reserved_may_leave_others_on_the_launched_flight() -> None:
    flights = Flights(UpstreamSettings())
    reserved = flights.reserve("key")
    assert reserved is not None
    other = flights.board("key", _never)

    async def produce() -> Landing:
        return Settled("value")

    reserved.seat.launch(produce, lambda: None)
    reserved.vacate()
    assert await other.landed() == Settled("value")
    await other.leave()
    assert len(flights) == 0
    await flights.close()


async def test_closing_before_a_flight_has_begun_tells_all_who_boarded() -> None:
    for launched in (False, True):
        flights = Flights(UpstreamSettings())
        if launched:
            reserved = flights.reserve("key")
            assert reserved is not None
            first = reserved.seat
            first.launch(_never, lambda: None)
        else:
            first = flights.board("key", _never)
        waiting = [asyncio.ensure_future(seat.landed()) for seat in (first, flights.board("key", _never))]
        async with asyncio.timeout(5):
            await flights.close()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [(type(end), getattr(end, "status", 0)) for end in ended] == [(SourceError, 503)] * 2
        assert len(flights) == 0
