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
    if not _to_terminal():
        if heads and listed:
            click.echo("\t".join(columns))
        for row in listed:
            click.echo("\t".join(shown(cell) for cell in row))
    elif listed:
        Console(highlight=False).print(make_table(columns, listed, right=right))
    else:
        click.echo(empty)


def print_facts(head: str, facts: Iterable[tuple[str, object]]) -> None:
    """Print named facts, broken between them where a terminal's line ends. To a pipe: one line. Nothing where there are none."""
    said = [f"{name} {shown(value)}" for name, value in facts]
    if said:
        width = Console().width if _to_terminal() else None
        click.echo("\n".join(broken(f"{head}:", said, width)))


def _to_terminal() -> bool:
    # Started with its output closed, a program has none.
    return sys.stdout is not None and sys.stdout.isatty()


def broken(head: str, parts: Sequence[str], width: int | None) -> list[str]:
    """Lines of at most `width` characters, where that can be: no part is divided. None: one line."""
    lines: list[list[str]] = []
    room = 0
    for part in parts:
        if not lines or (width is not None and room < len(part) + 2):
            lines.append([])
            room = (width or 0) - len(head)
        lines[-1].append(part)
        room -= len(part) + 2
    margin = " " * len(head)
    return [f"{margin if number else head} {'  '.join(line)}" for number, line in enumerate(lines)]


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
