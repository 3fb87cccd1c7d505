"""`edgecache status`: what an edge is and does, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.figures import duration, size
from edgecache.cli.options import json_option, print_json, with_client
from edgecache.cli.tables import print_facts, print_table

_SITE_COLUMNS: Final = ("SITE", "HOSTS", "WEIGHT", "GENERATOR", "ROUTES", "ACTIVE")
_ORIGIN_COLUMNS: Final = ("SITE", "ORIGIN", "STATE", "REQUESTS", "FAILURES", "RETRIES", "HEDGES", "CONNECTIONS")
_PROCESS_COLUMNS: Final = ("PROCESS", "PID", "STATE", "RESTARTS", "REQUESTS", "CONNECTIONS", "STORED_BYTES", "CPU_SECONDS")
_GROUPS: Final = {"clusters": "cluster", "sites": "site", "generators": "generator", "each": "process"}
"""What a room counts for each of several, and what one of them is called."""
_PARTS_OF_CPU: Final = frozenset({"promised", "received"})


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
    click.echo(f"edgecache {found['version']} · up {duration(found['uptime_seconds'])} · state {state['status']}{trouble}")
    for name, part in found["parts"].items():
        print_facts(name, ((_words(key), value) for key, value in _flat(part)))
    click.echo()
    print_table(_SITE_COLUMNS, _site_rows(found), right=("WEIGHT",), empty="There are no sites.", heads=True)
    if origins := list(_origin_rows(found)):
        click.echo()
        print_table(_ORIGIN_COLUMNS, origins, right=_ORIGIN_COLUMNS[3:], empty="", heads=True)
    if processes := list(_process_rows(found)):
        click.echo()
        print_table(_PROCESS_COLUMNS, processes, right=_PROCESS_COLUMNS, empty="", heads=True)


def _origin_rows(found: Json) -> Iterator[tuple[object, ...]]:
    for site, known in found["parts"].get("upstream", {}).get("sites", {}).items():
        for url, row in known["origins"].items():
            state = f"{row['state']} (backup)" if row["backup"] else row["state"]
            yield (site, url, state, *(row[column.lower()] for column in _ORIGIN_COLUMNS[3:]))


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


def _words(key: str) -> str:
    """The name of a fact for people; its unit stands behind the figure."""
    for unit in ("_bytes", "_ns"):
        key = key.removesuffix(unit)
    return key.replace(".", " ").replace("_", " ")


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
        return size(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
