"""Rates, with real VMs: output and calls above them wait, log above them is dropped and counted, and nobody else notices.

What is asserted of time is only that nothing was too fast: a slow machine cannot break that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sandbox import End, GuestRequest, Monitor, SiteShare
from sandbox.limits import DEFAULT_RATES, KIB, MIB, MILLISECOND_NS
from sandbox.monitor import NoEdge
from sandbox.status import GeneratorStatus
from tests.integration.monitor_support import Edge, ask, begin, ending, get, limits, read, resident, until

pytestmark = pytest.mark.timeout(300)

BURST_NS = 100 * MILLISECOND_NS
STREAMED = 64 * 64 * KIB
"""What /stream sends."""


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    async with Monitor() as monitor:
        yield monitor


def add(monitor: Monitor, key: str, *, tenant: str = "site", **rates: int) -> None:
    monitor.register(key, resident(), limits(rate_burst_ns=BURST_NS, **rates), tenant=tenant)


def status(monitor: Monitor, key: str) -> GeneratorStatus:
    return next(found for found in monitor.status().generators if found.key == key)


async def test_output_above_its_rate_waits_and_all_of_it_comes(monitor: Monitor) -> None:
    rate = 8 * MIB
    add(monitor, "probe", output_rate=rate)
    await ask(monitor, "/ok")
    started = time.monotonic()
    call = begin(monitor, "/stream")
    output = b"".join([chunk async for chunk in call])
    took = time.monotonic() - started
    assert len(output) == STREAMED
    assert len(output) <= rate * took + rate * BURST_NS / 1e9
    assert call.outcome is not None and call.outcome.ok
    assert status(monitor, "probe").delayed > 0


async def test_a_vm_whose_output_waits_uses_no_cpu_and_stops_nobody(monitor: Monitor) -> None:
    """Neither a generator of another site, nor one of the same site, in the same worker, nor the next request of its own."""
    add(monitor, "slow", output_rate=KIB)
    add(monitor, "sibling")
    add(monitor, "neighbour", tenant="other")
    for key in ("sibling", "neighbour"):
        await ask(monitor, "/ok", key=key)
    slow = begin(monitor, "/stream", key="slow")
    reader = asyncio.create_task(ending(slow))
    await until(lambda: slow.held)
    before = status(monitor, "slow").cpu_ns
    for key in ("sibling", "neighbour"):
        for _ in range(30):
            assert await ask(monitor, "/ok", key=key) == b"ok"
        assert status(monitor, key).delayed == 0
    assert not reader.done()
    assert slow.output_bytes < STREAMED
    assert status(monitor, "slow").cpu_ns == before
    await slow.aclose()
    assert (await reader).end is End.CANCELLED


async def test_what_waits_too_long_ends_with_its_wall_time(monitor: Monitor) -> None:
    monitor.register("probe", resident(), limits(output_rate=KIB, wall_ns=1500 * MILLISECOND_NS), tenant="site")
    outcome = await ending(begin(monitor, "/stream"))
    assert outcome.end is End.WALL_LIMIT
    await until(lambda: status(monitor, "probe").active == 0)


async def test_a_finished_vm_is_free_while_its_answer_is_on_its_way(monitor: Monitor) -> None:
    monitor.register("probe", resident(), limits(vms=1, output_rate=16 * KIB, rate_burst_ns=BURST_NS), tenant="site")
    await ask(monitor, "/ok")
    call = begin(monitor, "/twice")
    reader = asyncio.create_task(ending(call))
    await until(lambda: call.closing is not None)
    found = status(monitor, "probe")
    assert (found.active, call.outcome) == (0, None)
    await call.aclose()
    await reader


async def test_edge_calls_above_their_rate_wait(monitor: Monitor) -> None:
    add(monitor, "probe", edge_call_rate=5)
    await ask(monitor, "/ok")
    started = time.monotonic()
    assert await ask(monitor, "/kv", edge=Edge()) == b"get -2 put 0 get 5"
    assert time.monotonic() - started >= 2 / 5  # three calls, of which one may pass at once
    assert status(monitor, "probe").delayed == 2


async def test_sub_requests_above_their_rate_wait_and_have_a_rate_of_their_own(monitor: Monitor) -> None:
    add(monitor, "probe", sub_request_rate=5)
    edge = Edge()
    started = time.monotonic()
    answers = await asyncio.gather(*(ask(monitor, "/fetch", edge=edge) for _ in range(4)))
    assert answers == [b"fetched"] * 4
    assert time.monotonic() - started >= 3 / 5
    assert status(monitor, "probe").delayed == 3
    await ask(monitor, "/kv", edge=edge)
    assert status(monitor, "probe").delayed == 3


async def test_log_above_its_rate_is_dropped_counted_and_owned_up_to(monitor: Monitor) -> None:
    rate = 100
    monitor.register("probe", resident(), limits(log_rate=rate), tenant="site")
    lines: list[bytes] = []
    started = time.monotonic()
    dropped = 0
    request: GuestRequest = get("/log")
    for _ in range(60):
        call = monitor.call("probe", request, edge=NoEdge(), log=lines.append)
        assert await read(call) == b"logged"
        assert call.outcome is not None
        dropped += call.outcome.usage.log_dropped_bytes
    kept = sum(map(len, lines))
    assert kept <= rate + rate * (time.monotonic() - started)
    assert dropped == status(monitor, "probe").log_dropped_bytes > 0
    async with asyncio.timeout(60):
        while not any(b"of log dropped" in line for line in lines):
            await asyncio.sleep(1)
            await read(monitor.call("probe", get("/ok"), edge=NoEdge(), log=lines.append))


async def test_a_sites_generators_share_its_rate_which_changes_live(monitor: Monitor) -> None:
    for key in ("a", "b"):
        monitor.register(key, resident(), limits(), tenant="site")
    add(monitor, "neighbour", tenant="other")
    one_at_a_time = replace(DEFAULT_RATES, edge_calls=5, burst_ns=BURST_NS)
    monitor.set_tenant_share("site", SiteShare(rates=one_at_a_time))
    await asyncio.gather(*(ask(monitor, "/ok", key=key) for key in ("a", "b", "neighbour")))
    started = time.monotonic()
    answers = await asyncio.gather(*(ask(monitor, "/kv", key=key, edge=Edge()) for key in ("a", "b", "neighbour")))
    assert set(answers) == {b"get -2 put 0 get 5"}
    assert time.monotonic() - started >= 5 / 5
    assert status(monitor, "neighbour").delayed == 0
    delayed = status(monitor, "a").delayed + status(monitor, "b").delayed
    assert delayed >= 5
    monitor.set_tenant_share("site", SiteShare())
    await asyncio.sleep(0.2)
    await asyncio.gather(*(ask(monitor, "/kv", key=key, edge=Edge()) for key in ("a", "b")))
    assert status(monitor, "a").delayed + status(monitor, "b").delayed == delayed
