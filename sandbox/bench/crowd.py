"""Throughput of many generators, called in a Zipf pattern through the real monitor and its workers; what a parked one costs."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from sandbox.bench.guests import REQUEST
from sandbox.dispatch.policies import DispatchPolicy, MonitorPolicy, PoolPolicy
from sandbox.errors import GuestFailed, SandboxError
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS, Limits
from sandbox.monitor import Monitor, NoEdge
from sandbox.pages.footprint import available_bytes, proportional_bytes
from sandbox.program import Program

SITES: Final = 8
CLIENTS: Final = 32
"""Requests under way at once."""
_ROUNDS: Final = 10
_WARM_UP_S: Final = 240.0
"""A machine that is too small or too busy to warm all up in this time is measured with the rest cold."""
_LIMITS: Final[Limits] = replace(
    DEFAULT_LIMITS, cpu_ns=SECOND_NS, wall_ns=600 * SECOND_NS, memory_bytes=4 << 20, vms=1, queue=CLIENTS
)
"""One VM each, so that as many VMs as generators are warm."""


def zipf(count: int, seed: int = 1) -> Iterator[int]:
    """Ranks from 0 to count - 1, the k-th with probability in proportion to 1/k (Zipf's law, exponent 1)."""
    rng = random.Random(seed)  # noqa: S311 -- a load pattern
    weights = list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))
    ranks = range(count)
    while True:
        yield from rng.choices(ranks, cum_weights=weights, k=1024)


@dataclass(slots=True)
class Crowd:
    """A monitor with `count` generators, and how it has done so far."""

    monitor: Monitor
    count: int
    ranks: Iterator[int]
    answers: int = 0
    busy_s: float = 0.0

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answers / self.busy_s

    async def run(self, seconds: float) -> None:
        started = time.perf_counter()
        self.answers += await _call_all(self.monitor, _until(started + seconds, self.ranks))
        self.busy_s += time.perf_counter() - started


async def throughputs(program: Program, counts: Sequence[int], *, engine: str, seconds: float) -> dict[int, float]:
    """Answers a second by number of generators, each of which has been called before (as far as `_WARM_UP_S` allows).

    The crowds are alive together and loaded in turn, in `_ROUNDS` rounds of `seconds` each in all: what else the machine does
    meets all of them. Raises SandboxError: a request failed, or the machine cannot hold them.
    """
    async with AsyncExitStack() as stack:
        crowds = []
        for count in counts:
            monitor = await stack.enter_async_context(Monitor(_policy(engine)))
            _register(monitor, program, count)
            await _call_all(monitor, _until(time.perf_counter() + _WARM_UP_S, iter(range(count))))
            crowds.append(Crowd(monitor, count, zipf(count)))
        for _ in range(_ROUNDS):
            for crowd in crowds:
                await crowd.run(seconds / _ROUNDS)
        return {crowd.count: crowd.throughput for crowd in crowds}


async def parked_kib(program: Program, count: int, *, engine: str) -> float:
    """What each of `count` generators that are registered, and not hot, adds to this process's proportional set size."""
    async with Monitor(_policy(engine)) as monitor:
        _register(monitor, program, 1, "first")
        gc.collect()
        before = proportional_bytes("self")
        _register(monitor, program, count)
        gc.collect()
        after = proportional_bytes("self")
    if before is None or after is None:
        raise SandboxError("/proc is needed to measure memory")
    return (after - before) / 1024 / count


def _until(deadline: float, ranks: Iterator[int]) -> Iterator[int]:
    """Those that are asked for before the deadline, on the clock of time.perf_counter."""
    return itertools.takewhile(lambda _: time.perf_counter() < deadline, ranks)


def _policy(engine: str) -> MonitorPolicy:
    budget = available_bytes() * 4 // 5
    pool = PoolPolicy(idle_s=600.0, hot_bytes=budget, site_hot_bytes=budget)
    return MonitorPolicy(engine=engine, dispatch=DispatchPolicy(pool=pool))


def _register(monitor: Monitor, program: Program, count: int, prefix: str = "generator") -> None:
    """Each has a program of its own, as a push would bring it: equal bytes, not the same object."""
    for number in range(count):
        own = replace(program, image=bytes(bytearray(program.image)), env=(("NUMBER", str(number)),))
        monitor.register(f"{prefix}{number}", own, _LIMITS, tenant=f"site{number % SITES}")


async def _call_all(monitor: Monitor, ranks: Iterator[int]) -> int:
    """Call these, CLIENTS at a time. How many answers there were."""
    answered = 0
    failures: list[str] = []

    async def client() -> None:
        nonlocal answered
        for rank in ranks:
            async for _ in monitor.call(f"generator{rank}", REQUEST, edge=NoEdge(), log=lambda _: None):
                pass
            answered += 1

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
    except* GuestFailed as failed:
        failures.extend(str(failure) for failure in failed.exceptions)
    if failures:
        raise SandboxError(f"a request failed under load: {failures[0]}")
    return answered
