"""What a light generator's requests take beside generators that loop without end, against alone: through the real monitor.

`python -m loadtests.bench_neighbour [--loops N] [--seconds S] [--rate R]`. Rounds alone and beside alternate in one run, so that
what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from sandbox import GuestCall
from sandbox.bench.guests import REQUEST, build
from sandbox.dispatch.policies import DispatchPolicy, MonitorPolicy, PoolPolicy
from sandbox.errors import GuestFailed
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS
from sandbox.monitor import Monitor, NoEdge

_ROUNDS: Final = 5
_SPIN_S: Final = 1.0
"""In each round, and of each kind."""
_LIMITS: Final = replace(DEFAULT_LIMITS, cpu_ns=3600 * SECOND_NS, wall_ns=3600 * SECOND_NS, vms=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the light generator, in milliseconds."""

    whole_ms: float
    queued_ms: float
    """Until its first slice: what the scheduler made it wait."""
    computed_ms: float
    """CPU time of its VM."""

    @property
    def away_ms(self) -> float:
        """To the worker and back, without what it computed there: what the kernel made both wait, and their own work."""
        return max(0.0, self.whole_ms - self.queued_ms - self.computed_ms)


@dataclass(frozen=True, slots=True)
class Times:
    """Of the light generator's requests, in milliseconds."""

    requests: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    queued_p50_ms: float
    queued_p99_ms: float
    away_p50_ms: float
    away_p99_ms: float
    late_p99_ms: float
    """How late the monitor's event loop woke to ask."""
    strangers: float
    """CPUs that programs which have nothing to do with this used meanwhile: a figure is as quiet as its machine."""
    own_cpu: float
    """Of one CPU, what the monitor's process gets when it wants all of it: what is left for answers out of the cache."""


@dataclass(frozen=True, slots=True)
class Figures:
    loops: int
    slice_ms: float
    """Of a loop while all compete."""
    alone: Times
    beside: Times

    def as_text(self) -> str:
        rows = [f"{self.loops} loops, slices of {self.slice_ms:.1f} ms; times in ms"]
        for name, times in (("alone", self.alone), ("beside", self.beside)):
            rows += [
                f"  {name:8} p50 {times.p50_ms:7.2f}   p99 {times.p99_ms:7.2f}   worst {times.worst_ms:7.2f}"
                f"   of {times.requests}",
                f"           of it queued {times.queued_p50_ms:.2f} and {times.queued_p99_ms:.2f}, to the worker and back"
                f" {times.away_p50_ms:.2f} and {times.away_p99_ms:.2f} (p50 and p99)",
                f"           event loop late by {times.late_p99_ms:.2f} (p99); other programs used {times.strangers:.2f} CPUs",
                f"           of one CPU the monitor's own process gets {times.own_cpu:.2f}, if it wants all",
            ]
        return "\n".join(rows)


@dataclass(slots=True)
class _Phase:
    """What has been seen of one kind."""

    asked: list[Asked] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    strangers_s: float = 0.0
    own_cpu: list[float] = field(default_factory=list)

    def times(self) -> Times:
        whole = [asked.whole_ms for asked in self.asked]
        queued, away = [asked.queued_ms for asked in self.asked], [asked.away_ms for asked in self.asked]
        return Times(
            len(whole),
            _quantile(whole, 0.5),
            _quantile(whole, 0.99),
            max(whole),
            _quantile(queued, 0.5),
            _quantile(queued, 0.99),
            _quantile(away, 0.5),
            _quantile(away, 0.99),
            _quantile(self.late_ms, 0.99),
            self.strangers_s / self.seconds,
            sum(self.own_cpu) / len(self.own_cpu),
        )


async def measure(loops: int, seconds: float, rate: float) -> Figures:
    """Let `loops` sites loop, and ask another site `rate` times a second."""
    page, burner = build("page"), build("burner")
    dispatch = DispatchPolicy(pool=PoolPolicy(max_workers=loops + 4, idle_s=3600.0))
    alone, beside = _Phase(), _Phase()
    async with Monitor(MonitorPolicy(dispatch=dispatch)) as monitor:
        monitor.register("light", page, _LIMITS, tenant="light")
        for number in range(loops):
            monitor.register(f"loop{number}", burner, _LIMITS, tenant=f"loop{number}")
        for _ in range(20):
            await _one(monitor)
        for _ in range(_ROUNDS):
            await _ask(monitor, seconds / _ROUNDS, rate, alone)
            await _spin(alone)
            calls = [monitor.call(f"loop{number}", REQUEST, edge=NoEdge(), log=lambda _: None) for number in range(loops)]
            readers = [asyncio.create_task(_read(call)) for call in calls]
            try:
                while any(  # noqa: ASYNC110 - nothing announces it
                    found.active == 0 for found in monitor.status().generators if found.key != "light"
                ):
                    await asyncio.sleep(0.05)
                await _ask(monitor, seconds / _ROUNDS, rate, beside)
                await _spin(beside)
            finally:
                for reader in readers:
                    reader.cancel()
                await asyncio.gather(*readers, return_exceptions=True)
    return Figures(loops, dispatch.slice_for(loops + 1) / 1e6, alone.times(), beside.times())


async def _ask(monitor: Monitor, seconds: float, rate: float, phase: _Phase) -> None:
    """Ask at a steady rate, whatever the answers take."""
    loop = asyncio.get_running_loop()
    started, busy_s, ours_s = loop.time(), _busy_s(), _ours_s(monitor)
    asked: list[asyncio.Task[Asked]] = []
    for number in range(int(seconds * rate)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        phase.late_ms.append(max(0.0, loop.time() - due) * 1e3)
        asked.append(asyncio.create_task(_one(monitor)))
    phase.asked.extend(await asyncio.gather(*asked))
    phase.seconds += loop.time() - started
    phase.strangers_s += max(0.0, _busy_s() - busy_s - (_ours_s(monitor) - ours_s))


async def _spin(phase: _Phase) -> None:
    """Use the CPU in short turns of the event loop, as serving does."""
    started, cpu_s = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - started) < _SPIN_S:
        sum(range(2000))
        await asyncio.sleep(0)
    phase.own_cpu.append((time.process_time() - cpu_s) / passed)


async def _one(monitor: Monitor) -> Asked:
    loop = asyncio.get_running_loop()
    started = loop.time()
    call = monitor.call("light", REQUEST, edge=NoEdge(), log=lambda _: None)
    async for _ in call:
        pass
    whole_s = loop.time() - started
    if call.outcome is None or call.queued_s is None:
        raise AssertionError("an answered call has begun and ended")
    return Asked(whole_s * 1e3, call.queued_s * 1e3, call.outcome.usage.cpu_ns / 1e6)


def _busy_s() -> float:
    """CPU time of everybody on this machine: user, nice, system, irq and softirq of proc_stat(5)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def _ours_s(monitor: Monitor) -> float:
    return time.process_time() + sum(worker.cpu_ns for worker in monitor.status().workers) / SECOND_NS


async def _read(call: GuestCall) -> None:
    try:
        async for _ in call:
            pass
    except GuestFailed:
        return


def _quantile(found: Sequence[float], part: float) -> float:
    return sorted(found)[int(len(found) * part)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each kind")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of the light generator")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measure(options.loops, options.seconds, options.rate))
    print(json.dumps(asdict(found)) if options.json else found.as_text())


if __name__ == "__main__":
    main()
