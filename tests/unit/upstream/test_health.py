"""What a row of checks says of an origin."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.upstream import HealthRule
from edgecache.upstream.choosing.health import UNCHECKED, expected, first_delay, next_delay, observed

RULE = HealthRule(rise=2, fall=3)


def test_it_falls_and_rises_by_checks_in_a_row() -> None:
    checked, ups = UNCHECKED, []
    for good in (False, False, True, False, False, False, True, False, True, True):
        checked = observed(checked, good, RULE)
        ups.append(checked.up)
    assert ups == [True, True, True, True, True, False, False, False, False, True]


@settings(deadline=None)
@given(st.lists(st.booleans()), st.integers(1, 10), st.integers(1, 10))
def test_what_lasts_is_believed(history: list[bool], rise: int, fall: int) -> None:
    rule, checked = HealthRule(rise=rise, fall=fall), UNCHECKED
    for good in history:
        checked = observed(checked, good, rule)
        assert checked.against < (fall if checked.up else rise)
    for _ in range(fall):
        checked = observed(checked, False, rule)
    assert not checked.up
    for _ in range(rise):
        checked = observed(checked, True, rule)
    assert checked.up


def test_the_expected_statuses() -> None:
    assert [expected(RULE, status) for status in (199, 200, 399, 400)] == [False, True, True, False]


@settings(deadline=None)
@given(st.floats(0.1, 3600), st.floats(0, 1))
def test_checks_are_spread_about_their_interval(interval: float, chance: float) -> None:
    rule = HealthRule(interval=interval)
    assert 0 <= first_delay(rule, chance) <= min(1.0, interval)
    assert 0.89 * interval <= next_delay(rule, chance) <= 1.11 * interval
