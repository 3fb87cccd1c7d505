"""docs/guest.md is what authors are promised: its tables are the code's."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from sandbox.guest.calls import CALLS
from sandbox.limits import DEFAULT_LIMITS
from sandbox.outcome import End, FaultKind

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "guest.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so."""
    _, _, rest = TEXT.partition(f"\n| {heading} |")
    rows = re.match(r".*\n\|[-|]+\|\n((?:\|.*\n)+)", rest)
    assert rows is not None, heading
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows[1].splitlines()]


def test_every_call_is_documented_and_no_other() -> None:
    rows = table("number | name | arguments") + table("number | name | what it does")
    assert {int(row[0], 0): row[1] for row in rows} == {number: call.name for number, call in CALLS.items()}


def test_limits_and_their_defaults() -> None:
    assert {row[0]: int(row[1]) for row in table("limit")} == dataclasses.asdict(DEFAULT_LIMITS)


def test_ends_and_faults() -> None:
    assert [row[0] for row in table("word")] == [str(end) for end in End]
    assert [row[0] for row in table("fault kind")] == [str(kind) for kind in FaultKind]
