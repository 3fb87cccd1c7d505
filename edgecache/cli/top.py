"""`edgecache top`: one screen of what the edge does now, fitted to the terminal. What is busy comes first.

`screen` makes a screen from two answers of GET /v1/status, and asks nobody; `top` asks and draws.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.errors import CommandFailed
from edgecache.cli.figures import duration, size
from edgecache.cli.options import WholeNumber, with_client
from edgecache.cli.tables import shown

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_LEAST_ROWS: Final = 2
"""Of each table, however little room there is: one, and how many more there are."""
_MAX_CELL: Final = 44
_EVERYTHING: Final = 10_000
_WIDE: Final = 200
"""Columns of a file or a pipe."""


@click.command()
@click.option(
    "--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS", help="Between two looks"
)
@click.option("--times", type=WholeNumber(1), help="Print so many looks, one after the other, and stop")
@with_client
def top(client: ControlClient, every: float, times: int | None) -> None:
    """Watch the edge, live: what it answers, and who gets its CPU. Ctrl-C ends.

    PROMISED and RECEIVED are parts of the CPU time given out in the last ten seconds: what weights and caps entitle to, among
    those that competed, and what came of it. CPU is in percent of one core; rates are per second, since the last look.
    """
    from rich.console import Console  # noqa: PLC0415 (slow to import, and only needed here)

    console = Console(highlight=False, file=sys.stdout)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    try:
        if times is None and console.is_terminal:
            _live(client, console, every)
        else:
            _printed(client, console, every, times)
    except KeyboardInterrupt:
        return


def _printed(client: ControlClient, console: Any, every: float, times: int | None) -> None:
    before: Json | None = None
    looks = 0
    while times is None or looks < times:
        if looks:
            time.sleep(every)
            console.print()
        now = client.get("status")
        console.print(screen(now, before, console.width, _EVERYTHING))
        before, looks = now, looks + 1


def _live(client: ControlClient, console: Any, every: float) -> None:
    """Until Ctrl-C. An edge that stops answering, as in an upgrade, is asked on, and the last screen stays."""
    from rich.console import Group  # noqa: PLC0415 (as above)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    before: Json | None = None
    now = client.get("status")
    trouble = ""
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            room = console.height - (1 if trouble else 0)
            drawn = screen(now, before, console.width, room)
            warning = Text(f"{trouble}; asking on", style="bold red", no_wrap=True, overflow="ellipsis")
            live.update(Group(warning, drawn) if trouble else drawn, refresh=True)
            time.sleep(every)
            try:
                found = client.get("status")
            except CommandFailed as error:
                trouble = error.message
                continue
            # An edge that was started anew has counted nothing yet.
            before, now, trouble = (None if found["uptime_seconds"] < now["uptime_seconds"] else now), found, ""


@dataclass(frozen=True, slots=True)
class _Rates:
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
class _Column:
    """`rank`: columns with the highest go first where the terminal is narrow; 0 stays."""

    head: str
    cell: Callable[[str], object]
    rank: int = 0
    left: bool = False


def screen(now: Json, before: Json | None, width: int, height: int) -> Group:
    """What fits into `width` by `height` characters; more rows than fit are told as a number."""
    from rich.console import Group  # noqa: PLC0415 (as above)
    from rich.text import Text  # noqa: PLC0415

    rates = _Rates(now, before)
    lines = [_head(now), *_facts(now, rates)]
    tables = [(columns, names) for columns, names in _tables(now, rates) if names]
    # Of each table: an empty line, its heads, its rows. The last ones are missed least.
    while len(tables) > 1 and sum(2 + min(len(names), _LEAST_ROWS) for _, names in tables) > height - len(lines):
        tables.pop()
    room = height - len(lines) - 2 * len(tables)
    rows = _divided(room, [len(names) for _, names in tables])
    drawn: list[Any] = [
        Text(line, no_wrap=True, overflow="ellipsis", style="bold" if not at else "") for at, line in enumerate(lines)
    ]
    for (columns, names), count in zip(tables, rows, strict=True):
        drawn.extend((Text(""), _drawn(columns, names, count, width)))
    return Group(*drawn)


def _divided(room: int, wanted: Sequence[int]) -> list[int]:
    """How many rows each table gets: what it wants, or an equal part of what the others leave, but a few in any case."""
    given = [min(want, _LEAST_ROWS) for want in wanted]
    while sum(given) < room and given != list(wanted):
        least = min((count, at) for at, count in enumerate(given) if count < wanted[at])[1]
        given[least] += 1
    return given


def _head(now: Json) -> str:
    sites = now["sites"]
    generators = sum(len(site["generators"]) for site in sites)
    state = now["state"]["status"]
    return (
        f"edgecache {now['version']} · up {duration(now['uptime_seconds'])} · state {state} · "
        f"{_many(len(sites), 'site')} · {_many(generators, 'generator')}"
    )


def _facts(now: Json, rates: _Rates) -> list[str]:
    """A line for each room that is there, and that tells what this version knows."""
    found: list[str] = []
    for room, told in _FACTS.items():
        part = now["parts"].get(room)
        if isinstance(part, dict):
            with contextlib.suppress(KeyError):
                found.append(f"{room:<9}" + " · ".join(told(part, rates)))
    return found


def _traffic(part: Json, rates: _Rates) -> tuple[str, ...]:
    return (
        f"{rates.told('traffic', 'requests')} requests/s",
        f"hit ratio {part['hit_ratio']:.1%}",
        f"{rates.told('traffic', 'errors')} errors/s",
        f"{size(rates.of('traffic', 'sent_bytes') or 0)}/s",
        f"{part['requests']:,} requests since the start",
    )


def _cache(part: Json, rates: _Rates) -> tuple[str, ...]:
    return (
        f"{size(part['used_bytes'])} of {size(part['capacity_bytes'])}",
        f"{part['entries']:,} responses",
        f"{rates.told('cache', 'evicted')} evicted/s",
        f"{part['purged']:,} purged",
    )


def _disk(part: Json, rates: _Rates) -> tuple[str, ...]:
    return (
        f"{size(part['used_bytes'])} of {size(part['capacity_bytes'])}",
        f"{part['objects']:,} responses",
        f"{rates.told('disk', 'hits')} hits/s",
        f"{rates.told('disk', 'evicted')} evicted/s",
    )


def _sandbox(part: Json, rates: _Rates) -> tuple[str, ...]:
    return (
        f"{part['engine']}",
        f"CPU {rates.cpu('sandbox', 'cpu_ns')}",
        f"{part['active']} active, {part['queued']} queued",
        f"{part['vms']} VMs in {_many(part['workers'], 'worker')}",
        f"{size(part['hot_bytes'])} of {size(part['hot_budget_bytes'])}",
    )


def _upstream(part: Json, rates: _Rates) -> tuple[str, ...]:
    return (
        f"{rates.told('upstream', 'requests')} requests/s",
        f"{rates.told('upstream', 'failures')} failures/s",
        f"{_many(part['origins'], 'origin')}, {part['unhealthy']} not healthy",
        f"{part['connections']} connections",
    )


_FACTS: Final[Mapping[str, Callable[[Json, _Rates], tuple[str, ...]]]] = {
    "traffic": _traffic,
    "cache": _cache,
    "disk": _disk,
    "sandbox": _sandbox,
    "upstream": _upstream,
}
"""What is told of each room, in the order of the screen."""


def _tables(now: Json, rates: _Rates) -> Iterable[tuple[list[_Column], list[str]]]:
    """Columns and the names of the rows, the busiest first."""
    yield from _share_tables(now, rates)
    yield _origin_table(now["parts"], rates)
    yield _process_table(now["parts"], rates)


def _share_tables(now: Json, rates: _Rates) -> Iterable[tuple[list[_Column], list[str]]]:
    """A table for each level of the tree of shares."""
    parts = now["parts"]
    sandbox = parts.get("sandbox", {})
    hosts = {site["name"]: site["hosts"] for site in now["sites"]}
    for group, head in (("clusters", "CLUSTER"), ("sites", "SITE"), ("generators", "GENERATOR")):
        known: dict[str, Any] = dict(sandbox.get(group, {}))
        if group == "sites":
            # The sandbox knows those that have generators; the others have a weight, too.
            known = {**{site["name"]: {"weight": site["weight"]} for site in now["sites"]}, **known}
        columns = [_Column(head, str, left=True), *_share_columns(known, rates, group)]
        if group == "sites":
            columns += [
                _Column("REQ/S", lambda name: rates.told("traffic", "sites", name, "requests"), 1),
                _Column("HITS", lambda name: _percent(_at(parts, ("traffic", "sites", name, "hit_ratio"))), 2),
                _Column("ERR/S", lambda name: rates.told("traffic", "sites", name, "errors"), 3),
                _Column("HOSTS", hosts.get, 9, left=True),
            ]
        elif group == "generators":
            columns += [
                _Column("CALLS/S", lambda name: rates.told("sandbox", "generators", name, "calls"), 1),
                _Column("FAILED/S", lambda name: rates.told("sandbox", "generators", name, "failed"), 2),
                _Column("QUEUED", lambda name: _at(sandbox, ("generators", name, "queued")), 4),
                _Column("VMS", lambda name: _at(sandbox, ("generators", name, "vms")), 5),
                _Column("RESTS", lambda name: _rest(_at(sandbox, ("generators", name, "quarantined_seconds"))), 3),
            ]
        yield columns, sorted(known, key=lambda name: _business(known[name], rates, group, name))


def _origin_table(parts: Json, rates: _Rates) -> tuple[list[_Column], list[str]]:
    """Origins that are not healthy come first."""
    at = {
        f"{site} {url}": ("upstream", "sites", site, "origins", url)
        for site, found in parts.get("upstream", {}).get("sites", {}).items()
        for url in found["origins"]
    }
    columns = [
        _Column("ORIGIN", str, left=True),
        _Column("STATE", lambda label: _at(parts, (*at[label], "state")), left=True),
        _Column("REQ/S", lambda label: rates.told(*at[label], "requests"), 1),
        _Column("FAIL/S", lambda label: rates.told(*at[label], "failures"), 2),
        _Column("CONN", lambda label: _at(parts, (*at[label], "connections")), 3),
        _Column("WAIT", lambda label: _at(parts, (*at[label], "pending")), 4),
    ]

    def urgency(label: str) -> tuple[bool, float]:
        return _at(parts, (*at[label], "state")) == "healthy", -(rates.of(*at[label], "requests") or 0)

    return columns, sorted(at, key=urgency)


def _process_table(parts: Json, rates: _Rates) -> tuple[list[_Column], list[str]]:
    each = parts.get("processes", {}).get("each", {})
    columns = [
        _Column("PROCESS", str, left=True),
        _Column("STATE", lambda name: each[name].get("state"), left=True),
        _Column("REQ/S", lambda name: rates.told("processes", "each", name, "requests")),
        _Column("CONN", lambda name: each[name].get("connections"), 2),
        _Column("RESTARTS", lambda name: each[name].get("restarts"), 3),
        _Column("STORED", lambda name: size(each[name].get("stored_bytes", 0)), 4),
        _Column("PID", lambda name: each[name].get("pid"), 5),
    ]
    return columns, list(each)


def _share_columns(known: Mapping[str, Any], rates: _Rates, group: str) -> list[_Column]:
    def of(name: str, key: str) -> Any:
        return known.get(name, {}).get(key)

    return [
        _Column("WEIGHT", lambda name: of(name, "weight"), 6 if group == "generators" else 4),
        _Column("CAP", lambda name: None if of(name, "cap") is None else f"{of(name, 'cap')}%", 7),
        _Column("PROMISED", lambda name: _percent(of(name, "promised"))),
        _Column("RECEIVED", lambda name: _percent(of(name, "received"))),
        _Column("CPU", lambda name: rates.cpu("sandbox", group, name, "cpu_ns")),
    ]


def _business(row: Mapping[str, Any], rates: _Rates, group: str, name: str) -> tuple[float, float, float, str]:
    requests = rates.of("traffic", "sites", name, "requests") if group == "sites" else rates.of("sandbox", group, name, "calls")
    return (-row.get("received", 0), -(rates.of("sandbox", group, name, "cpu_ns") or 0), -(requests or 0), name)


def _drawn(columns: list[_Column], names: list[str], count: int, width: int) -> Table:
    from rich.table import Table  # noqa: PLC0415 (as above)
    from rich.text import Text  # noqa: PLC0415

    visible = names if len(names) <= count else names[: count - 1]
    more = f"… {len(names) - len(visible):,} more" if len(visible) < len(names) else ""
    cells = {column.head: [_cell(column, name) for name in visible] for column in columns}
    kept = list(columns)

    def wide() -> int:
        widths = [max(len(column.head), *map(len, cells[column.head])) for column in kept]
        return max(widths[0], len(more)) + sum(width + 2 for width in widths[1:])

    while visible and wide() > width and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in kept:
        table.add_column(column.head, justify="left" if column.left else "right", no_wrap=True, overflow="ellipsis")
    for row in zip(*(cells[column.head] for column in kept), strict=True):
        table.add_row(*map(Text, row))
    if more:
        table.add_row(Text(more, style="dim"))
        table.columns[0].min_width = len(more)
    return table


def _cell(column: _Column, name: str) -> str:
    text = shown(column.cell(name))
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"


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
