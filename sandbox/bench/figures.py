"""All figures of one run, as an object and as text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.bench import crowd, fairness, guests, machine, neighbour, roundtrip
from sandbox.bench import peers as others
from sandbox.engines import ENGINES
from sandbox.errors import EngineUnavailable
from sandbox.program import Convention, Program

_ENGINE_KEYS: Final = ("resident_call_us", "resident_call_p99_us", "fork_us", "warm_vm_kib", "create_and_boot_ms")
_FEW: Final = 10
"""Generators whose throughput is what that of others is compared with."""
_PLOT_COUNTS: Final = (1, 3, 10, 30, 100, 300)
_PEERS_FOLDER: Final = Path(".run") / "peers"
_PLOT_WEIGHTS: Final = (1, 2, 3, 4)
"""Nobody is promised a whole slot: who never leaves its slot gets what the host gives that one process."""
_PLOT_CHANGE: Final = {0: 5}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure."""

    load_s: float
    """Seconds of load on each crowd."""
    fairness_s: float
    calls: int
    many: tuple[int, ...] = (1000, 10_000)
    """Sizes of the crowds that are compared with a few."""
    saturating: int = 50
    """Generators that share two workers, with weights from 1 on."""
    neighbour_calls: int = 1000
    """Requests of the well-behaved neighbour, alone and again beside `looping` generators."""
    looping: int = neighbour.LOOPING


FULL: Final = Effort(load_s=10.0, fairness_s=10.0, calls=machine.CALLS)
QUICK: Final = Effort(load_s=4.0, fairness_s=4.0, calls=500, neighbour_calls=200)


@dataclass(frozen=True, slots=True)
class Figures:
    engines: Mapping[str, machine.EngineFigures]
    parked_kib: float
    """What a generator that is registered and not hot adds to the edge's process, beside its program's bytes, which equal
    programs share."""
    throughputs: Mapping[int, float]
    """Answers a second, by how many generators are called in a Zipf pattern."""
    shares: fairness.Shares
    many: tuple[int, ...]
    """The crowds that the figures name; others are for the plot."""
    neighbourhood: neighbour.Neighbourhood
    trips: Mapping[str, roundtrip.RoundTrip]
    """The way to a worker and back, by engine."""
    peers: tuple[others.Peer, ...] = ()
    """Where they were asked for."""
    changing: fairness.Shares | None = None
    """Of a few generators, one of whose weights is changed in the middle: for the plot."""

    def ratio(self, count: int) -> float:
        """Throughput of so many generators over that of 10."""
        return self.throughputs[count] / self.throughputs[_FEW]

    def as_json(self) -> dict[str, object]:
        return {
            "engines": {
                engine: {key: getattr(found, key) for key in _ENGINE_KEYS}
                | {"worker_round_trip_us": round(self.trips[engine].added_us, 1)}
                for engine, found in self.engines.items()
            },
            "parked_kib": round(self.parked_kib, 2),
            **{f"throughput_ratio_{count}": round(self.ratio(count), 3) for count in self.many},
            "fairness_error": round(self.shares.error, 4),
            **({"peers": {peer.name: peer.as_json() for peer in self.peers}} if self.peers else {}),
        }

    def as_text(self) -> str:
        lines = []
        for name, found in self.engines.items():
            trip = self.trips[name]
            lines += [
                f"engine {name}, a page of {found.page_bytes} bytes, {found.vms} warm VMs at once",
                f"  resident call with reset  {found.resident_call_us:8.0f} us   p99 {found.resident_call_p99_us:.0f} us",
                f"  a worker's way adds       {trip.added_us:8.0f} us   ({trip.monitor_call_us:.0f} in a worker,"
                f" {trip.resident_call_us:.0f} here, in turn)",
                f"  first call of a new VM    {found.first_call_us:8.0f} us",
                f"  fork                      {found.fork_us:8.0f} us",
                f"  create and boot           {found.create_and_boot_ms:8.2f} ms",
                f"  memory of a warm VM       {found.warm_vm_kib:8.0f} KiB",
            ]
        lines.append("the monitor")
        lines.append(f"  parked generator          {self.parked_kib:8.2f} KiB")
        lines += [
            f"  {count:6} generators, Zipf   {answers:8.0f} answers/s   {self.ratio(count):.3f} of 10"
            for count, answers in self.throughputs.items()
        ]
        lines.append(f"  fairness error            {self.shares.error:8.4f}  ({len(self.shares.weights)} saturating generators)")
        near = self.neighbourhood
        lines.append("a neighbour's answer, through the monitor")
        for where, took in (("alone", near.alone), (f"beside {near.looping} that loop", near.beside)):
            lines.append(f"  {where:25} {took.p50_us:8.0f} us   p99 {took.p99_us:.0f} us")
        if self.peers:
            lines.append("the same page made by others")
        for peer in self.peers:
            if peer.found is None:
                lines.append(f"  {peer.name:25} skipped: {peer.skipped}")
            else:
                lines.append(f"  {peer.name:25} {peer.found.p50_us:8.0f} us   p99 {peer.found.p99_us:.0f} us   ({peer.holds})")
        return "\n".join(lines)


def run(
    engine: str, vms: int, effort: Effort, say: Callable[[str], None], *, plots: bool = False, peers: bool = False
) -> Figures:
    """Measure everything, peers where asked for.

    `engine` "auto" measures VMs on each engine that works here, and the monitor as it would choose itself.

    Raises EngineUnavailable, SdkError where the guests cannot be built, or SandboxError where they misbehave.
    """
    say("building the guests")
    page, burner = guests.build("page"), guests.build("burner")
    engines: dict[str, machine.EngineFigures] = {}
    trips: dict[str, roundtrip.RoundTrip] = {}
    for name in ENGINES[1:] if engine == "auto" else (engine,):
        say(f"one VM on {name}")
        try:
            engines[name] = machine.measure(page, name, vms, effort.calls)
            say(f"the way to a worker and back on {name}")
            trips[name] = roundtrip.measure(page, name, effort.calls)
        except EngineUnavailable as unavailable:
            if engine != "auto":
                raise
            say(str(unavailable))
    asked = _peers(engines, effort.calls, say) if peers else ()
    say("a neighbour, alone and beside looping generators")
    near = asyncio.run(neighbour.measure(page, burner, engine=engine, calls=effort.neighbour_calls, looping=effort.looping))
    say("what a parked generator takes")
    parked = asyncio.run(crowd.parked_kib(page, effort.many[-1], engine=engine))
    say("fairness")
    shares = asyncio.run(_fairness(burner, engine, effort))
    changing = None
    if plots:
        changing = asyncio.run(
            fairness.measure(burner, _PLOT_WEIGHTS, engine=engine, seconds=effort.fairness_s, change=_PLOT_CHANGE)
        )
    counts = tuple(sorted({_FEW, *effort.many, *(_PLOT_COUNTS if plots else ())}))
    say(f"throughput of {', '.join(map(str, counts))} generators: booting them takes a minute")
    throughputs = asyncio.run(crowd.throughputs(page, counts, engine=engine, seconds=effort.load_s))
    return Figures(engines, parked, throughputs, shares, effort.many, near, trips, asked, changing)


async def _fairness(burner: Program, engine: str, effort: Effort) -> fairness.Shares:
    weights = range(1, effort.saturating + 1)
    return await fairness.measure(burner, weights, engine=engine, seconds=effort.fairness_s)


def _peers(engines: Iterable[str], calls: int, say: Callable[[str], None]) -> tuple[others.Peer, ...]:
    program = guests.build("page_cgi", Convention.CGI)
    ours = tuple(others.ours(name, machine.cgi_calls(program, name, others.WARM_UP + calls)) for name in engines)
    return ours + others.measure(program.image, calls, say, install=_PEERS_FOLDER)
