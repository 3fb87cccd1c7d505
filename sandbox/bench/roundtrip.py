"""What the way from this process to a jailed worker and back adds to a request: the same request here and there, in turn."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sandbox.bench.guests import REQUEST
from sandbox.bench.machine import Warm
from sandbox.dispatch.policies import MonitorPolicy
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS, Limits
from sandbox.monitor import Monitor, NoEdge
from sandbox.program import Program

_ROUNDS: Final = 10
"""What else the machine does meets both sides."""
_LIMITS: Final[Limits] = replace(DEFAULT_LIMITS, cpu_ns=SECOND_NS, wall_ns=60 * SECOND_NS)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Medians in microseconds, measured in turn."""

    resident_call_us: float
    """A request to a warm VM in this process, reset included."""
    monitor_call_us: float
    """The same request to a warm VM in a worker, from `Monitor.call` to the end of its answer."""

    @property
    def added_us(self) -> float:
        return self.monitor_call_us - self.resident_call_us


def measure(program: Program, engine: str, calls: int) -> RoundTrip:
    """One request after another, on the event loop that the edge uses. Raises as `machine.measure`, and GuestFailed."""
    with Warm(program, engine) as warm, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_measure(program, engine, calls, warm))


async def _measure(program: Program, engine: str, calls: int, warm: Warm) -> RoundTrip:
    here: list[float] = []
    there: list[float] = []
    async with Monitor(MonitorPolicy(engine=engine)) as monitor:
        monitor.register("page", program, _LIMITS, tenant="bench")
        for _ in range(max(1, calls // _ROUNDS)):
            warm.call()
            await _call(monitor)
        for _ in range(_ROUNDS):
            here += [warm.call() for _ in range(max(1, calls // _ROUNDS))]
            there += [await _call(monitor) for _ in range(max(1, calls // _ROUNDS))]
    return RoundTrip(round(1e6 * statistics.median(here), 1), round(1e6 * statistics.median(there), 1))


async def _call(monitor: Monitor) -> float:
    """Seconds that one request takes."""
    started = time.perf_counter()
    async for _ in monitor.call("page", REQUEST, edge=NoEdge(), log=lambda _: None):
        pass
    return time.perf_counter() - started


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is one, as the edge does."""
    try:
        import uvloop  # noqa: PLC0415 (not on every platform)
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
