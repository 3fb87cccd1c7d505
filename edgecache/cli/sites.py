"""`edgecache site`: sites through the control API."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.groups import CommandGroup
from edgecache.cli.options import FILLED, WholeNumber, json_option, print_json, with_client
from edgecache.cli.originforms import ORIGIN_HELP, UPSTREAM_HELP, origins_of, texts_of, upstream_of, urls_of
from edgecache.cli.tables import print_table, shown


@click.group(cls=CommandGroup)
def site() -> None:
    """Add, list, change and remove sites."""


_Options = Callable[..., Any]


def _rules(command: _Options) -> _Options:
    """The options that adding and changing a site share."""
    options = (
        click.option("--upstream", "upstream", multiple=True, metavar="KEY=VALUE", help=UPSTREAM_HELP),
        click.option("--cluster", type=FILLED, help="Cluster whose share it shares  [default: default]"),
        click.option("--cap", type=WholeNumber(0, 100_000), help="Never more than this many percent of one CPU; 0: no cap"),
        click.option("--cache", "cache", multiple=True, metavar="KEY=VALUE", help="A cache rule, such as default_ttl=60s"),
        click.option("--access", "access", multiple=True, metavar="KEY=VALUE", help="A rule for clients, such as client_rate=50"),
        click.option(
            "--upgrade", type=click.Choice(["websocket", "none"]), help="What its connections may become, through to the origins"
        ),
        click.option(
            "--ceiling", "ceiling", multiple=True, metavar="KEY=VALUE", help="A limit's ceiling, such as cpu=100ms or vms=8"
        ),
        click.option("--max-generators", type=WholeNumber(0, 100_000), help="A push of one more is refused  [default: 1000]"),
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def _asked(
    *,
    upstream: tuple[str, ...],
    cluster: str | None,
    cap: int | None,
    cache: tuple[str, ...],
    access: tuple[str, ...],
    upgrade: str | None,
    ceiling: tuple[str, ...],
    max_generators: int | None,
) -> Json:
    """What those options say, in the API's words; what is not said is not there."""
    asked: Json = {
        "upstream": upstream_of(upstream),
        "cluster": cluster,
        "cache": _settings(cache, "--cache"),
        "access": _settings(access, "--access"),
        "ceiling": _settings(ceiling, "--ceiling"),
    }
    body = {key: value for key, value in asked.items() if value}
    if cap is not None:
        body["cap"] = cap or None
    if max_generators is not None:
        body["max_generators"] = max_generators
    if upgrade is not None:
        body["upgrade"] = [] if upgrade == "none" else [upgrade]
    return body


@site.command()
@click.argument("name", type=FILLED)
@click.option(
    "--host", "hosts", multiple=True, required=True, metavar="NAME", help="Host name, *.example.org, or *; repeat it for more"
)
@click.option("--origin", "origins", multiple=True, metavar="URL", help=ORIGIN_HELP)
@click.option(
    "--weight", type=WholeNumber(1, 1_000_000), default=1, show_default=True, help="Share of the CPU, against other sites"
)
@_rules
@json_option
@with_client
def add(
    client: ControlClient,
    /,
    *,
    name: str,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    weight: int,
    as_json: bool,
    **rules: Any,
) -> None:
    """Add the site NAME."""
    body: Json = {"name": name, "hosts": list(hosts), "origins": origins_of(origins), "weight": weight, **_asked(**rules)}
    found = client.post("sites", body=body)
    if as_json:
        print_json(found)
    else:
        click.echo(f"added site {name} for {shown(hosts)}")
        if not origins:
            click.echo("  it has no origin: what no generator answers is an error; add one with `site set --origin`", err=True)


@site.command("list")
@json_option
@with_client
def list_sites(client: ControlClient, as_json: bool) -> None:
    """List the sites that the token may see."""
    found = client.get("sites")
    if as_json:
        print_json(found)
        return
    print_table(
        ("SITE", "HOSTS", "ORIGINS", "WEIGHT", "GENERATORS", "FROM"),
        (
            (
                s["name"],
                s["hosts"],
                urls_of(s["origins"]),
                s["weight"],
                s["generators"],
                "configuration" if s["from_config"] else "API",
            )
            for s in found["sites"]
        ),
        right=("WEIGHT",),
        empty="There are no sites: add one with `edgecache site add NAME --host HOST --origin URL`.",
    )


@site.command()
@click.argument("name", type=FILLED)
@json_option
@with_client
def show(client: ControlClient, name: str, as_json: bool) -> None:
    """Show one site with its rules and limits."""
    found = client.get("sites", name)
    if as_json:
        print_json(found)
    else:
        print_facts({**found, "origins": texts_of(found.get("origins", ()))})


@site.command("set")
@click.argument("name", type=FILLED)
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Replace the host names; repeat it for more")
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Replace the origins: as for add")
@click.option("--weight", type=WholeNumber(1, 1_000_000), help="Share of the CPU, against other sites")
@_rules
@json_option
@with_client
def set_site(
    client: ControlClient,
    /,
    *,
    name: str,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    weight: int | None,
    as_json: bool,
    **rules: Any,
) -> None:
    """Change what is named of a site, keep the rest."""
    replaced: Json = {"hosts": list(hosts), "origins": origins_of(origins), "weight": weight}
    body = {key: value for key, value in replaced.items() if value} | _asked(**rules)
    if not body:
        raise click.UsageError(
            "nothing to change: give --host, --origin, --weight, --cluster, --cap, --upstream, --cache, --access, --upgrade, "
            "--ceiling or --max-generators"
        )
    found = client.patch("sites", name, body=body)
    if as_json:
        print_json(found)
    else:
        click.echo(f"changed {', '.join(body)} of site {name}")


@site.command()
@click.argument("name", type=FILLED)
@click.option("--yes", is_flag=True, help="Do not ask")
@with_client
def remove(client: ControlClient, *, name: str, yes: bool) -> None:
    """Remove a site with its generators, versions, stored values and tokens."""
    if not yes:
        click.confirm(f"Remove site {name} with its generators, versions, stored values and tokens?", abort=True)
    client.delete("sites", name)
    click.echo(f"removed site {name}")


def print_facts(document: Json, indent: str = "") -> None:
    """A JSON object as indented `key: value` lines."""
    for key, value in document.items():
        if isinstance(value, dict) and value:
            click.echo(f"{indent}{key}:")
            print_facts(value, indent + "  ")
        else:
            click.echo(f"{indent}{key}: {shown(value if value != {} else None)}")


_WORDS: Final = {"true": True, "false": False, "null": None}
_LISTS: Final = frozenset({"vary", "tags", "compress", "deny", "allow", "purge"})
"""Keys of `cache` and `access` that hold several values."""
NUMBERS: Final = frozenset(
    {"client_rate", "client_burst", "edge_calls", "sub_requests", "system_calls", "vms", "queue"}
    | {"edge_call_rate", "sub_request_rate", "cpu_share"}
)
"""Keys of `access` and `ceiling` that hold a number without a unit."""
_EXAMPLES: Final = {"--cache": "default_ttl=60s", "--access": "client_rate=50", "--ceiling": "cpu=100ms"}


def _settings(pairs: tuple[str, ...], option: str) -> Json:
    """KEY=VALUE as the API's JSON: numbers, booleans and lists as such, all else as text with its unit. Raises UsageError."""
    found: Json = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{option} {pair!r} is not KEY=VALUE, such as {option} {_EXAMPLES[option]}")
        if key in _LISTS:
            found[key] = [item.strip() for item in value.split(",") if item.strip()]
        elif key in NUMBERS:
            if not (value.isascii() and value.isdigit()):
                raise click.UsageError(f"{option} {pair!r}: {key} must be a whole number, not {value!r}")
            found[key] = int(value)
        elif key == "prefetch" and value.isascii() and value.replace(".", "", 1).isdigit():
            found[key] = float(value)
        else:
            found[key] = _WORDS.get(value, value)
    return found
