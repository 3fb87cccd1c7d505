"""Ejection of origins that refuse connections, over values and given times."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.upstream.choosing.ejection import Ejection, Health, failed, may_eject

ORIGINS = ("http://a", "http://b", "http://c")


def test_the_limit_th_failure_in_a_row_ejects_an_origin_for_its_pause() -> None:
    ejection = Ejection(3, 10.0)
    for _ in range(2):
        ejection.failed("http://a", 0.0)
    assert not ejection.ejected("http://a", 0.0)
    ejection.failed("http://a", 0.0)
    assert [ejection.ejected(origin, 9.9) for origin in ORIGINS] == [True, False, False]
    assert not ejection.ejected("http://a", 10.0)


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


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ORIGINS), st.booleans(), st.floats(0, 1000))), st.integers(1, 5))
def test_no_history_ejects_an_origin_for_ever(history: list[tuple[str, bool, float]], limit: int) -> None:
    ejection, now = Ejection(limit, 10.0), 0.0
    for origin, well, pause in history:
        now += pause
        if well:
            ejection.succeeded(origin)
            assert not ejection.ejected(origin, now)
        else:
            ejection.failed(origin, now)
    assert not any(ejection.ejected(origin, now + 32 * 10.0) for origin in ORIGINS)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1))
def test_no_more_than_the_share_is_ejected_and_never_all_of_them_by_less_than_one(ejected: int, size: int, share: float) -> None:
    if may_eject(ejected, size, share):
        assert size > 1
        assert ejected + 1 <= max(1, size * share)
    elif size > 1:
        assert ejected >= 1
