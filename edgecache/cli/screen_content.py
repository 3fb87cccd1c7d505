"""What the screen of `edgecache top` tells, made of two answers of GET /v1/status: lines, and tables, the busiest rows first.

`screen` finds room for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgecache.cli.client import Json
from edgecache.cli.figures import duration, size


@dataclass(frozen=True, slots=True)
class Rates:
    """Growth a second between two looks, of what both have. Without an earlier look there is none."""

    now: Json
    before: Json | None

    @property
    def seconds(self) -> float:
        return 0.0 if self.before is None else float(self.now["uptime_seconds"] - self.before["uptime_seconds"])

    def of(self, *path: str) -> float | None:
        """None: not known, or it does not grow."""
        new, old = _at(self.now["parts"], path), _at(self.before["parts"], path) if self.before else None
        if not isinstance(new, int | float) or not isinstance(old, int | float) or self.seconds <= 0:
            return None
        return max(0.0, (new - old) / self.seconds)

    def told(self, *path: str) -> str:
        rate = self.of(*path)
        return "-" if rate is None else f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"

    def cpu(self, *path: str) -> str:
        rate = self.of(*path)
        return "-" if rate is None else f"{rate / 1e7:.1f}%"


@dataclass(frozen=True, slots=True)
class Column:
    """`rank`: columns with the highest go first where the terminal is narrow; 0 stays."""

    head: str
    cell: Callable[[str], object]
    rank: int = 0
    left: bool = False


def lines_told(now: Json, rates: Rates) -> list[str]:
    """One of the edge itself, and one for each of its rooms that tells something."""
    return [_head(now), *_facts(now, rates)]


def _head(now: Json) -> str:
    sites = now["sites"]
    generators = sum(len(site["generators"]) for site in sites)
    state = now["state"]["status"]
    return (
        f"edgecache {now['version']} · up {duration(now['uptime_seconds'])} · state {state} · "
        f"{_many(len(sites), 'site')} · {_many(generators, 'generator')}"
    )


def _facts(now: Json, rates: Rates) -> list[str]:
    """A line for each room that is there, and that tells what this version knows."""
    found: list[str] = []
    for room, told in _FACTS.items():
        part = now["parts"].get(room)
        if isinstance(part, dict):
            with contextlib.suppress(KeyError):
                found.append(f"{room:<9}" + " · ".join(told(part, rates)))
    return found


def _traffic(part: Json, rates: Rates) -> tuple[str, ...]:
    return (
        f"{rates.told('traffic', 'requests')} requests/s",
        f"hit ratio {part['hit_ratio']:.1%}",
        f"{rates.told('traffic', 'errors')} errors/s",
        f"{size(rates.of('traffic', 'sent_bytes') or 0)}/s",
        f"{part['requests']:,} requests since the start",
    )


def _cache(part: Json, rates: Rates) -> tuple[str, ...]:
    return (
        f"{size(part['used_bytes'])} of {size(part['capacity_bytes'])}",
        f"{part['entries']:,} responses",
        f"{rates.told('cache', 'evicted')} evicted/s",
        f"{part['purged']:,} purged",
    )


def _disk(part: Json, rates: Rates) -> tuple[str, ...]:
    return (
        f"{size(part['used_bytes'])} of {size(part['capacity_bytes'])}",
        f"{part['objects']:,} responses",
        f"{rates.told('disk', 'hits')} hits/s",
        f"{rates.told('disk', 'evicted')} evicted/s",
    )


def _sandbox(part: Json, rates: Rates) -> tuple[str, ...]:
    return (
        f"{part['engine']}",
        f"CPU {rates.cpu('sandbox', 'cpu_ns')}",
        f"{part['active']} active, {part['queued']} queued",
        f"{part['vms']} VMs in {_many(part['workers'], 'worker')}",
        f"{size(part['hot_bytes'])} of {size(part['hot_budget_bytes'])}",
    )


def _upstream(part: Json, rates: Rates) -> tuple[str, ...]:
    return (
        f"{rates.told('upstream', 'requests')} requests/s",
        f"{rates.told('upstream', 'failures')} failures/s",
        f"{_many(part['origins'], 'origin')}, {part['unhealthy']} not healthy",
        f"{part['connections']} connections",
    )


_FACTS: Final[Mapping[str, Callable[[Json, Rates], tuple[str, ...]]]] = {
    "traffic": _traffic,
    "cache": _cache,
    "disk": _disk,
    "sandbox": _sandbox,
    "upstream": _upstream,
}
"""What is told of each room, in the order of the screen."""


def tables_told(now: Json, rates: Rates) -> Iterable[tuple[list[Column], list[str]]]:
    """Columns and the names of the rows, the busiest first."""
    yield from _share_tables(now, rates)
    yield _origin_table(now["parts"], rates)
    yield _process_table(now["parts"], rates)


def _share_tables(now: Json, rates: Rates) -> Iterable[tuple[list[Column], list[str]]]:
    """A table for each level of the tree of shares."""
    parts = now["parts"]
    sandbox = parts.get("sandbox", {})
    hosts = {site["name"]: site["hosts"] for site in now["sites"]}
    for group, head in (("clusters", "CLUSTER"), ("sites", "SITE"), ("generators", "GENERATOR")):
        known: dict[str, Any] = dict(sandbox.get(group, {}))
        if group == "sites":
            # The sandbox knows those that have generators; the others have a weight, too.
            known = {**{site["name"]: {"weight": site["weight"]} for site in now["sites"]}, **known}
        columns = [Column(head, str, left=True), *_share_columns(known, rates, group)]
        if group == "sites":
            columns += [
                Column("REQ/S", lambda name: rates.told("traffic", "sites", name, "requests"), 1),
                Column("HITS", lambda name: _percent(_at(parts, ("traffic", "sites", name, "hit_ratio"))), 2),
                Column("ERR/S", lambda name: rates.told("traffic", "sites", name, "errors"), 3),
                Column("HOSTS", hosts.get, 9, left=True),
            ]
        elif group == "generators":
            columns += [
                Column("CALLS/S", lambda name: rates.told("sandbox", "generators", name, "calls"), 1),
                Column("FAILED/S", lambda name: rates.told("sandbox", "generators", name, "failed"), 2),
                Column("QUEUED", lambda name: _at(sandbox, ("generators", name, "queued")), 4),
                Column("VMS", lambda name: _at(sandbox, ("generators", name, "vms")), 5),
                Column("RESTS", lambda name: _rest(_at(sandbox, ("generators", name, "quarantined_seconds"))), 3),
            ]
        yield columns, sorted(known, key=lambda name: _business(known[name], rates, group, name))


def _origin_table(parts: Json, rates: Rates) -> tuple[list[Column], list[str]]:
    """Origins that are not healthy come first."""
    at = {
        f"{site} {url}": ("upstream", "sites", site, "origins", url)
        for site, found in parts.get("upstream", {}).get("sites", {}).items()
        for url in found["origins"]
    }
    columns = [
        Column("ORIGIN", str, left=True),
        Column("STATE", lambda label: _at(parts, (*at[label], "state")), left=True),
        Column("REQ/S", lambda label: rates.told(*at[label], "requests"), 1),
        Column("FAIL/S", lambda label: rates.told(*at[label], "failures"), 2),
        Column("CONN", lambda label: _at(parts, (*at[label], "connections")), 3),
        Column("WAIT", lambda label: _at(parts, (*at[label], "pending")), 4),
    ]

    def urgency(label: str) -> tuple[bool, float]:
        return _at(parts, (*at[label], "state")) == "healthy", -(rates.of(*at[label], "requests") or 0)

    return columns, sorted(at, key=urgency)


def _process_table(parts: Json, rates: Rates) -> tuple[list[Column], list[str]]:
    each = parts.get("processes", {}).get("each", {})
    columns = [
        Column("PROCESS", str, left=True),
        Column("STATE", lambda name: each[name].get("state"), left=True),
        Column("REQ/S", lambda name: rates.told("processes", "each", name, "requests")),
        Column("CONN", lambda name: each[name].get("connections"), 2),
        Column("RESTARTS", lambda name: each[name].get("restarts"), 3),
        Column("STORED", lambda name: size(each[name].get("stored_bytes", 0)), 4),
        Column("PID", lambda name: each[name].get("pid"), 5),
    ]
    return columns, list(each)


def _share_columns(known: Mapping[str, Any], rates: Rates, group: str) -> list[Column]:
    def of(name: str, key: str) -> Any:
        return known.get(name, {}).get(key)

    return [
        Column("WEIGHT", lambda name: of(name, "weight"), 6 if group == "generators" else 4),
        Column("CAP", lambda name: None if of(name, "cap") is None else f"{of(name, 'cap')}%", 7),
        Column("PROMISED", lambda name: _percent(of(name, "promised"))),
        Column("RECEIVED", lambda name: _percent(of(name, "received"))),
        Column("CPU", lambda name: rates.cpu("sandbox", group, name, "cpu_ns")),
    ]


def _business(row: Mapping[str, Any], rates: Rates, group: str, name: str) -> tuple[float, float, float, str]:
    requests = rates.of("traffic", "sites", name, "requests") if group == "sites" else rates.of("sandbox", group, name, "calls")
    return (-row.get("received", 0), -(rates.of("sandbox", group, name, "cpu_ns") or 0), -(requests or 0), name)


def _at(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        if not isinstance(document, dict) or step not in document:
            return None
        document = document[step]
    return document


def _percent(part: object) -> str | None:
    return f"{part:.1%}" if isinstance(part, int | float) else None


def _rest(seconds: object) -> str | None:
    """How long a quarantine lasts still."""
    return f"{seconds:.0f} s" if isinstance(seconds, int | float) and seconds > 0 else None


def _many(count: int, one: str) -> str:
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"
