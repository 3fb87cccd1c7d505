"""Readers of a guest's answer: those who stop, go away, or never come."""

from __future__ import annotations

import asyncio

import pytest

from sandbox import (
    DispatchPolicy,
    End,
    GuestFailed,
    Monitor,
    MonitorPolicy,
)
from sandbox.limits import SECOND_NS
from tests.integration.monitor_support import (
    Edge,
    ask,
    begin,
    ending,
    limits,
    read,
    resident,
    until,
)


class TestReaders:
    async def test_a_reader_that_stops_stops_the_guest_and_its_deadline(self) -> None:
        policy = MonitorPolicy(dispatch=DispatchPolicy(undelivered_bytes=100_000))
        async with Monitor(policy) as monitor:
            monitor.register("probe", resident(), limits(wall_ns=2 * SECOND_NS), tenant="shop")
            call = begin(monitor, "/stream")
            await until(lambda: call.state.value == "stalled")
            assert 100_000 < call.output_bytes <= 300_000
            await asyncio.sleep(2.5)  # longer than the deadline, which does not run for those who wait for a reader
            assert await ask(monitor, "/ok") == b"ok"
            received = sum([len(chunk) async for chunk in call])
            assert received == 64 * 65536

    async def test_a_reader_that_never_comes_back_is_given_up(self) -> None:
        policy = MonitorPolicy(dispatch=DispatchPolicy(undelivered_bytes=100_000, reader_s=0.1))
        async with Monitor(policy) as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            call = begin(monitor, "/stream")
            await until(lambda: call.outcome is not None)
            assert call.outcome is not None
            assert call.outcome.end is End.CANCELLED

    async def test_closing_ends_the_request_and_discards_its_vm(self, monitor: Monitor) -> None:
        call = begin(monitor, "/start-then-spin")
        assert await anext(call) == b"head"
        await call.aclose()
        await call.aclose()
        assert call.outcome is not None
        assert call.outcome.end is End.CANCELLED
        with pytest.raises(GuestFailed):
            await anext(call)
        await until(lambda: monitor.status().generators[0].active == 0)
        assert await ask(monitor, "/count") == b"clean"

    @pytest.mark.parametrize("path", ["/spin", "/fetch"])
    async def test_cancelling_the_reader_ends_the_request(self, monitor: Monitor, path: str) -> None:
        edge = Edge()
        edge.release.clear()
        call = begin(monitor, path, edge=edge)
        reader = asyncio.create_task(read(call))
        await until(lambda: monitor.status().generators[0].active == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert call.outcome is not None
        assert call.outcome.end is End.CANCELLED
        await until(lambda: monitor.status().generators[0].active == 0)
        assert await ask(monitor, "/ok") == b"ok"

    async def test_closing_a_request_that_still_waits_takes_it_from_the_queue(self, monitor: Monitor) -> None:
        calls = [begin(monitor, "/ok") for _ in range(3)]
        await calls[1].aclose()
        assert [(await ending(call)).end for call in calls] == [End.FINISHED, End.CANCELLED, End.FINISHED]
