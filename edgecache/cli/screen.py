"""One screen of what the edge does now, fitted to the terminal: what is told is `screen_content`'s. Asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from edgecache.cli.client import Json
from edgecache.cli.screen_content import Column, Rates, lines_told, tables_told
from edgecache.cli.tables import shown

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_LEAST_ROWS: Final = 2
"""Of each table, however little room there is: one, and how many more there are."""
_MAX_CELL: Final = 44


def screen(now: Json, before: Json | None, width: int, height: int) -> Group:
    """What fits into `width` by `height` characters; more rows than fit are told as a number."""
    from rich.console import Group  # noqa: PLC0415 (slow to import)
    from rich.text import Text  # noqa: PLC0415

    rates = Rates(now, before)
    lines = lines_told(now, rates)
    tables = [(columns, names) for columns, names in tables_told(now, rates) if names]
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


def _drawn(columns: list[Column], names: list[str], count: int, width: int) -> Table:
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


def _cell(column: Column, name: str) -> str:
    text = shown(column.cell(name))
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
