"""Requests that the monitor ends: by their limits, their deadlines, their guests' faults, or for want of a program."""

from __future__ import annotations

import asyncio

import pytest

from sandbox import (
    Convention,
    End,
    GuestFailed,
    Monitor,
    Program,
)
from sandbox.limits import MILLISECOND_NS, SECOND_NS
from tests.integration.monitor_support import (
    BOOT_FAULTS,
    BOOT_SPINS,
    Edge,
    ask,
    begin,
    ending,
    limits,
    resident,
)


class TestLimits:
    async def fails(self, path: str, end: End, **changes: int) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(**changes), tenant="shop")
            assert await ask(monitor, "/ok") == b"ok"
            outcome = await ending(begin(monitor, path))
            assert outcome.end is end, outcome
            assert await ask(monitor, "/ok") == b"ok"
            assert monitor.status().workers_lost == 0

    async def test_cpu(self) -> None:
        await self.fails("/spin", End.CPU_LIMIT, cpu_ns=50 * MILLISECOND_NS)

    async def test_wall_while_running(self) -> None:
        await self.fails("/spin", End.WALL_LIMIT, wall_ns=SECOND_NS)

    async def test_wall_while_waiting_for_the_edge(self, monitor: Monitor) -> None:
        monitor.register("short", resident(), limits(wall_ns=SECOND_NS), tenant="shop")
        edge = Edge()
        edge.release.clear()
        outcome = await ending(begin(monitor, "/fetch", key="short", edge=edge))
        assert outcome.end is End.WALL_LIMIT
        assert outcome.usage.edge_calls == 1

    async def test_output(self) -> None:
        await self.fails("/flood", End.OUTPUT_LIMIT)

    async def test_fault(self) -> None:
        await self.fails("/fault", End.FAULT)

    async def test_no_answer(self) -> None:
        await self.fails("/silent", End.NO_ANSWER)

    async def test_exit(self) -> None:
        await self.fails("/exit", End.EXIT_STATUS)

    async def test_sub_requests(self) -> None:
        await self.fails("/fetch", End.EDGE_CALL_LIMIT, sub_requests=0)

    async def test_a_full_queue_refuses_at_once_and_the_rest_is_served(self, monitor: Monitor) -> None:
        monitor.register("narrow", resident(), limits(vms=1, queue=2), tenant="shop")
        edge = Edge()
        edge.release.clear()
        first = asyncio.create_task(ask(monitor, "/fetch", key="narrow", edge=edge))
        await edge.entered.wait()
        waiting = [asyncio.create_task(ask(monitor, "/ok", key="narrow")) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await ending(begin(monitor, "/ok", key="narrow"))).end is End.QUEUE_FULL
        edge.release.set()
        assert await asyncio.gather(first, *waiting) == [b"fetched", b"ok", b"ok"]

    async def test_a_queued_request_meets_its_deadline_too(self, monitor: Monitor) -> None:
        monitor.register("narrow", resident(), limits(vms=1, wall_ns=SECOND_NS), tenant="shop")
        edge = Edge()
        edge.release.clear()
        ends = await asyncio.gather(*(ending(begin(monitor, "/fetch", key="narrow", edge=edge)) for _ in range(2)))
        assert [outcome.end for outcome in ends] == [End.WALL_LIMIT] * 2

    @pytest.mark.parametrize("source", [BOOT_SPINS, BOOT_FAULTS])
    async def test_a_program_that_does_not_boot_fails_those_who_asked(self, monitor: Monitor, source: str) -> None:
        monitor.register("broken", resident(source), limits(boot_cpu_ns=50 * MILLISECOND_NS), tenant="shop")
        outcome = await ending(begin(monitor, "/", key="broken"))
        assert outcome.end is End.BOOT_FAILED
        assert outcome.detail
        assert await ask(monitor, "/ok") == b"ok"

    async def test_a_program_that_is_none_is_rejected_with_the_reason(self, monitor: Monitor) -> None:
        monitor.register("text", Program(b"#!/bin/sh\n", Convention.CGI), limits(), tenant="shop")
        outcome = await ending(begin(monitor, "/", key="text"))
        assert outcome.end is End.REJECTED
        assert "ELF" in outcome.detail

    async def test_an_unknown_generator_is_told(self, monitor: Monitor) -> None:
        with pytest.raises(GuestFailed) as failed:
            await ask(monitor, "/", key="nobody")
        assert failed.value.outcome.end is End.UNKNOWN_GENERATOR
