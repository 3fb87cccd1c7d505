"""What is counted of the traffic: plain numbers in bounded tables, cheap enough for every hit of the fast lane.

No format and no clock here. `recorder` fills it, `metrics` and `status` show it. All on the event loop's thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from edgecache.observe.counting import Kind, RepeatedCount
from edgecache.observe.record import CACHE_WORDS, Record, Renewal
from sandbox import End, Usage

OTHER: Final = "(other)"
NO_SITE: Final = "(none)"
MAX_SITES: Final = 1000
"""Sites with figures of their own; the rest share those of OTHER."""
MAX_GENERATORS: Final = 1000
MAX_ROUTES: Final = 50
"""Routes of one site with figures of their own; the rest share those of OTHER."""
MAX_REASONS: Final = 64
"""Reasons told apart for one site. They come from fixed sets; this holds whatever those grow to."""
ORIGIN_ROUTE: Final = "origin"
"""The route of requests that no generator claims."""
BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the durations' histogram, in seconds."""
HITS: Final = frozenset({"hit", "stale", "revalidated"})
"""The words for answers out of the cache."""
DONE: Final = "done"
FAILED: Final = "failed"


@dataclass(slots=True)
class Durations:
    """A histogram: requests in each bucket of BUCKETS, and beyond the last; and the sum of their seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, other: Durations) -> None:
        """Count what `other` has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


@dataclass(slots=True)
class RouteFigures:
    """One route of a site, which is a generator's or the origin's: rate, errors, durations."""

    by_result: dict[tuple[str, str], Durations] = field(default_factory=dict)
    """By class of status (`2xx`) and cache word."""

    def of_result(self, status: str, word: str) -> Durations:
        """Where answers with this class of status and this cache word are counted."""
        return self.by_result.setdefault((status, word), Durations())

    def add(self, other: RouteFigures) -> None:
        """Count what `other` has counted."""
        for (status, word), durations in other.by_result.items():
            self.of_result(status, word).add(durations)


@dataclass(slots=True)
class SiteFigures:
    """One site since the start."""

    by_result: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Requests by class of status (`2xx`), cache word and protocol."""
    bytes_sent: int = 0
    collapsed: int = 0
    truncated: int = 0
    routes: dict[str, RouteFigures] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    """Requests by the reason in their records, where there is one."""
    renewals: dict[tuple[str, str], int] = field(default_factory=dict)
    """Stored responses fetched anew in the background, by the word of a `Renewal` and of a result."""

    def route(self, name: str) -> RouteFigures:
        """Where requests for this route are counted."""
        return self.routes.setdefault(self.named(name), RouteFigures())

    def named(self, route: str) -> str:
        """The name under which requests for this route are counted."""
        return OTHER if route not in self.routes and len(self.routes) >= MAX_ROUTES else route

    def count_reason(self, reason: str, count: int = 1) -> None:
        if reason not in self.reasons and len(self.reasons) >= MAX_REASONS:
            reason = OTHER
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def count_renewal(self, why: str, result: str, count: int = 1) -> None:
        self.renewals[why, result] = self.renewals.get((why, result), 0) + count

    @property
    def requests(self) -> int:
        return sum(self.by_result.values())

    @property
    def hits(self) -> int:
        return sum(count for (_, word, _), count in self.by_result.items() if word in HITS)

    @property
    def errors(self) -> int:
        return sum(count for (status, _, _), count in self.by_result.items() if status == "5xx")


@dataclass(frozen=True, slots=True)
class Clients:
    """Who is connected now."""

    connections: int = 0
    tunnels: Mapping[str, int] = field(default_factory=dict)
    """Connections that have become tunnels, by site."""


@dataclass(slots=True)
class GeneratorFigures:
    """One generator since the start, all its versions together."""

    cpu_ns: int = 0
    log_dropped_bytes: int = 0
    """Above a limit or a rate."""
    ends: dict[End, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return sum(self.ends.values())


class _Place:
    """Where requests of one kind are counted."""

    __slots__ = ("_durations", "_result", "_route", "_site")

    def __init__(self, site: SiteFigures, route: Durations, durations: Durations, result: tuple[str, str, str]) -> None:
        self._site, self._route, self._durations, self._result = site, route, durations, result

    def put(self, requests: int, size: int, longest: float, seconds: float) -> None:
        """See `counting.Put`."""
        site, bucket = self._site, bisect_left(BUCKETS, longest)
        site.by_result[self._result] = site.by_result.get(self._result, 0) + requests
        site.bytes_sent += size
        for durations in (self._durations, self._route):
            durations.counts[bucket] += requests
            durations.seconds += seconds


def _count_besides(site: SiteFigures, record: Record) -> None:
    site.collapsed += record.collapsed
    site.truncated += record.truncated
    if record.reason:
        site.count_reason(record.reason)


class Figures:
    """All that is counted since the start."""

    def __init__(self) -> None:
        self._sites: dict[str, SiteFigures] = {}
        self.generators: dict[str, GeneratorFigures] = {}
        """By `site/generator`."""
        self._durations: dict[str, Durations] = {}
        self._kinds: dict[tuple[str, str, str, str, str], Kind] = {}

    @property
    def sites(self) -> dict[str, SiteFigures]:
        """By name."""
        self._settle()
        return self._sites

    @property
    def durations(self) -> dict[str, Durations]:
        """By cache word."""
        self._settle()
        return self._durations

    def count(self, record: Record) -> None:
        """One finished request."""
        self.repeated(record).add(record.duration)

    def repeated(self, record: Record) -> RepeatedCount:
        """Counts requests that differ from `record` in `Repeated`'s fields only."""
        name = record.site or NO_SITE
        site = self._site(name)
        word = record.cache if record.cache in CACHE_WORDS else OTHER
        status = _CLASSES.get(record.status // 100, OTHER)
        route = site.named(record.generator or (ORIGIN_ROUTE if record.site else NO_SITE))
        key = (name if name in self._sites else OTHER, route, status, word, record.protocol)
        kind = self._kinds.get(key)
        if kind is None:
            durations = self._durations.get(word)
            if durations is None:
                durations = self._durations[word] = Durations()
            place = _Place(site, site.route(route).of_result(status, word), durations, (status, word, record.protocol))
            kind = self._kinds[key] = Kind(place.put, BUCKETS[0])
        odd = record.collapsed or record.truncated or record.reason
        return RepeatedCount(kind, record.bytes_sent, partial(_count_besides, site, record) if odd else None)

    def _settle(self) -> None:
        for kind in self._kinds.values():
            kind.settle()

    def count_renewal(self, site: str, why: Renewal, *, done: bool) -> None:
        """A stored response was fetched anew in the background, or could not be."""
        self._site(site or NO_SITE).count_renewal(why.value, DONE if done else FAILED)

    def count_call(self, key: str, end: End, usage: Usage) -> None:
        """One finished call of a generator; `key` is the monitor's name for its version, `site/generator@version`."""
        name = key.partition("@")[0]
        figures = self.generators.get(name)
        if figures is None:
            if len(self.generators) >= MAX_GENERATORS:
                name = OTHER
            figures = self.generators.setdefault(name, GeneratorFigures())
        figures.cpu_ns += usage.cpu_ns
        figures.log_dropped_bytes += usage.log_dropped_bytes
        figures.ends[end] = figures.ends.get(end, 0) + 1

    def _site(self, name: str) -> SiteFigures:
        figures = self._sites.get(name)
        if figures is None:
            if len(self._sites) >= MAX_SITES:
                name = OTHER
            figures = self._sites.setdefault(name, SiteFigures())
        return figures


_CLASSES: Final = {number: f"{number}xx" for number in range(1, 6)}
