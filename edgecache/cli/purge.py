"""`edgecache purge`: take things out of the cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.errors import CommandFailed
from edgecache.cli.options import FILLED, FilledPath, json_option, print_json, with_client

_AT_ONCE: Final = 1_000
"""URLs of one request to the API."""
_BYTES_AT_ONCE: Final = 100 << 10
_MAX_FILE_BYTES: Final = 64 << 20


@click.command()
@click.argument("urls", type=FILLED, nargs=-1, metavar="[URL]…")
@click.option("--file", type=FilledPath(allow_dash=True), metavar="FILE|-", help="URLs from there, one a line")
@click.option("--tag", type=FILLED, metavar="TAG", help="All that carry this tag")
@click.option("--prefix", type=FILLED, metavar="URL", help="All whose absolute URL begins so")
@click.option("--host", type=FILLED, metavar="NAME", help="All of this host")
@click.option("--site", type=FILLED, metavar="SITE", help="All of this site; beside another choice, narrow it to the site")
@click.option("--all", "everything", is_flag=True, help="All there is")
@click.option("--soft", is_flag=True, help="Mark stale, to be revalidated, rather than remove")
@click.option("--refresh", is_flag=True, help="Fetch anew in the background rather than remove; what is there answers meanwhile")
@json_option
@with_client
def purge(
    client: ControlClient,
    *,
    urls: tuple[str, ...],
    file: Path | None,
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
    if file is not None:
        urls = (*urls, *_listed(file))
    asked: Json = {"urls": list(urls), "tag": tag, "prefix": prefix, "host": host, "everything": everything}
    chosen = {key: value for key, value in asked.items() if value}
    if not (chosen or site):
        raise click.UsageError("say what to purge, one of: URL…, --file, --tag, --prefix, --host, --site, --all")
    if len(chosen) > 1:
        raise click.UsageError("a purge is by URLs, --tag, --prefix, --host or --all: give one of them, and --site to narrow it")
    if soft and refresh:
        raise click.UsageError("a purge is --soft or --refresh, not both")
    body = chosen | ({"site": site} if site else {}) | ({"soft": True} if soft else {})
    body |= {"refresh": True} if refresh else {}
    first, *others = [body | {"urls": batch} for batch in _batches(urls)] or [body]
    found = client.post("purge", body=first)
    for other in others:
        found["purged"] += client.post("purge", body=other)["purged"]
    if as_json:
        print_json(found)
    else:
        count = found["purged"]
        said = "marked stale" if soft else "being fetched anew" if refresh else "removed"
        click.echo(f"{said}: {count} {'entry' if count == 1 else 'entries'}")


def _listed(file: Path) -> tuple[str, ...]:
    """The file's lines, but empty ones. Raises CommandFailed."""
    try:
        if file == Path("-"):
            data = sys.stdin.buffer.read(_MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(_MAX_FILE_BYTES + 1)
        lines = tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}", advice="name a file of URLs, one a line") from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file} is not UTF-8 text", advice="name a file of URLs, one a line") from error
    if len(data) > _MAX_FILE_BYTES:
        raise CommandFailed(f"{file} is longer than {_MAX_FILE_BYTES >> 20} MiB", advice="use --prefix, --tag or --site")
    if not lines:
        raise CommandFailed(f"{file} names no URL", advice="write one a line")
    return lines


def _batches(urls: Sequence[str]) -> Iterator[list[str]]:
    """As many at a time as one request may hold."""
    batch: list[str] = []
    size = 0
    for url in urls:
        length = len(url.encode("utf-8", "surrogateescape"))
        if batch and (len(batch) == _AT_ONCE or size + length > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(url)
        size += length
    if batch:
        yield batch
