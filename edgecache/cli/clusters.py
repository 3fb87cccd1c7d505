"""`edgecache cluster`: groups of sites and their shares of the machine, through the control API."""

from __future__ import annotations

import re

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.groups import CommandGroup
from edgecache.cli.options import FILLED, WholeNumber, json_option, print_json, with_client
from edgecache.cli.tables import print_table


@click.group(cls=CommandGroup)
def cluster() -> None:
    """List, add, change and remove clusters of sites."""


@cluster.command("list")
@json_option
@with_client
def list_clusters(client: ControlClient, as_json: bool) -> None:
    """List the clusters with their shares and sites."""
    found = client.get("clusters")
    if as_json:
        print_json(found)
        return
    print_table(
        ("CLUSTER", "WEIGHT", "CAP %", "SITES", "FROM"),
        (
            (c["name"], c["weight"], c["cap"], c["sites"], "configuration" if c["from_config"] else "API")
            for c in found["clusters"]
        ),
        right=("WEIGHT", "CAP %"),
        empty="There are no clusters.",
    )


@cluster.command("set")
@click.argument("name", type=FILLED)
@click.option("--weight", type=WholeNumber(1, 1_000_000), help="Share of the CPU, against other clusters")
@click.option("--cap", type=WholeNumber(1, 100_000), help="Never more than this many percent of one CPU")
@click.option("--no-cap", is_flag=True, help="Take the cap away")
@json_option
@with_client
def set_cluster(client: ControlClient, *, name: str, weight: int | None, cap: int | None, no_cap: bool, as_json: bool) -> None:
    """Add the cluster NAME, or change what is named of it. It holds at once."""
    if cap is not None and no_cap:
        raise click.UsageError("--cap and --no-cap exclude each other")
    from edgecache.control.bundle.manifest import NAME, NAME_WORDS  # noqa: PLC0415 (brings YAML: not for --help)

    if re.fullmatch(NAME, name) is None:
        raise click.UsageError(f"{name!r} is not a cluster's name: {NAME_WORDS}")
    body: Json = {} if weight is None else {"weight": weight}
    if cap is not None or no_cap:
        body["cap"] = cap
    known = any(c["name"] == name for c in client.get("clusters")["clusters"])
    if known and not body:
        raise click.UsageError("nothing to change: give --weight, --cap or --no-cap")
    found = client.patch("clusters", name, body=body) if known else client.put("clusters", name, body=body)
    if as_json:
        print_json(found)
    else:
        capped = "" if found["cap"] is None else f", at most {found['cap']} % of one CPU"
        click.echo(f"cluster {name}: weight {found['weight']}{capped}")


@cluster.command()
@click.argument("name", type=FILLED)
@with_client
def remove(client: ControlClient, *, name: str) -> None:
    """Remove a cluster that no site is in; the default one gets its default share back."""
    client.delete("clusters", name)
    if name == "default":
        click.echo("cluster default has its default share back; it is always there")
    else:
        click.echo(f"removed cluster {name}")
