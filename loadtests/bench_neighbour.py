"""What a light generator's requests take beside generators that loop without end, against alone: through the real monitor.

`python -m loadtests.bench_neighbour [--loops N] [--seconds S] [--rate R]`. Rounds alone and beside alternate in one run, so that
what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from sandbox import GuestCall
from sandbox.bench.guests import REQUEST, build
from sandbox.errors import GuestFailed
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS
from sandbox.monitor import Monitor, NoEdge
from sandbox.policies import DispatchPolicy, FleetPolicy, MonitorPolicy

_ROUNDS: Final = 5
_LIMITS: Final = replace(DEFAULT_LIMITS, cpu_ns=3600 * SECOND_NS, wall_ns=3600 * SECOND_NS, vms=1)


@dataclass(frozen=True, slots=True)
class Times:
    """Of the light generator's requests, in milliseconds."""

    requests: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    loops: int
    slice_ms: float
    """Of a loop while all compete."""
    alone: Times
    beside: Times
    loop_late_p99_ms: float
    """How late the monitor's event loop wakes beside the loops: none of it is the sharing's doing."""

    def as_text(self) -> str:
        rows = [f"{self.loops} loops, slices of {self.slice_ms:.1f} ms"]
        for name, times in (("alone", self.alone), ("beside", self.beside)):
            rows.append(f"  {name:8} p50 {times.p50_ms:7.2f} ms   p99 {times.p99_ms:7.2f} ms   worst {times.worst_ms:7.2f} ms")
        rows.append(f"  event loop late by {self.loop_late_p99_ms:.2f} ms (p99) beside them")
        return "\n".join(rows)


async def measure(loops: int, seconds: float, rate: float) -> Figures:
    """Let `loops` sites loop, and ask another site `rate` times a second."""
    page, burner = build("page"), build("burner")
    dispatch = DispatchPolicy(fleet=FleetPolicy(max_workers=loops + 4, idle_s=3600.0))
    alone: list[float] = []
    beside: list[float] = []
    late: list[float] = []
    async with Monitor(MonitorPolicy(dispatch=dispatch)) as monitor:
        monitor.register("light", page, _LIMITS, tenant="light")
        for number in range(loops):
            monitor.register(f"loop{number}", burner, _LIMITS, tenant=f"loop{number}")
        for _ in range(20):
            await _one(monitor)
        for _ in range(_ROUNDS):
            await _ask(monitor, seconds / _ROUNDS, rate, alone, [])
            calls = [monitor.call(f"loop{number}", REQUEST, edge=NoEdge(), log=lambda _: None) for number in range(loops)]
            readers = [asyncio.create_task(_read(call)) for call in calls]
            try:
                while any(  # noqa: ASYNC110 - nothing announces it
                    found.active == 0 for found in monitor.status().generators if found.key != "light"
                ):
                    await asyncio.sleep(0.05)
                await _ask(monitor, seconds / _ROUNDS, rate, beside, late)
            finally:
                for reader in readers:
                    reader.cancel()
                await asyncio.gather(*readers, return_exceptions=True)
    return Figures(loops, dispatch.slice_for(loops + 1) / 1e6, _times(alone), _times(beside), _quantile(late, 0.99))


async def _ask(monitor: Monitor, seconds: float, rate: float, times: list[float], late: list[float]) -> None:
    """Ask at a steady rate, whatever the answers take."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    asked: list[asyncio.Task[float]] = []
    for number in range(int(seconds * rate)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        late.append(max(0.0, loop.time() - due) * 1e3)
        asked.append(asyncio.create_task(_one(monitor)))
    times.extend(await asyncio.gather(*asked))


async def _one(monitor: Monitor) -> float:
    started = time.perf_counter()
    async for _ in monitor.call("light", REQUEST, edge=NoEdge(), log=lambda _: None):
        pass
    return (time.perf_counter() - started) * 1e3


async def _read(call: GuestCall) -> None:
    try:
        async for _ in call:
            pass
    except GuestFailed:
        return


def _times(found: Sequence[float]) -> Times:
    return Times(len(found), _quantile(found, 0.5), _quantile(found, 0.99), max(found))


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
