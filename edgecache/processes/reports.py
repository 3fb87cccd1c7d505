"""The reports of several processes as one: what each has counted is added up, also of those that are gone. No I/O.

Labels stay as bounded as one process's: sites and generators beyond the bounds share the figures of OTHER.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeVar

from edgecache.observe.figures import MAX_GENERATORS, MAX_SITES, OTHER, Clients, Durations, Figures, GeneratorFigures, SiteFigures
from edgecache.processes.messages import Report
from edgecache.store.disk import DiskStats
from edgecache.store.stats import StoreStats
from edgecache.upstream.choosing.balancing import Condition
from edgecache.upstream.choosing.figures import OriginFigures

T = TypeVar("T")
_DISK_COUNTERS = ("hits", "misses", "written", "refused", "evicted", "declined", "corrupt", "purged", "failures")
_HELD = frozenset({"capacity_bytes", "used_bytes", "entries", "uris", "tags"})
"""Of the store: what is there now, and gone with its process."""


def add(total: Figures, report: Report) -> None:
    """Count into `total` what `report` has counted."""
    for name, site in report.sites.items():
        _add_site(_place(total.sites, name, MAX_SITES, SiteFigures), site)
    for name, generator in report.generators.items():
        sum_of = _place(total.generators, name, MAX_GENERATORS, GeneratorFigures)
        sum_of.cpu_ns += generator.cpu_ns
        sum_of.log_dropped_bytes += generator.log_dropped_bytes
        for end, count in generator.ends.items():
            sum_of.ends[end] = sum_of.ends.get(end, 0) + count
    for word, durations in report.durations.items():
        total.durations.setdefault(word, Durations()).add(durations)


def summed(reports: Iterable[Report]) -> Figures:
    """What all of them have counted."""
    total = Figures()
    for report in reports:
        add(total, report)
    return total


def store_of(living: Iterable[Report], gone: Iterable[Report]) -> StoreStats:
    """The stores of all processes: counters of all, contents of the living."""
    names = [field.name for field in dataclasses.fields(StoreStats)]
    sums = dict.fromkeys(names, 0)
    for report in living:
        for name in names:
            sums[name] += getattr(report.store, name)
    for report in gone:
        for name in names:
            if name not in _HELD:
                sums[name] += getattr(report.store, name)
    return StoreStats(**sums)


def disk_of(living: Iterable[Report], gone: Iterable[Report]) -> DiskStats | None:
    """The tier that all processes share: counters of all, contents as the last of the living tells them; None: there is none."""
    now = [report.disk for report in living if report.disk is not None]
    if not now:
        return None
    known = now + [report.disk for report in gone if report.disk is not None]
    sums = {name: sum(getattr(stats, name) for stats in known) for name in _DISK_COUNTERS}
    return dataclasses.replace(now[-1], waiting_bytes=sum(stats.waiting_bytes for stats in now), **sums)


def origins_of(living: Iterable[Report], gone: Iterable[Report]) -> tuple[OriginFigures, ...]:
    """The origins that living processes know: requests of all, connections and opinions of the living."""
    known: dict[tuple[str, str], OriginFigures] = {}
    for row in (row for report in living for row in report.origins):
        other = known.get((row.site, row.url))
        known[row.site, row.url] = row if other is None else _joined(other, row, living=True)
    for row in (row for report in gone for row in report.origins):
        if (other := known.get((row.site, row.url))) is not None:
            known[row.site, row.url] = _joined(other, row, living=False)
    return tuple(known.values())


def _joined(first: OriginFigures, second: OriginFigures, *, living: bool) -> OriginFigures:
    held = second if living else dataclasses.replace(second, connections=0, pending=0, state=first.state)
    return dataclasses.replace(
        first,
        state=first.state if held.state == Condition.HEALTHY else held.state,
        requests=first.requests + held.requests,
        failures=first.failures + held.failures,
        retries=first.retries + held.retries,
        hedges=first.hedges + held.hedges,
        connections=first.connections + held.connections,
        pending=first.pending + held.pending,
    )


def merged(first: Report, second: Report) -> Report:
    """Both as if one process had counted it: for processes that have ended."""
    total = summed((first, second))
    return Report(
        sites=total.sites,
        generators=total.generators,
        durations=total.durations,
        log_lines_dropped=first.log_lines_dropped + second.log_lines_dropped,
        store=store_of((first, second), ()),
        fast_hits=first.fast_hits + second.fast_hits,
        cpu_seconds=first.cpu_seconds + second.cpu_seconds,
        origins=origins_of((first, second), ()),
        disk=disk_of((first, second), ()),
        spans_sent=first.spans_sent + second.spans_sent,
        spans_dropped=first.spans_dropped + second.spans_dropped,
    )


class Spans:
    """What all processes have told of traces."""

    def __init__(self, reports: Callable[[], list[Report]]) -> None:
        self._reports = reports

    @property
    def sent(self) -> int:
        return sum(report.spans_sent for report in self._reports())

    @property
    def dropped(self) -> int:
        return sum(report.spans_dropped for report in self._reports())


class Reports:
    """All processes together, as `observe.metrics.Sources` wants them. `living`: the last reports of those that live."""

    def __init__(self, living: Callable[[], list[Report]]) -> None:
        self._living = living
        self._gone: Report | None = None
        self.traces = Spans(self._all)

    def bury(self, report: Report) -> None:
        """The last report of a process that has ended: counters must not fall."""
        self._gone = report if self._gone is None else merged(self._gone, report)

    @property
    def figures(self) -> Figures:
        return summed(self._all())

    @property
    def log_lines_dropped(self) -> int:
        return sum(report.log_lines_dropped for report in self._all())

    def store(self) -> StoreStats:
        return store_of(self._living(), () if self._gone is None else (self._gone,))

    def disk(self) -> DiskStats | None:
        return disk_of(self._living(), () if self._gone is None else (self._gone,))

    def clients(self) -> Clients:
        living = self._living()
        tunnels: dict[str, int] = {}
        for report in living:
            for site, count in report.tunnels.items():
                tunnels[site] = tunnels.get(site, 0) + count
        return Clients(sum(report.connections for report in living), tunnels)

    def fast_hits(self) -> int:
        return sum(report.fast_hits for report in self._all())

    def origins(self) -> tuple[OriginFigures, ...]:
        """By site and URL; of several processes' opinions on one origin, the worst is told."""
        return origins_of(self._living(), () if self._gone is None else (self._gone,))

    def _all(self) -> list[Report]:
        return self._living() + ([] if self._gone is None else [self._gone])


def _add_site(total: SiteFigures, site: SiteFigures) -> None:
    for result, count in site.by_result.items():
        total.by_result[result] = total.by_result.get(result, 0) + count
    total.bytes_sent += site.bytes_sent
    total.collapsed += site.collapsed
    total.truncated += site.truncated
    for name, route in site.routes.items():
        total.route(name).add(route)
    for reason, count in site.reasons.items():
        total.count_reason(reason, count)
    for (why, came), count in site.renewals.items():
        total.count_renewal(why, came, count)


def _place(held: dict[str, T], name: str, most: int, make: type[T]) -> T:
    if name not in held and len(held) >= most:
        name = OTHER
    return held.setdefault(name, make())
