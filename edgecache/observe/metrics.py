"""The figures in Prometheus' exposition formats, in a registry of their own. Counting is `figures`'; this runs at a scrape.

Label values are bounded: sites and generators beyond a thousand share one, all other labels come from fixed sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edgecache.observe.figures import BUCKETS, MAX_SITES, OTHER, Clients, Durations, Figures
from edgecache.observe.upstreams import OriginMetrics, Origins
from sandbox import MonitorStatus, ShareStatus


class TrafficFigures(Protocol):
    """What is told of requests: a `Recorder` has it, and so have several of them together."""

    @property
    def figures(self) -> Figures: ...
    @property
    def log_lines_dropped(self) -> int: ...


class ProcessFigures(Protocol):
    """What is told of one serving process."""

    @property
    def name(self) -> str: ...
    @property
    def serving(self) -> bool: ...
    @property
    def restarts(self) -> int: ...
    @property
    def cpu_seconds(self) -> float: ...


class TraceFigures(Protocol):
    """What is told of traces: `otlp.Exporter` has it."""

    @property
    def sent(self) -> int: ...
    @property
    def dropped(self) -> int: ...


class StoreFigures(Protocol):
    """What is told of a store: `store.StoreStats` has it."""

    @property
    def capacity_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def purged(self) -> int: ...


class DiskFigures(Protocol):
    """What is told of a disk tier: `store.disk.DiskStats` has it."""

    @property
    def capacity_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def objects(self) -> int: ...
    @property
    def segments(self) -> int: ...
    @property
    def purges_pending(self) -> int: ...
    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def declined(self) -> int: ...
    @property
    def corrupt(self) -> int: ...
    @property
    def purged(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where figures come from; those that are asked at each scrape are functions."""

    recorder: TrafficFigures
    store: Callable[[], StoreFigures] | None = None
    disk: Callable[[], DiskFigures | None] | None = None
    monitor: Callable[[], MonitorStatus] | None = None
    fast_hits: Callable[[], int] | None = None
    """Requests answered by the fast lane since the start."""
    clients: Callable[[], Clients] | None = None
    origins: Origins | None = None
    processes: Callable[[], Iterable[ProcessFigures]] | None = None
    """Serving processes, where there are several."""
    traces: TraceFigures | None = None


class Metrics:
    """One edge's metrics."""

    def __init__(self, sources: Sources) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Traffic(sources.recorder))
        if sources.fast_hits is not None:
            self.registry.register(_FastLane(sources.fast_hits))
        if sources.clients is not None:
            self.registry.register(_Clients(sources.clients))
        if sources.traces is not None:
            self.registry.register(_Traces(sources.traces))
        if sources.store is not None:
            self.registry.register(_Store(sources.store))
        if sources.processes is not None:
            self.registry.register(_Processes(sources.processes))
        if sources.disk is not None:
            self.registry.register(_Disk(sources.disk))
        if sources.monitor is not None:
            self.registry.register(_Sandbox(sources.monitor))
        if sources.origins is not None:
            self.registry.register(OriginMetrics(sources.origins))
        ProcessCollector(registry=self.registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type, in the format that a scraper's Accept field asks for."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


_BOUNDS: Final = (*(f"{bound:g}" for bound in BUCKETS), "+Inf")


class _Traffic(Collector):
    def __init__(self, recorder: TrafficFigures) -> None:
        self._recorder = recorder

    def collect(self) -> Iterable[Metric]:
        figures = self._recorder.figures
        names = ("site", "status", "cache", "protocol")
        requests = CounterMetricFamily("edgecache_requests", "Finished requests.", labels=names)
        sent = CounterMetricFamily("edgecache_response_bytes", "Body bytes sent to clients.", labels=("site",))
        collapsed = CounterMetricFamily("edgecache_collapsed_requests", "Answered by another request's flight.", labels=("site",))
        truncated = CounterMetricFamily("edgecache_truncated_responses", "Bodies that ended early.", labels=("site",))
        route_names = ("site", "route", "status", "cache")
        by_route = CounterMetricFamily("edgecache_route_requests", "Finished requests.", labels=route_names)
        took = HistogramMetricFamily("edgecache_route_duration_seconds", "From head to last byte.", labels=("site", "route"))
        reasons = CounterMetricFamily("edgecache_request_reasons", "Requests with a reason.", labels=("site", "reason"))
        renewals = CounterMetricFamily(
            "edgecache_renewals", "Stored responses fetched anew in the background.", labels=("site", "cause", "result")
        )
        for name, site in figures.sites.items():
            for (cause, result), count in site.renewals.items():
                renewals.add_metric((name, cause, result), count)
            for route, counted in site.routes.items():
                together = Durations()
                for (status, word), durations_of in counted.by_result.items():
                    by_route.add_metric((name, route, status, word), sum(durations_of.counts))
                    together.add(durations_of)
                took.add_metric((name, route), _cumulative(together), together.seconds)
            for reason, count in site.reasons.items():
                reasons.add_metric((name, reason), count)
            for (status, word, protocol), count in site.by_result.items():
                requests.add_metric((name, status, word, protocol), count)
            sent.add_metric((name,), site.bytes_sent)
            collapsed.add_metric((name,), site.collapsed)
            truncated.add_metric((name,), site.truncated)
        durations = HistogramMetricFamily("edgecache_request_duration_seconds", "From head to last byte.", labels=("cache",))
        for word, histogram in figures.durations.items():
            durations.add_metric((word,), _cumulative(histogram), histogram.seconds)
        calls = CounterMetricFamily("edgecache_generated", "Finished calls of generators.", labels=("generator", "end"))
        cpu = CounterMetricFamily("edgecache_generator_cpu_seconds", "CPU time of generators' VMs.", labels=("generator",))
        unlogged = CounterMetricFamily(
            "edgecache_generator_log_dropped_bytes", "Log above a limit or a rate.", labels=("generator",)
        )
        for name, generator in figures.generators.items():
            for end, count in generator.ends.items():
                calls.add_metric((name, end), count)
            cpu.add_metric((name,), generator.cpu_ns / 1e9)
            unlogged.add_metric((name,), generator.log_dropped_bytes)
        dropped = self._recorder.log_lines_dropped
        lost = CounterMetricFamily("edgecache_access_log_dropped", "Lines that were not written.", value=dropped)
        return (requests, by_route, took, reasons, sent, collapsed, truncated, renewals, durations, calls, cpu, unlogged, lost)


class _FastLane(Collector):
    def __init__(self, hits: Callable[[], int]) -> None:
        self._hits = hits

    def collect(self) -> Iterable[Metric]:
        return (CounterMetricFamily("edgecache_fast_lane_requests", "Hits of remembered request heads.", value=self._hits()),)


class _Clients(Collector):
    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    def collect(self) -> Iterable[Metric]:
        clients = self._clients()
        tunnels = GaugeMetricFamily("edgecache_tunnels", "Connections that have become tunnels.", labels=("site",))
        ordered = sorted(clients.tunnels.items(), key=lambda pair: -pair[1])
        for name, count in ordered[:MAX_SITES]:
            tunnels.add_metric((name,), count)
        if rest := ordered[MAX_SITES:]:
            tunnels.add_metric((OTHER,), sum(count for _, count in rest))
        return (GaugeMetricFamily("edgecache_connections", "Clients' connections.", value=clients.connections), tunnels)


class _Traces(Collector):
    def __init__(self, traces: TraceFigures) -> None:
        self._traces = traces

    def collect(self) -> Iterable[Metric]:
        return (
            CounterMetricFamily("edgecache_trace_spans_sent", "Spans that the collector took.", value=self._traces.sent),
            CounterMetricFamily("edgecache_trace_spans_dropped", "Spans that were not sent.", value=self._traces.dropped),
        )


class _Store(Collector):
    def __init__(self, stats: Callable[[], StoreFigures]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        return (
            GaugeMetricFamily("edgecache_store_capacity_bytes", "Memory that the store may use.", value=stats.capacity_bytes),
            GaugeMetricFamily("edgecache_store_used_bytes", "Memory that it uses.", value=stats.used_bytes),
            GaugeMetricFamily("edgecache_store_entries", "Stored responses.", value=stats.entries),
            CounterMetricFamily("edgecache_store_stored", "Responses stored since the start.", value=stats.stored),
            CounterMetricFamily("edgecache_store_evicted", "Responses dropped for want of memory.", value=stats.evicted),
            CounterMetricFamily("edgecache_store_refused", "Responses too large to store.", value=stats.refused),
            CounterMetricFamily("edgecache_store_purged", "Responses purged.", value=stats.purged),
        )


class _Processes(Collector):
    def __init__(self, processes: Callable[[], Iterable[ProcessFigures]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        serving = GaugeMetricFamily("edgecache_process_serving", "Whether a process accepts connections.", labels=("process",))
        restarts = CounterMetricFamily("edgecache_process_restarts", "Started again after its end.", labels=("process",))
        cpu = GaugeMetricFamily("edgecache_process_cpu_seconds", "CPU time of what runs in its place now.", labels=("process",))
        for process in self._processes():
            serving.add_metric((process.name,), process.serving)
            restarts.add_metric((process.name,), process.restarts)
            cpu.add_metric((process.name,), process.cpu_seconds)
        return (serving, restarts, cpu)


class _Disk(Collector):
    def __init__(self, stats: Callable[[], DiskFigures | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        if stats is None:
            return ()
        return (
            GaugeMetricFamily("edgecache_disk_capacity_bytes", "What the disk tier may use.", value=stats.capacity_bytes),
            GaugeMetricFamily("edgecache_disk_used_bytes", "What it uses, or has reserved.", value=stats.used_bytes),
            GaugeMetricFamily("edgecache_disk_objects", "Responses stored on disk.", value=stats.objects),
            GaugeMetricFamily("edgecache_disk_segments", "Segment files.", value=stats.segments),
            GaugeMetricFamily("edgecache_disk_purges_pending", "Purges with entries to visit.", value=stats.purges_pending),
            GaugeMetricFamily("edgecache_disk_waiting_bytes", "Bodies waiting to be written.", value=stats.waiting_bytes),
            CounterMetricFamily("edgecache_disk_hits", "Lookups that found a response on disk.", value=stats.hits),
            CounterMetricFamily("edgecache_disk_misses", "Lookups that found none in memory nor on disk.", value=stats.misses),
            CounterMetricFamily("edgecache_disk_written", "Responses written.", value=stats.written),
            CounterMetricFamily("edgecache_disk_refused", "Responses not written: too busy, or no room.", value=stats.refused),
            CounterMetricFamily("edgecache_disk_declined", "Responses not worth room on a full disk.", value=stats.declined),
            CounterMetricFamily("edgecache_disk_evicted", "Responses dropped for want of room.", value=stats.evicted),
            CounterMetricFamily("edgecache_disk_corrupt", "Responses dropped for a wrong checksum.", value=stats.corrupt),
            CounterMetricFamily("edgecache_disk_purged", "Responses purged.", value=stats.purged),
            CounterMetricFamily("edgecache_disk_failures", "Writes that the disk refused.", value=stats.failures),
        )


class _Sandbox(Collector):
    def __init__(self, status: Callable[[], MonitorStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        generators = status.generators
        waiting = GaugeMetricFamily("edgecache_vm_requests", "Requests to generators now.", labels=("state",))
        waiting.add_metric(("queued",), sum(generator.queued for generator in generators))
        waiting.add_metric(("active",), sum(generator.active for generator in generators))
        quarantined = sum(generator.quarantined_s > 0 for generator in generators)
        return (
            waiting,
            GaugeMetricFamily("edgecache_vms", "VMs that exist.", value=sum(generator.vms for generator in generators)),
            GaugeMetricFamily("edgecache_generators", "Registered versions of generators.", value=len(generators)),
            GaugeMetricFamily("edgecache_generators_quarantined", "Those that may not run now.", value=quarantined),
            GaugeMetricFamily("edgecache_hot_memory_bytes", "Memory of all workers.", value=status.hot_bytes),
            GaugeMetricFamily("edgecache_hot_memory_budget_bytes", "Its budget.", value=status.hot_budget_bytes),
            CounterMetricFamily("edgecache_workers_parked", "Idle workers ended to make room.", value=status.parked),
            GaugeMetricFamily("edgecache_workers", "Worker processes.", value=len(status.workers)),
            CounterMetricFamily("edgecache_workers_started", "Worker processes started.", value=status.workers_started),
            CounterMetricFamily("edgecache_workers_lost", "Workers that died or were killed.", value=status.workers_lost),
            *_shares("cluster", status.clusters),
            *_shares("site", status.tenants),
        )


def _shares(label: str, nodes: Iterable[ShareStatus]) -> tuple[Metric, ...]:
    """Promised and received by node; those beyond MAX_SITES, by CPU time, are added up under OTHER."""
    promised = GaugeMetricFamily(
        f"edgecache_{label}_cpu_promised_ratio", "Part of the CPU time given out in 10 s that was promised.", labels=(label,)
    )
    received = GaugeMetricFamily(
        f"edgecache_{label}_cpu_received_ratio", "Part of the CPU time given out in 10 s that was received.", labels=(label,)
    )
    ordered = sorted(nodes, key=lambda node: -node.cpu_ns)
    for node in ordered[:MAX_SITES]:
        promised.add_metric((node.name,), node.allocation.promised)
        received.add_metric((node.name,), node.allocation.received)
    if rest := ordered[MAX_SITES:]:
        promised.add_metric((OTHER,), sum(node.allocation.promised for node in rest))
        received.add_metric((OTHER,), sum(node.allocation.received for node in rest))
    return promised, received


def _cumulative(histogram: Durations) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip(_BOUNDS, histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
