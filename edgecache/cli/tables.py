"""Tables for people. Plain where the output is not a terminal, so that a pipe gets whole lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), title: str = "") -> Table:
    """A table; columns named in `right` hold numbers. Cell text is taken as it is, never as markup."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), empty: str, heads: bool = False
) -> None:
    """Print a table, or `empty` when there is no row. To a pipe: tab-separated lines, without heads unless `heads`."""
    listed = [tuple(row) for row in rows]
    if not sys.stdout.isatty():
        if heads and listed:
            click.echo("\t".join(columns))
        for row in listed:
            click.echo("\t".join(shown(cell) for cell in row))
    elif listed:
        Console(highlight=False).print(make_table(columns, listed, right=right))
    else:
        click.echo(empty)


def shown(cell: object) -> str:
    """One cell's text: lists joined, nothing as a dash, control characters made visible."""
    match cell:
        case None | "" | [] | ():
            return "-"
        case list() | tuple():
            return ", ".join(map(shown, cell))
        case bool():
            return "yes" if cell else "no"
        case _:
            return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(cell))
