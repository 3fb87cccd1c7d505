"""Ejection of origins that refuse connections, over values and given times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.upstream.ejection import Ejection, Health, failed

ORIGINS = ("http://a", "http://b", "http://c")


def test_the_limit_th_failure_in_a_row_puts_an_origin_last() -> None:
    ejection = Ejection(3, 10.0)
    for _ in range(2):
        ejection.failed("http://a", 0.0)
    assert ejection.order(ORIGINS, 0.0) == ORIGINS
    ejection.failed("http://a", 0.0)
    assert ejection.order(ORIGINS, 9.9) == ("http://b", "http://c", "http://a")
    assert ejection.order(ORIGINS, 10.0) == ORIGINS


def test_a_success_forgets_failures() -> None:
    ejection = Ejection(2, 10.0)
    ejection.failed("http://a", 0.0)
    ejection.succeeded("http://a")
    ejection.failed("http://a", 0.0)
    assert not ejection.ejected("http://a", 0.0)


def test_a_failure_after_the_pause_doubles_it_at_once() -> None:
    health = failed(Health(), 0.0, 1, 10.0)
    assert health.until == 10.0
    assert failed(health, 5.0, 1, 10.0) == health
    assert failed(health, 10.0, 3, 10.0).until == 30.0


@given(st.lists(st.tuples(st.sampled_from(ORIGINS), st.booleans(), st.floats(0, 1000))), st.integers(1, 5))
def test_no_history_loses_an_origin_or_ejects_it_for_ever(history: list[tuple[str, bool, float]], limit: int) -> None:
    ejection, now = Ejection(limit, 10.0), 0.0
    for origin, well, pause in history:
        now += pause
        if well:
            ejection.succeeded(origin)
            assert not ejection.ejected(origin, now)
        else:
            ejection.failed(origin, now)
        assert sorted(ejection.order(ORIGINS, now)) == sorted(ORIGINS)
    assert ejection.order(ORIGINS, now + 32 * 10.0) == ORIGINS
