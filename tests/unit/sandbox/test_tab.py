"""A reading of a worker's clock is divided among the slices on its tab: all of it, by how long each took, and soon."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.dispatch.tab import MOST_NS, MOST_SLICES, Tab

SLICES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 10 * MOST_NS)), min_size=1, max_size=100)


def _tab(slices: list[tuple[str, int]]) -> Tab[str]:
    tab: Tab[str] = Tab()
    for who, wall_ns in slices:
        tab.add(who, wall_ns)
    return tab


@given(SLICES, st.integers(0, 10**12))
def test_all_is_paid_and_nobody_who_had_no_slice_pays(slices: list[tuple[str, int]], used_ns: int) -> None:
    tab = _tab(slices)
    parts = tab.divide(used_ns)
    assert sum(part_ns for _, part_ns, _ in parts) == used_ns
    assert all(part_ns >= 0 for _, part_ns, _ in parts)
    assert {who: count for who, _, count in parts} == {who: [name for name, _ in slices].count(who) for who, _ in slices}
    assert tab.empty
    assert not tab.due
    assert tab.divide(used_ns) == []


@given(SLICES, st.integers(0, 10**12))
def test_who_took_longer_pays_no_less(slices: list[tuple[str, int]], used_ns: int) -> None:
    walls = {who: sum(max(1, wall_ns) for name, wall_ns in slices if name == who) for who, _ in slices}
    parts = {who: part_ns for who, part_ns, _ in _tab(slices).divide(used_ns)}
    for one, wall_ns in walls.items():
        assert abs(parts[one] - used_ns * wall_ns / sum(walls.values())) <= len(walls) + used_ns * 1e-9
        assert all(parts[one] <= parts[other] + len(walls) - 1 for other in walls if wall_ns < walls[other])


def test_one_long_slice_is_read_at_once() -> None:
    assert _tab([("a", MOST_NS)]).due
    assert not _tab([("a", MOST_NS // 2)]).due


def test_many_short_ones_are_read_before_long() -> None:
    assert not _tab([("a", 1)] * (MOST_SLICES - 1)).due
    assert _tab([("a", 1)] * MOST_SLICES).due
    assert _tab([("a", MOST_NS // 3)] * 4).due
