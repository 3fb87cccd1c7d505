"""The origins of all sites in metrics and status. `upstream` counts, this shows it, at a scrape or a look.

Label values are bounded: origins beyond a thousand are left out of both; the busiest are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

MAX_ROWS: Final = 1000
STATES: Final = ("healthy", "ejected", "open", "down")


class OriginFigures(Protocol):
    """What is told of one origin of one site: `upstream.choosing.figures.OriginFigures` has it."""

    @property
    def site(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def backup(self) -> bool: ...
    @property
    def requests(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def hedges(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def pending(self) -> int: ...


Origins = Callable[[], Sequence[OriginFigures]]


class OriginMetrics(Collector):
    """One row an origin of a site."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def collect(self) -> Iterable[Metric]:
        labels = ("site", "origin")
        counters = {
            "requests": CounterMetricFamily("edgecache_origin_requests", "Sent, retries and hedges included.", labels=labels),
            "failures": CounterMetricFamily("edgecache_origin_failures", "Of these, failed or answered 5xx.", labels=labels),
            "retries": CounterMetricFamily("edgecache_origin_retries", "Of these, sent as another had failed.", labels=labels),
            "hedges": CounterMetricFamily("edgecache_origin_hedges", "Of these, sent as another took long.", labels=labels),
        }
        gauges = {
            "connections": GaugeMetricFamily("edgecache_origin_connections", "Requests under way.", labels=labels),
            "pending": GaugeMetricFamily("edgecache_origin_pending", "Requests that wait for one to end.", labels=labels),
        }
        states = GaugeMetricFamily("edgecache_origin_state", "1 for the state that it is in.", labels=(*labels, "state"))
        for row in _busiest(self._origins()):
            for field, counter in counters.items():
                counter.add_metric((row.site, row.url), getattr(row, field))
            for field, gauge in gauges.items():
                gauge.add_metric((row.site, row.url), getattr(row, field))
            for state in STATES:
                states.add_metric((row.site, row.url, state), row.state == state)
        return (*counters.values(), *gauges.values(), states)


def origins_part(origins: Sequence[OriginFigures]) -> dict[str, object]:
    """For `/v1/status`: totals, and the origins of each site by URL."""
    sites: dict[str, dict[str, dict[str, object]]] = {}
    for row in _busiest(origins):
        sites.setdefault(row.site, {})[row.url] = {
            "state": row.state,
            "backup": row.backup,
            "requests": row.requests,
            "failures": row.failures,
            "retries": row.retries,
            "hedges": row.hedges,
            "connections": row.connections,
            "pending": row.pending,
        }
    return {
        "origins": len(origins),
        "unhealthy": sum(row.state != "healthy" for row in origins),
        "requests": sum(row.requests for row in origins),
        "failures": sum(row.failures for row in origins),
        "retries": sum(row.retries for row in origins),
        "hedges": sum(row.hedges for row in origins),
        "connections": sum(row.connections for row in origins),
        "sites": {name: {"origins": rows} for name, rows in sites.items()},
    }


def _busiest(origins: Sequence[OriginFigures]) -> Sequence[OriginFigures]:
    return sorted(origins, key=lambda row: -row.requests)[:MAX_ROWS] if len(origins) > MAX_ROWS else origins
