"""What is printed for people fits their terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.cli.tables import broken


def test_facts_are_broken_between_them_and_begin_below_one_another() -> None:
    assert broken("cache:", ["entries 3", "hits 1,000", "misses 7"], 30) == ["cache: entries 3  hits 1,000", "       misses 7"]
    assert broken("cache:", ["entries 3", "hits 1,000", "misses 7"], None) == ["cache: entries 3  hits 1,000  misses 7"]


@given(st.lists(st.from_regex(r"[a-z]{1,9} [0-9]{1,5}", fullmatch=True), min_size=1, max_size=30), st.integers(25, 120))
def test_no_line_is_too_long_and_nothing_is_lost(facts: list[str], width: int) -> None:
    lines = broken("cache:", facts, width)
    assert all(len(line) <= width for line in lines)
    assert "  ".join(line[len("cache: ") :] for line in lines) == "  ".join(facts)
