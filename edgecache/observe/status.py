"""A snapshot of what the edge does, for `/v1/status` and `edgecache top`: totals since the start, rates over the last seconds.

Pure: the caller says what time it is. `edge` hands `Snapshot.parts()` to the control API.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgecache.observe.figures import Figures
from edgecache.observe.metrics import Sources
from edgecache.observe.upstreams import origins_part
from sandbox import GeneratorStatus, MonitorStatus, ShareStatus

MAX_ROWS: Final = 200
"""Sites and generators that a snapshot names: those with most requests or CPU time."""
WINDOW_SECONDS: Final = 10.0
_MIN_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests: totals since the start, rates over the last interval."""

    requests: int = 0
    hits: int = 0
    errors: int = 0
    collapsed: int = 0
    sent_bytes: int = 0
    requests_per_second: float = 0.0
    hit_ratio: float = 0.0
    """Answers from the cache among those of the interval, 0 to 1."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """The memory tier."""

    capacity_bytes: int
    used_bytes: int
    entries: int
    stored: int
    evicted: int
    refused: int
    purged: int


@dataclass(frozen=True, slots=True)
class DiskState:
    """The disk tier."""

    capacity_bytes: int
    used_bytes: int
    objects: int
    segments: int
    hits: int
    misses: int
    written: int
    refused: int
    declined: int
    evicted: int
    corrupt: int
    purged: int
    failures: int


@dataclass(frozen=True, slots=True)
class GeneratorRow:
    """One registered version of a generator."""

    calls: int
    failed: int
    cpu_ns: int
    queued: int
    active: int
    vms: int
    quarantined_seconds: float
    weight: int
    cap: int | None
    promised: float
    """Of the CPU time given out in the last ten seconds, 0 to 1."""
    received: float
    delayed: int
    """How often output, an edge call or a sub-request waited for its rate."""
    log_dropped_bytes: int


@dataclass(frozen=True, slots=True)
class ShareRow:
    """A cluster, or a site in its cluster: its share, and what came of it in the last ten seconds."""

    weight: int
    cap: int | None
    cpu_ns: int
    promised: float
    received: float


@dataclass(frozen=True, slots=True)
class SandboxState:
    """The monitor, its workers and what they run."""

    engine: str
    """What runs the VMs: what `auto` found."""
    workers: int
    workers_started: int
    workers_lost: int
    vms: int
    queued: int
    active: int
    cpu_ns: int
    jail: tuple[str, ...]
    """Layers in force in every worker."""
    jail_missing: tuple[str, ...]
    """Layers that could not be applied, each with its reason."""
    clusters: Mapping[str, ShareRow]
    sites: Mapping[str, ShareRow]
    """Those with a program registered."""
    generators: Mapping[str, GeneratorRow]
    hot_bytes: int = 0
    hot_budget_bytes: int = 0
    workers_parked: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the edge."""

    traffic: Traffic
    sites: Mapping[str, Traffic]
    store: StoreState | None
    sandbox: SandboxState | None
    log_lines_dropped: int
    upstream: Mapping[str, object] | None = None
    disk: DiskState | None = None

    def parts(self) -> dict[str, dict[str, object]]:
        """As plain values: numbers that grow are totals, those that end in `_per_second` and `_ratio` are of the interval."""
        sites = {name: dataclasses.asdict(traffic) for name, traffic in self.sites.items()}
        found: dict[str, dict[str, object]] = {
            "traffic": {**dataclasses.asdict(self.traffic), "log_lines_dropped": self.log_lines_dropped, "sites": sites}
        }
        if self.store is not None:
            found["cache"] = dataclasses.asdict(self.store)
        if self.disk is not None:
            found["disk"] = dataclasses.asdict(self.disk)
        if self.sandbox is not None:
            found["sandbox"] = dataclasses.asdict(self.sandbox)
        if self.upstream is not None:
            found["upstream"] = dict(self.upstream)
        return found


class _Counts(NamedTuple):
    requests: int
    hits: int


class StatusBoard:
    """Makes snapshots, and remembers the counts of the last seconds' ones for the rates."""

    def __init__(self, sources: Sources, now: float) -> None:
        """`now` in seconds, of any clock that only goes forward; the same one as in `snapshot`."""
        self._sources = sources
        self._past: deque[tuple[float, dict[str, _Counts]]] = deque([(now, {})], maxlen=128)

    def snapshot(self, now: float) -> Snapshot:
        """What the edge does at `now`; rates since the oldest look of the last ten seconds, or else the last one."""
        figures = self._sources.recorder.figures
        counts = _counts(figures)
        while len(self._past) > 1 and self._past[1][0] <= now - WINDOW_SECONDS:
            self._past.popleft()
        then, before = self._past[0]
        elapsed = now - then
        if now - self._past[-1][0] >= _MIN_SECONDS:
            self._past.append((now, counts))
        rows = sorted(figures.sites, key=lambda name: -counts[name].requests)[:MAX_ROWS]
        sites = {name: _traffic(figures, (name,), counts, before, elapsed) for name in rows}
        disk = self._sources.disk() if self._sources.disk else None
        store = self._sources.store() if self._sources.store else None
        return Snapshot(
            traffic=_traffic(figures, tuple(figures.sites), counts, before, elapsed),
            sites=sites,
            store=StoreState(*(getattr(store, f.name) for f in dataclasses.fields(StoreState))) if store else None,
            sandbox=_sandbox(self._sources.monitor()) if self._sources.monitor else None,
            log_lines_dropped=self._sources.recorder.log_lines_dropped,
            upstream=origins_part(self._sources.origins()) if self._sources.origins else None,
            disk=DiskState(*(getattr(disk, f.name) for f in dataclasses.fields(DiskState))) if disk else None,
        )


def _counts(figures: Figures) -> dict[str, _Counts]:
    return {name: _Counts(site.requests, site.hits) for name, site in figures.sites.items()}


def _traffic(
    figures: Figures, names: tuple[str, ...], counts: dict[str, _Counts], before: dict[str, _Counts], elapsed: float
) -> Traffic:
    nothing = _Counts(0, 0)
    requests, hits = sum(counts[name].requests for name in names), sum(counts[name].hits for name in names)
    new_requests = requests - sum(before.get(name, nothing).requests for name in names)
    new_hits = hits - sum(before.get(name, nothing).hits for name in names)
    rows = [figures.sites[name] for name in names]
    return Traffic(
        requests=requests,
        hits=hits,
        errors=sum(row.errors for row in rows),
        collapsed=sum(row.collapsed for row in rows),
        sent_bytes=sum(row.bytes_sent for row in rows),
        requests_per_second=round(new_requests / elapsed, 3) if elapsed > 0 else 0.0,
        hit_ratio=round(new_hits / new_requests, 4) if new_requests > 0 else 0.0,
    )


def _sandbox(status: MonitorStatus) -> SandboxState:
    busiest = sorted(status.generators, key=lambda generator: (-generator.allocation.received, -generator.cpu_ns))[:MAX_ROWS]
    reports = [worker.jail for worker in status.workers] or [status.jail]
    missing = {f"{gap.layer} ({gap.reason})" for report in reports for gap in report.missing}
    in_force = set.intersection(*({str(layer) for layer in report.active} for report in reports))
    return SandboxState(
        engine=status.engine,
        workers=len(status.workers),
        workers_started=status.workers_started,
        workers_lost=status.workers_lost,
        vms=sum(generator.vms for generator in status.generators),
        queued=sum(generator.queued for generator in status.generators),
        active=sum(generator.active for generator in status.generators),
        cpu_ns=sum(generator.cpu_ns for generator in status.generators),
        jail=tuple(sorted(in_force)),
        jail_missing=tuple(sorted(missing)),
        clusters=_shares(status.clusters),
        sites=_shares(status.tenants),
        generators={generator.key: _row(generator) for generator in busiest},
        hot_bytes=status.hot_bytes,
        hot_budget_bytes=status.hot_budget_bytes,
        workers_parked=status.parked,
    )


def _shares(nodes: Iterable[ShareStatus]) -> dict[str, ShareRow]:
    busiest = sorted(nodes, key=lambda node: (-node.allocation.received, -node.cpu_ns))[:MAX_ROWS]
    return {
        node.name: ShareRow(node.weight, node.cap, node.cpu_ns, _part(node.allocation.promised), _part(node.allocation.received))
        for node in busiest
    }


def _part(value: float) -> float:
    return round(value, 4)


def _row(generator: GeneratorStatus) -> GeneratorRow:
    return GeneratorRow(
        calls=generator.calls,
        failed=sum(count for end, count in generator.ends.items() if end != "finished"),
        cpu_ns=generator.cpu_ns,
        queued=generator.queued,
        active=generator.active,
        vms=generator.vms,
        quarantined_seconds=round(generator.quarantined_s, 3),
        weight=generator.weight,
        cap=generator.cap,
        promised=_part(generator.allocation.promised),
        received=_part(generator.allocation.received),
        delayed=generator.delayed,
        log_dropped_bytes=generator.log_dropped_bytes,
    )
