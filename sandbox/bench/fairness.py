"""CPU time promised against CPU time received, by generators that use all they get, through the real monitor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.bench.guests import REQUEST
from sandbox.call import GuestCall
from sandbox.dispatch.policies import DispatchPolicy, Isolation, MonitorPolicy, PoolPolicy
from sandbox.errors import GuestFailed, SandboxError
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS, Limits
from sandbox.monitor import Monitor, NoEdge
from sandbox.program import Program

SLOTS: Final = 2
"""Workers that may run at once."""
_EVEN: Final = 100_000
"""Everybody's weight while workers start and programs boot: so large that in virtual time nobody is ahead of others when the
weights to measure are set. What is measured is that live change, too."""
_SETTLE_S: Final = 0.1
"""Within which a change of weights has to take effect."""
_LIMITS: Final[Limits] = replace(DEFAULT_LIMITS, cpu_ns=600 * SECOND_NS, wall_ns=600 * SECOND_NS, vms=1, queue=1)


@dataclass(frozen=True, slots=True)
class Shares:
    """What each generator was promised and what it received."""

    weights: tuple[int, ...]
    """At the end."""
    received_ns: tuple[int, ...]
    """Over the whole of the measurement, as the kernel counted it for the worker."""
    samples: tuple[tuple[float, tuple[int, ...]], ...]
    """Seconds since the start, and nanoseconds received by then: for a plot of shares over time."""
    first_weights: tuple[int, ...]
    """Before the change, where there was one."""
    changed_s: float | None = None
    """When weights were changed."""

    @property
    def error(self) -> float:
        """Sum of |received - promised|, as a fraction of the CPU time given out; of weights that stayed as they were."""
        return share_error(self.weights, self.received_ns)


def share_error(weights: Sequence[int], received_ns: Sequence[int]) -> float:
    """Sum of |received - promised| over the CPU time given out. Raises SandboxError when none was given out."""
    given, promised = sum(received_ns), sum(weights)
    if not given:
        raise SandboxError("no CPU time was given out")
    return sum(abs(got - given * weight / promised) for weight, got in zip(weights, received_ns, strict=True)) / given


async def measure(
    program: Program, weights: Sequence[int], *, engine: str, seconds: float, change: Mapping[int, int] | None = None
) -> Shares:
    """Let one generator for each weight, each in a worker of its own, saturate SLOTS slots for `seconds`.

    Their weights are set when all of them run; `change`: further weights by position, set at half the time.
    Raises SandboxError: one of them ended.
    """
    pool = PoolPolicy(max_workers=len(weights), idle_s=600.0)
    policy = MonitorPolicy(engine=engine, isolation=Isolation.GENERATOR, dispatch=DispatchPolicy(slots=SLOTS, pool=pool))
    async with Monitor(policy) as monitor:
        for position in range(len(weights)):
            monitor.register(f"{position}", program, _LIMITS, tenant="bench")
            monitor.set_weight(f"{position}", _EVEN)
        calls = [monitor.call(f"{position}", REQUEST, edge=NoEdge(), log=lambda _: None) for position in range(len(weights))]
        readers = [asyncio.create_task(_read(call)) for call in calls]
        try:
            return await _watch(monitor, calls, list(weights), seconds, change or {})
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


async def _watch(
    monitor: Monitor, calls: Sequence[GuestCall], weights: list[int], seconds: float, change: Mapping[int, int]
) -> Shares:
    received = _counter(monitor)
    while any(status.active == 0 for status in monitor.status().generators):
        _check(calls)
        await asyncio.sleep(0.05)
    for position, weight in enumerate(weights):
        monitor.set_weight(f"{position}", weight)
    await asyncio.sleep(_SETTLE_S)
    before, started = received(), time.perf_counter()
    samples: list[tuple[float, tuple[int, ...]]] = []
    first_weights = tuple(weights)
    changed_s = None
    while (at := time.perf_counter() - started) < seconds:
        samples.append((at, tuple(now - then for now, then in zip(received(), before, strict=True))))
        if change and changed_s is None and at >= seconds / 2:
            for position, weight in change.items():
                monitor.set_weight(f"{position}", weight)
                weights[position] = weight
            changed_s = at
        await asyncio.sleep(0.05)
    _check(calls)
    total = tuple(now - then for now, then in zip(received(), before, strict=True))
    return Shares(tuple(weights), total, tuple(samples), first_weights, changed_s)


def _counter(monitor: Monitor) -> Callable[[], list[int]]:
    return lambda: [generator.cpu_ns for generator in monitor.status().generators]


def _check(calls: Sequence[GuestCall]) -> None:
    for call in calls:
        if call.outcome is not None:
            raise SandboxError(f"a saturating generator ended: {GuestFailed(call.outcome)}")


async def _read(call: GuestCall) -> None:
    async for _ in call:
        pass
