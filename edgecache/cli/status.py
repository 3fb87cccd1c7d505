"""`edgecache status` and `edgecache top`: what an edge is and does, once or live."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.options import json_option, print_json, with_client
from edgecache.cli.tables import make_table, print_table, shown

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_MAX_ROWS: Final = 40
_GROUPS: Final = {"clusters": "cluster", "sites": "site", "generators": "generator", "each": "process"}
"""What a room counts for each of several, and what one of them is called."""
_PARTS_OF_CPU: Final = frozenset({"promised", "received"})
_STEADY: Final = _PARTS_OF_CPU | {"weight", "cap"}
"""What does not add up, and so has no rate."""


@click.command()
@json_option
@with_client
def status(client: ControlClient, as_json: bool) -> None:
    """Show what the edge is and does."""
    found = client.get("status")
    if as_json:
        print_json(found)
        return
    state = found["state"]
    trouble = f": {state['detail']}" if state["status"] != "ok" and state.get("detail") else ""
    click.echo(f"edgecache {found['version']} · up {_duration(found['uptime_seconds'])} · state {state['status']}{trouble}")
    for name, part in found["parts"].items():
        facts = "  ".join(f"{key} {shown(value)}" for key, value in _flat(part))
        if facts:
            click.echo(f"{name}: {facts}")
    print_table(_SITE_COLUMNS, _site_rows(found), right=("WEIGHT",), empty="There are no sites.")
    if origins := list(_origin_rows(found)):
        click.echo()
        print_table(_ORIGIN_COLUMNS, origins, right=_ORIGIN_COLUMNS[3:], empty="")
    if processes := list(_process_rows(found)):
        click.echo()
        print_table(_PROCESS_COLUMNS, processes, right=_PROCESS_COLUMNS, empty="")


@click.command()
@click.option(
    "--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS", help="Between two looks"
)
@click.option("--times", type=click.IntRange(1), help="Stop after so many looks")
@with_client
def top(client: ControlClient, every: float, times: int | None) -> None:
    """Watch the edge, live: sites, generators, VMs, CPU, memory, hits. Ctrl-C ends.

    PROMISED and RECEIVED are parts of the CPU time given out in the last ten seconds: what weights and caps entitle to, among
    those that competed, and what came of it.
    """
    from rich.console import Console  # noqa: PLC0415 (slow to import, and only needed here)
    from rich.live import Live  # noqa: PLC0415

    before: Json | None = None
    console = Console(highlight=False, file=sys.stdout)
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal and times is None) as live:
            looks = 0
            while True:
                now = client.get("status")
                live.update(_screen(now, before), refresh=True)
                looks += 1
                if times is not None and looks >= times:
                    return
                before = now
                time.sleep(every)
    except KeyboardInterrupt:
        return


_SITE_COLUMNS: Final = ("SITE", "HOSTS", "WEIGHT", "GENERATOR", "ROUTES", "ACTIVE")


_ORIGIN_COLUMNS: Final = ("SITE", "ORIGIN", "STATE", "REQUESTS", "FAILURES", "RETRIES", "HEDGES", "CONNECTIONS")


def _origin_rows(found: Json) -> Iterator[tuple[object, ...]]:
    for site, known in found["parts"].get("upstream", {}).get("sites", {}).items():
        for url, row in known["origins"].items():
            state = f"{row['state']} (backup)" if row["backup"] else row["state"]
            yield (site, url, state, *(row[column.lower()] for column in _ORIGIN_COLUMNS[3:]))


_PROCESS_COLUMNS: Final = ("PROCESS", "PID", "STATE", "RESTARTS", "REQUESTS", "CONNECTIONS", "STORED_BYTES", "CPU_SECONDS")


def _process_rows(found: Json) -> Iterator[tuple[object, ...]]:
    for name, row in found["parts"].get("processes", {}).get("each", {}).items():
        keys = (column.lower() for column in _PROCESS_COLUMNS[1:])
        yield (name, *(row[key] if key == "pid" else _figure(key, row[key]) for key in keys))


def _site_rows(found: Json) -> Iterator[tuple[object, ...]]:
    for site in found["sites"]:
        head = (site["name"], site["hosts"], site["weight"])
        if not site["generators"]:
            yield (*head, None, None, None)
        for generator in site["generators"]:
            active = [f"v{part['version']} {part['percent']} %" for part in generator["active"]]
            yield (*head, generator["name"], generator["routes"], active)
            head = ("", "", "")


def _flat(part: object) -> Iterator[tuple[str, object]]:
    """The plain facts of a room, in order; what it groups by site or generator is left to `top`."""
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if isinstance(value, dict):
            if key not in _GROUPS:
                yield from ((f"{key}.{inner}", fact) for inner, fact in _flat(value))
        elif not isinstance(value, list) or all(not isinstance(item, dict) for item in value):
            yield key, _figure(key, value)


def _screen(now: Json, before: Json | None) -> Group:
    from rich.console import Group  # noqa: PLC0415 (as above)
    from rich.text import Text  # noqa: PLC0415

    head = Text(
        f"edgecache {now['version']} · up {_duration(now['uptime_seconds'])} · state {now['state']['status']} · "
        f"{len(now['sites'])} sites · {sum(len(site['generators']) for site in now['sites'])} generators"
    )
    seconds = now["uptime_seconds"] - before["uptime_seconds"] if before else 0.0
    parts: list[Table] = []
    for name, part in now["parts"].items():
        old = before["parts"].get(name) if before else None
        parts.append(_part_table(name, part, old, seconds))
        parts.extend(_grouped_tables(name, part, old, seconds))
    sites = make_table(_SITE_COLUMNS, list(_site_rows(now))[:_MAX_ROWS], right=("WEIGHT",), title="sites")
    return Group(head, *parts, sites)


def _part_table(name: str, part: object, before: object, seconds: float) -> Table:
    old = dict(_numbers(before))
    rows = [(key, _figure(key, value), _rate(key, value, old, seconds)) for key, value in _numbers(part)]
    return make_table(("", "", "per second"), rows[:_MAX_ROWS], right=("", "per second"), title=name)


def _grouped_tables(name: str, part: object, before: object, seconds: float) -> Iterator[Table]:
    for group, one in _GROUPS.items():
        members = part.get(group) if isinstance(part, dict) else None
        if not isinstance(members, dict) or not members:
            continue
        olds = before.get(group, {}) if isinstance(before, dict) else {}
        columns = list(dict.fromkeys(key for member in members.values() for key, _ in _numbers(member)))
        rows = []
        for label, member in members.items():
            values, old = dict(_numbers(member)), dict(_numbers(olds.get(label)))
            cells = []
            for key in columns:
                value = values.get(key)
                rate = _rate(key, value, old, seconds) if isinstance(value, int | float) else ""
                per = "" if rate.endswith("%") else "/s"
                cells.append(f"{_figure(key, value)}{f' ({rate}{per})' if rate else ''}" if value is not None else None)
            rows.append((label, *cells))
        heads = [column.replace("_", " ") for column in columns]  # words that a narrow terminal can break
        yield make_table((one, *heads), rows[:_MAX_ROWS], right=heads, title=name if group == "each" else f"{name}: {group}")


def _numbers(part: object) -> Iterator[tuple[str, float | int]]:
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


def _rate(key: str, value: float | None, old: dict[str, float | int], seconds: float) -> str:
    """Growth a second of what grew since the last look; CPU time as a part of one core."""
    if value is None or key in _STEADY or key not in old or seconds <= 0 or value <= old[key]:
        return ""
    growth = (value - old[key]) / seconds
    return f"{growth / 1e7:.1f} %" if key.endswith("_ns") else f"{growth:,.0f}" if growth >= 10 else f"{growth:.1f}"


def _figure(key: str, value: object) -> object:
    """Sizes and times in units that people read; the key says which they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if key == "pid":
        return str(value)
    if key.endswith("_ns"):
        return f"{value / 1e9:.3f} s"
    if key in _PARTS_OF_CPU:
        return f"{value:.1%}"
    if key == "cap":
        return f"{value} %"
    if key.endswith("_bytes") or key == "bytes":
        return _size(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    named = [(days, "d"), (hours, "h"), (minutes, "m"), (whole % 60, "s")]
    shown_parts = [f"{number} {unit}" for number, unit in named if number]
    return " ".join(shown_parts[:2]) or "0 s"
