"""`edgecache purge`: take things out of the cache."""

from __future__ import annotations

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.options import json_option, print_json, with_client


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL]…")
@click.option("--tag", metavar="TAG", help="All that carry this tag")
@click.option("--prefix", metavar="URL", help="All whose absolute URL begins so")
@click.option("--host", metavar="NAME", help="All of this host")
@click.option("--site", metavar="SITE", help="All of this site; beside another choice, narrow it to the site")
@click.option("--all", "everything", is_flag=True, help="All there is")
@click.option("--soft", is_flag=True, help="Mark stale, to be revalidated, rather than remove")
@click.option("--refresh", is_flag=True, help="Fetch anew in the background rather than remove; what is there answers meanwhile")
@json_option
@with_client
def purge(
    client: ControlClient,
    *,
    urls: tuple[str, ...],
    tag: str | None,
    prefix: str | None,
    host: str | None,
    site: str | None,
    everything: bool,
    soft: bool,
    refresh: bool,
    as_json: bool,
) -> None:
    """Remove from the cache: absolute URLs, or what an option names."""
    asked: Json = {"urls": list(urls), "tag": tag, "prefix": prefix, "host": host, "everything": everything}
    chosen = {key: value for key, value in asked.items() if value}
    if len(chosen) > 1 or not (chosen or site):
        raise click.UsageError("say what to purge, one of: URL…, --tag, --prefix, --host, --site, --all")
    if soft and refresh:
        raise click.UsageError("a purge is --soft or --refresh, not both")
    body = chosen | ({"site": site} if site else {}) | ({"soft": True} if soft else {})
    body |= {"refresh": True} if refresh else {}
    found = client.post("purge", body=body)
    if as_json:
        print_json(found)
    else:
        count = found["purged"]
        said = "marked stale" if soft else "being fetched anew" if refresh else "removed"
        click.echo(f"{said}: {count} {'entry' if count == 1 else 'entries'}")
