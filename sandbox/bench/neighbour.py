"""What a well-behaved generator's answers take alone, and beside others that never end: through the real monitor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.bench.guests import REQUEST
from sandbox.call import GuestCall
from sandbox.dispatch.policies import DispatchPolicy, MonitorPolicy, PoolPolicy
from sandbox.errors import GuestFailed, SandboxError
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS, Limits
from sandbox.monitor import Monitor, NoEdge
from sandbox.program import Program

LOOPING: Final = 20
_START_S: Final = 60.0
_WARM_UP: Final = 20
_ENDLESS: Final[Limits] = replace(DEFAULT_LIMITS, cpu_ns=600 * SECOND_NS, wall_ns=600 * SECOND_NS, vms=1, queue=1)
_PATIENT: Final[Limits] = replace(DEFAULT_LIMITS, cpu_ns=SECOND_NS, wall_ns=60 * SECOND_NS)


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds from the request to the end of its answer."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    alone: Latency
    beside: Latency
    looping: int
    """Sites whose one generator loops for ever, each with the same weight as the neighbour's."""


def latency(taken_s: list[float]) -> Latency:
    """Of a list that is not empty."""
    ordered = sorted(taken_s)
    return Latency(round(1e6 * ordered[len(ordered) // 2], 1), round(1e6 * ordered[int(len(ordered) * 0.99)], 1))


async def measure(page: Program, burner: Program, *, engine: str, calls: int, looping: int = LOOPING) -> Neighbourhood:
    """One request after another to `page`, `calls` of them alone and as many beside `looping` copies of `burner`.

    Raises SandboxError: a request failed, or a looping generator ended or never began.
    """
    pool = PoolPolicy(max_workers=looping + 1, idle_s=600.0)
    async with Monitor(MonitorPolicy(engine=engine, dispatch=DispatchPolicy(pool=pool))) as monitor:
        monitor.register("neighbour", page, _PATIENT, tenant="neighbour")
        await _timed(monitor, _WARM_UP)
        alone = await _timed(monitor, calls)
        for number in range(looping):
            monitor.register(f"looping{number}", burner, _ENDLESS, tenant=f"looping{number}")
        endless = [monitor.call(f"looping{number}", REQUEST, edge=NoEdge(), log=lambda _: None) for number in range(looping)]
        readers = [asyncio.create_task(_read(call)) for call in endless]
        try:
            await _all_active(monitor, endless)
            beside = await _timed(monitor, calls)
            _check(endless)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
    return Neighbourhood(latency(alone), latency(beside), looping)


async def _timed(monitor: Monitor, calls: int) -> list[float]:
    """Seconds that each took."""
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        async for _ in monitor.call("neighbour", REQUEST, edge=NoEdge(), log=lambda _: None):
            pass
        taken.append(time.perf_counter() - started)
    return taken


async def _all_active(monitor: Monitor, endless: Sequence[GuestCall]) -> None:
    deadline = time.monotonic() + _START_S
    while sum(status.active for status in monitor.status().generators if status.key != "neighbour") < len(endless):
        _check(endless)
        if time.monotonic() > deadline:
            raise SandboxError(f"{len(endless)} looping generators did not begin within {_START_S:g} s")
        await asyncio.sleep(0.05)


def _check(endless: Sequence[GuestCall]) -> None:
    for call in endless:
        if call.outcome is not None:
            raise SandboxError(f"a looping generator ended: {GuestFailed(call.outcome)}")


async def _read(call: GuestCall) -> None:
    async for _ in call:
        pass
