"""What shares are worth on this machine, measured through jailed workers: CPU time received against CPU time promised, and what
endless loops do to a well-behaved neighbour. Called by `bench`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandbox.call import GuestCall
from sandbox.errors import GuestFailed, SandboxError
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS, Limits
from sandbox.monitor import Monitor, NoEdge
from sandbox.policies import DispatchPolicy, FleetPolicy, Isolation, MonitorPolicy
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.sdk.build import compile_c

GENERATORS: Final = 50
WORKERS: Final = 2
"""Slices that run at once."""
SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 0.1
"""After a weight was changed, before it is held to."""
CHANGED_SECONDS: Final = 2.0
SAMPLE_SECONDS: Final = 0.1
LOOPS: Final = 20
CALLS: Final = 1000
_PAUSE_SECONDS: Final = 0.003
_START_SECONDS: Final = 120.0
_SOURCE: Final = Path(__file__).with_name("fairness_guest.c")
_LIMITS: Final[Limits] = replace(
    DEFAULT_LIMITS, cpu_ns=3600 * SECOND_NS, wall_ns=3600 * SECOND_NS, boot_cpu_ns=60 * SECOND_NS, vms=1
)
_FLEET: Final = FleetPolicy(hot_bytes=1 << 40, site_hot_bytes=1 << 40)
"""CPU time is measured here: no loop may have to wait for memory."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Who had received what at one moment."""

    seconds: float
    cpu_ns: tuple[int, ...]
    """CPU time of each generator since it was registered, in the order of their weights at the start: 1, 2, 3 …"""


@dataclass(frozen=True, slots=True)
class Division:
    """How the CPU time of one stretch was divided."""

    seconds: float
    cpu_seconds: float
    """Given out."""
    error: float
    """Sum of |received - promised| over all, as a fraction of what was given out."""
    worst_ms: float
    """The largest |received - promised|, in milliseconds."""
    beyond: int
    """Generators that differ by more than 1 % of what was promised and by more than one slice."""


@dataclass(frozen=True, slots=True)
class FairnessFigures:
    """Of one engine."""

    slice_ms: float
    steady: Division
    """Weights 1..50."""
    changed: Division
    """Weights 50..1, from 100 ms after the change on."""
    changed_at: float
    """Seconds of the samples' clock."""
    samples: tuple[Sample, ...]
    neighbour_alone_p50_ms: float
    neighbour_alone_p99_ms: float
    neighbour_beside_p50_ms: float
    neighbour_beside_p99_ms: float
    """Beside 20 sites whose generators loop."""

    @property
    def fairness_error(self) -> float:
        return self.steady.error


def divide(received_ns: tuple[int, ...], weights: tuple[int, ...], slice_ns: int, seconds: float) -> Division:
    """Pure: what was received, held against what weights promise of its sum."""
    total = sum(received_ns)
    promised = [total * weight / sum(weights) for weight in weights]
    apart = [abs(got - due) for got, due in zip(received_ns, promised, strict=True)]
    beyond = sum(off > max(due / 100, slice_ns) for off, due in zip(apart, promised, strict=True))
    return Division(
        seconds=round(seconds, 3),
        cpu_seconds=round(total / SECOND_NS, 3),
        error=round(sum(apart) / total, 5) if total else 1.0,
        worst_ms=round(max(apart) / 1e6, 3),
        beyond=beyond,
    )


def measure_fairness(engine: str, seconds: float = SECONDS, calls: int = CALLS) -> FairnessFigures:
    """Takes about 30 s. Raises SandboxError, SdkError where the guest cannot be built."""
    return asyncio.run(_measure(engine, seconds, calls))


async def _measure(engine: str, seconds: float, calls: int) -> FairnessFigures:
    program = Program(_guest(), Convention.RESIDENT, "fairness")
    samples, changed_at, steady, changed, slice_ns = await _shares(engine, program, seconds)
    alone, beside = await _neighbour(engine, program, calls)
    return FairnessFigures(
        slice_ms=slice_ns / 1e6,
        steady=steady,
        changed=changed,
        changed_at=changed_at,
        samples=samples,
        neighbour_alone_p50_ms=round(1e3 * statistics.median(alone), 3),
        neighbour_alone_p99_ms=round(1e3 * alone[int(len(alone) * 0.99)], 3),
        neighbour_beside_p50_ms=round(1e3 * statistics.median(beside), 3),
        neighbour_beside_p99_ms=round(1e3 * beside[int(len(beside) * 0.99)], 3),
    )


async def _shares(engine: str, program: Program, seconds: float) -> tuple[tuple[Sample, ...], float, Division, Division, int]:
    """One site, every generator in a worker of its own, so that any of them can use either CPU."""
    dispatch = DispatchPolicy(slots=WORKERS, fleet=_FLEET)
    policy = MonitorPolicy(engine=engine, isolation=Isolation.GENERATOR, dispatch=dispatch)
    rising = tuple(range(1, GENERATORS + 1))
    samples: list[Sample] = []
    async with Monitor(policy) as monitor:
        names = [f"g{weight}" for weight in rising]
        for name in names:
            monitor.register(name, program, _LIMITS, tenant="site", weight=1)
        readers = await _spinning(monitor, names)
        started = time.perf_counter()

        async def stretch(weights: tuple[int, ...], length: float) -> Division:
            for name, weight in zip(names, weights, strict=True):
                monitor.set_weight(name, weight)
            await asyncio.sleep(SETTLE_SECONDS)
            begun = time.perf_counter()
            first = _received(monitor, names)
            while (now := time.perf_counter()) < begun + length:
                samples.append(Sample(round(now - started, 4), _received(monitor, names)))
                await asyncio.sleep(min(SAMPLE_SECONDS, max(0.0, begun + length - now)))
            last = _received(monitor, names)
            received = tuple(after - before for before, after in zip(first, last, strict=True))
            return divide(received, weights, dispatch.slice_ns, time.perf_counter() - begun)

        steady = await stretch(rising, seconds)
        changed_at = time.perf_counter() - started
        changed = await stretch(rising[::-1], CHANGED_SECONDS)
        await _stop(readers)
    return tuple(samples), round(changed_at, 4), steady, changed, dispatch.slice_ns


async def _neighbour(engine: str, program: Program, calls: int) -> tuple[list[float], list[float]]:
    """Sorted seconds of a quick site's calls, alone and beside sites that loop, each in a worker of its own."""
    async with Monitor(MonitorPolicy(engine=engine, dispatch=DispatchPolicy(slots=WORKERS, fleet=_FLEET))) as monitor:
        monitor.register("quick", program, _LIMITS, tenant="quick")
        loops = [f"loop{number}" for number in range(LOOPS)]
        for name in loops:
            monitor.register(name, program, _LIMITS, tenant=name)
        await _timed(monitor, 20)
        alone = await _timed(monitor, calls)
        readers = await _spinning(monitor, loops)
        beside = await _timed(monitor, calls)
        await _stop(readers)
    return sorted(alone), sorted(beside)


async def _timed(monitor: Monitor, calls: int) -> list[float]:
    took = []
    for _ in range(calls):
        started = time.perf_counter()
        async for _chunk in _begin(monitor, "quick", b"/"):
            pass
        took.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE_SECONDS)
    return took


async def _spinning(monitor: Monitor, names: list[str]) -> Mapping[GuestCall, asyncio.Task[None]]:
    """Endless requests, once each of them has begun. Raises SandboxError when they do not."""
    calls = [_begin(monitor, name, b"/spin") for name in names]
    readers = {call: asyncio.create_task(_drained(call)) for call in calls}
    wanted = set(names)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not all(status.active for status in monitor.status().generators if status.key in wanted):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise SandboxError(f"{len(names)} loops did not start within {_START_SECONDS:g} s") from None
    return readers


async def _stop(readers: Mapping[GuestCall, asyncio.Task[None]]) -> None:
    for call, reader in readers.items():
        await call.aclose()
        with suppress(GuestFailed):
            await reader


async def _drained(call: GuestCall) -> None:
    async for _ in call:
        pass


def _begin(monitor: Monitor, name: str, path: bytes) -> GuestCall:
    request = GuestRequest(((b"REQUEST_METHOD", b"GET"), (b"PATH_INFO", path)))
    return monitor.call(name, request, edge=NoEdge(), log=lambda _: None)


def _received(monitor: Monitor, names: list[str]) -> tuple[int, ...]:
    found = {status.key: status.cpu_ns for status in monitor.status().generators}
    return tuple(found[name] for name in names)


def _guest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "fairness"
        compile_c([_SOURCE], output)
        return output.read_bytes()
