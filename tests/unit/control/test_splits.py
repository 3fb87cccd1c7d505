"""Splits: percents always add up to 100, and a version gets just what it is given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.control.publishing.splits import give
from edgecache.control.records import Portion, Split


def test_all_of_it() -> None:
    assert give((Portion(1, 50), Portion(2, 50)), 3, 100) == (Portion(3, 100),)


def test_a_part_needs_somebody_for_the_rest() -> None:
    assert give((), 1, 50) is None
    assert give((Portion(1, 100),), 1, 50) is None


def test_the_others_keep_their_proportions() -> None:
    assert give((Portion(1, 75), Portion(2, 25)), 3, 20) == (Portion(1, 60), Portion(2, 20), Portion(3, 20))
    assert give((Portion(1, 90), Portion(2, 10)), 2, 50) == (Portion(1, 50), Portion(2, 50))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 100)), min_size=1, max_size=30))
def test_any_sequence_adds_up(steps: list[tuple[int, int]]) -> None:
    split: Split = ()
    for version, percent in steps:
        given_split = give(split, version, percent)
        if given_split is None:
            continue
        split = given_split
        assert sum(portion.percent for portion in split) == 100
        assert all(portion.percent >= 1 for portion in split)
        assert {portion.version: portion.percent for portion in split}[version] == percent
        assert len({portion.version for portion in split}) == len(split)
