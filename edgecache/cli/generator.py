"""`edgecache generator`: a generator's way from source (`authoring`) to an edge, and what happens to it there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import click

from edgecache.cli.authoring import build, bundle_argument, bundle_directory, init
from edgecache.cli.client import ControlClient, Json
from edgecache.cli.groups import CommandGroup
from edgecache.cli.localrun import run
from edgecache.cli.options import FILLED, WholeNumber, json_option, print_json, site_option, with_client
from edgecache.cli.tables import print_table, shown

_FOLLOW_S: Final = 1.0


@click.group(cls=CommandGroup)
def generator() -> None:
    """Write, build, run, push and watch generators."""


generator.add_command(init)
generator.add_command(build)
generator.add_command(run)


@generator.command()
@bundle_argument
@site_option
@click.option("--activate", is_flag=True, help="Send all traffic to it once it is verified")
@json_option
@with_client
def push(client: ControlClient, *, path: Path | None, site: str, activate: bool, as_json: bool) -> None:
    """Push the bundle in the directory PATH (default: this one) and print its version."""
    from edgecache.cli.packing import archive, pack  # noqa: PLC0415 (brings YAML and more, for this command only)

    packed = pack(bundle_directory(path))
    name = packed.manifest.name
    found = client.push(archive(packed.bundle), "sites", site, "generators", name, "versions", activate=activate)
    if as_json:
        print_json(found)
        return
    # The number alone on standard output, so that VERSION=$(edgecache generator push …) works.
    click.echo(found["version"])
    checked = found.get("verification") or {}
    cost = f", sample request took {checked['cpu_ns'] / 1e6:.2f} ms of CPU" if "cpu_ns" in checked else ""
    click.echo(f"{name} version {found['version']} of {site}: {found['status']}{cost}", err=True)
    if found["status"] != "active":
        click.echo(f"  activate it: edgecache generator promote {name} {found['version']} --site {site}", err=True)
    else:
        _tell_of_cached(site)


@generator.command("list")
@site_option
@json_option
@with_client
def list_generators(client: ControlClient, *, site: str, as_json: bool) -> None:
    """List a site's generators."""
    found = client.get("sites", site, "generators")
    if as_json:
        print_json(found)
        return
    print_table(
        ("GENERATOR", "ROUTES", "ACTIVE", "LATEST"),
        ((g["name"], g["routes"], _split(g), g["latest"]) for g in found["generators"]),
        right=("LATEST",),
        empty=f"Site {site} has no generators: push one with `edgecache generator push PATH --site {site} --activate`.",
    )


@generator.command()
@click.argument("name", type=FILLED)
@site_option
@click.option("--manifest", is_flag=True, help="The latest version's manifest, with everything filled in")
@json_option
@with_client
def show(client: ControlClient, *, name: str, site: str, manifest: bool, as_json: bool) -> None:
    """Show a generator and its versions."""
    found = client.get("sites", site, "generators", name)
    versions = client.get("sites", site, "generators", name, "versions")["versions"]
    if as_json:
        print_json({**found, "versions": versions})
        return
    if manifest:
        print_json(versions[0]["manifest"] if versions else {})
        return
    click.echo(f"{site}/{name}: routes {shown(found['routes'])}; active {shown(_split(found))}")
    print_table(
        ("VERSION", "STATUS", "PERCENT", "SIZE", "CREATED", "DIGEST"),
        ((v["version"], v["status"], v["percent"], v["size_bytes"], v["created"], v["digest"][:16]) for v in versions),
        right=("VERSION", "PERCENT", "SIZE"),
        empty="It has no versions.",
    )


@generator.command()
@click.argument("name", type=FILLED)
@click.argument("version", type=WholeNumber(1))
@site_option
@click.option("--percent", type=WholeNumber(1, 100), default=100, show_default=True, help="Its part of the traffic")
@json_option
@with_client
def promote(client: ControlClient, *, name: str, version: int, site: str, percent: int, as_json: bool) -> None:
    """Give VERSION of the generator NAME its part of the traffic; the versions that had it share the rest."""
    body: Json = {"version": version, "percent": percent}
    _print_split(client.post("sites", site, "generators", name, "activate", body=body), as_json)
    if not as_json:
        _tell_of_cached(site)


@generator.command()
@click.argument("name", type=FILLED)
@site_option
@json_option
@with_client
def rollback(client: ControlClient, *, name: str, site: str, as_json: bool) -> None:
    """Go back to what was active before; again goes further back."""
    _print_split(client.post("sites", site, "generators", name, "rollback"), as_json)
    if not as_json:
        _tell_of_cached(site)


@generator.command()
@click.argument("name", type=FILLED)
@site_option
@click.option("--lines", type=WholeNumber(1, 10_000), default=100, show_default=True, help="How many of the last lines")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C")
@json_option
@with_client
def logs(client: ControlClient, *, name: str, site: str, lines: int, follow: bool, as_json: bool) -> None:
    """Show what a generator logged. With --json and --follow: one JSON object a line."""
    query: dict[str, str | int] = {"lines": lines}
    while True:
        found = client.get("sites", site, "generators", name, "logs", query=query)
        if as_json and not follow:
            print_json(found)
        else:
            _print_lines(found, as_json)
        if not follow:
            if not (as_json or found["lines"]):
                click.echo(f"{name} of {site} has logged nothing since the edge started", err=True)
            return
        query = {"after": found["next"], "lines": 10_000}
        try:
            time.sleep(_FOLLOW_S)
        except KeyboardInterrupt:
            return


@generator.command()
@click.argument("name", type=FILLED)
@site_option
@click.option("--yes", is_flag=True, help="Do not ask")
@with_client
def remove(client: ControlClient, *, name: str, site: str, yes: bool) -> None:
    """Remove a generator, its versions and its stored values."""
    if not yes:
        click.confirm(f"Remove generator {name} of {site}, its versions and its stored values?", abort=True)
    client.delete("sites", site, "generators", name)
    click.echo(f"removed generator {name} of {site}")


def _print_lines(found: Json, as_json: bool) -> None:
    for line in found["lines"]:
        if as_json:
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            click.echo(f"{line['time']}  v{line['version']}  {line['request_id']}  {shown(line['text'])}")


def _print_split(found: Json, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['site']}/{found['name']}: active {shown(_split(found))}")


def _split(found: Json) -> list[str]:
    return [f"v{part['version']} {part['percent']} %" for part in found["active"]]


def _tell_of_cached(site: str) -> None:
    """Who has just changed a page and sees the old one looks for the mistake in the wrong place."""
    click.echo(
        f"  answers that are cached stay until they expire; to be rid of them: edgecache purge --site {site} --soft", err=True
    )
