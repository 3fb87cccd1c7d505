from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.cache_control import parse_response
from edgecache.policy.dates import format_date
from edgecache.policy.fields import MAX_SECONDS
from edgecache.policy.freshness import (
    HEURISTIC_CAP_S,
    Lifetime,
    LifetimeSource,
    age_field,
    lifetime,
    stale_if_error,
    stale_while_revalidate,
    terms,
)
from edgecache.policy.message import Timed
from edgecache.policy.rule import DEFAULT_RULE, CacheRule
from tests.unit.policy.values import FIELD_TEXT, NOW, timed


def of(stored: Timed, rule: CacheRule = DEFAULT_RULE) -> Lifetime:
    return lifetime(stored, parse_response(stored.response.headers), rule)


def at(offset: float) -> str:
    return format_date(NOW + offset)


EXPLICIT, HEURISTIC, DEFAULT, NONE = (
    LifetimeSource.EXPLICIT,
    LifetimeSource.HEURISTIC,
    LifetimeSource.DEFAULT,
    LifetimeSource.NONE,
)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(timed(Cache_Control="s-maxage=9, max-age=5"), (9, EXPLICIT), id="RFC9111-4.2.1 s-maxage before max-age"),
        pytest.param(timed(Cache_Control="max-age=5", Expires=at(99)), (5, EXPLICIT), id="RFC9111-4.2.1 max-age before Expires"),
        pytest.param(
            timed(Cache_Control="max-age=x", Expires=at(99)), (0, EXPLICIT), id="RFC9111-4.2.1 invalid max-age is stale"
        ),
        pytest.param(timed(Expires=at(99)), (99, EXPLICIT), id="RFC9111-4.2.1 Expires minus Date"),
        pytest.param(timed(Expires=at(99), Date=at(-100)), (199, EXPLICIT), id="RFC9111-4.2.1 Expires counts from Date"),
        pytest.param(timed(Expires=at(99), date=False), (99, EXPLICIT), id="RFC9110-6.6.1 Date missing"),
        pytest.param(timed(Expires=at(99), Date="x"), (99, EXPLICIT), id="RFC9110-6.6.1 Date invalid"),
        pytest.param(timed(Expires=at(-9)), (0, EXPLICIT), id="RFC9111-5.3 Expires in the past"),
        pytest.param(timed(Expires="0", Last_Modified=at(-1000)), (0, EXPLICIT), id="RFC9111-5.3 Expires zero"),
        pytest.param(timed(("Expires", at(9)), ("Expires", at(9))), (9, EXPLICIT), id="RFC9111-4.2.1 same Expires twice"),
        pytest.param(timed(("Expires", at(9)), ("Expires", at(99))), (0, EXPLICIT), id="RFC9111-4.2.1 contradicting Expires"),
        pytest.param(timed(Expires=f"{at(9)}, {at(9)}"), (0, EXPLICIT), id="RFC9111-5.3 Expires joined"),
        pytest.param(
            timed(CDN_Cache_Control="max-age=7", Expires=at(99)), (7, EXPLICIT), id="RFC9213-2.1 targeted before Expires"
        ),
        pytest.param(timed(CDN_Cache_Control="public", Expires=at(99)), (0, NONE), id="RFC9213-2.1 targeted hides Expires"),
        pytest.param(timed(Last_Modified=at(-1000)), (100, HEURISTIC), id="RFC9111-4.2.2 a tenth since Last-Modified"),
        pytest.param(timed(Last_Modified=at(-(10**8))), (HEURISTIC_CAP_S, HEURISTIC), id="RFC9111-4.2.2 bounded guess"),
        pytest.param(timed(Last_Modified=at(50)), (0, HEURISTIC), id="RFC9111-4.2.2 modified in the future"),
        pytest.param(timed(Last_Modified="x"), (0, NONE), id="RFC9111-4.2.2 invalid Last-Modified"),
        pytest.param(timed(status=302, Last_Modified=at(-1000)), (0, NONE), id="RFC9111-4.2.2 status without heuristics"),
        pytest.param(
            timed(status=302, Last_Modified=at(-1000), Cache_Control="public"),
            (100, HEURISTIC),
            id="RFC9111-4.2.2 public allows it",
        ),
        pytest.param(timed(), (0, NONE), id="nothing said"),
    ],
)
def test_lifetime(stored: Timed, expected: tuple[float, LifetimeSource]) -> None:
    assert of(stored) == Lifetime(*expected)


def test_operators_default_stands_in_for_heuristics_only() -> None:
    rule = CacheRule(default_ttl=60)
    assert of(timed(Last_Modified=at(-1000)), rule) == Lifetime(60, DEFAULT)
    assert of(timed(Cache_Control="max-age=5"), rule) == Lifetime(5, EXPLICIT)
    assert of(timed(Expires="0"), rule) == Lifetime(0, EXPLICIT)
    assert of(timed(status=500), rule) == Lifetime(0, NONE)


def test_heuristics_can_be_switched_off() -> None:
    assert of(timed(Last_Modified=at(-1000)), CacheRule(heuristic=False)) == Lifetime(0, NONE)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(timed(), 10, id="RFC9111-4.2.3 resident time"),
        pytest.param(timed(Date=at(-30)), 40, id="RFC9111-4.2.3 apparent age"),
        pytest.param(timed(Date=at(30)), 10, id="RFC9111-4.2.3 Date in the future"),
        pytest.param(timed(Age="100"), 110, id="RFC9111-4.2.3 Age"),
        pytest.param(timed(Age="100", delay=5), 115, id="RFC9111-4.2.3 response delay"),
        pytest.param(timed(Age="20", Date=at(-30)), 40, id="RFC9111-4.2.3 greater of both"),
        pytest.param(timed(Age="100, 0"), 110, id="RFC9111-5.1 first member of a list"),
        pytest.param(timed(("Age", "0"), ("Age", "100")), 10, id="RFC9111-5.1 first of two lines"),
        pytest.param(timed(Age="abc"), 10, id="RFC9111-5.1 invalid is ignored"),
        pytest.param(timed(Age="-100"), 10, id="RFC9111-5.1 negative is ignored"),
        pytest.param(timed(Age="7200.0"), 10, id="RFC9111-5.1 decimal is ignored"),
        pytest.param(timed(Age=""), 10, id="RFC9111-5.1 empty is ignored"),
        pytest.param(timed(Age="9" * 30), MAX_SECONDS + 10, id="RFC9111-1.2.2 overflow"),
        pytest.param(timed(date=False), 10, id="RFC9110-6.6.1 no Date"),
    ],
)
def test_current_age(stored: Timed, expected: float) -> None:
    assert terms(stored, DEFAULT_RULE).age(NOW + 10) == expected


@pytest.mark.parametrize(("step", "expected"), [(100, 0), (101, 0), (399, 0), (401, MAX_SECONDS), (1e9, MAX_SECONDS)])
def test_a_clock_that_steps_back_makes_no_age_negative_and_nothing_immortal(step: float, expected: float) -> None:
    assert terms(timed(Age="100"), DEFAULT_RULE).age(NOW - step) == expected


@pytest.mark.parametrize(
    ("cache_control", "rule", "expected"),
    [
        pytest.param("max-age=1, stale-while-revalidate=5, stale-if-error=6", CacheRule(), (5, 6), id="RFC5861 response"),
        pytest.param("max-age=1", CacheRule(stale_while_revalidate=7, stale_if_error=8), (7, 8), id="rule where nothing is said"),
        pytest.param(
            "stale-while-revalidate=0, stale-if-error=0",
            CacheRule(stale_while_revalidate=7, stale_if_error=8),
            (0, 0),
            id="RFC5861 response before rule",
        ),
        pytest.param(
            "must-revalidate, stale-while-revalidate=5, stale-if-error=6",
            CacheRule(),
            (0, 0),
            id="RFC9111-5.2.2.2 must-revalidate",
        ),
        pytest.param(
            "proxy-revalidate",
            CacheRule(stale_while_revalidate=7, stale_if_error=8),
            (0, 0),
            id="RFC9111-5.2.2.8 proxy-revalidate",
        ),
        pytest.param("s-maxage=1", CacheRule(stale_while_revalidate=7, stale_if_error=8), (0, 0), id="RFC9111-5.2.2.10 s-maxage"),
        pytest.param("s-maxage=1, stale-while-revalidate=5, stale-if-error=6", CacheRule(), (5, 6), id="RFC5861 beside s-maxage"),
    ],
)
def test_windows_of_staleness(cache_control: str, rule: CacheRule, expected: tuple[float, float]) -> None:
    directives = parse_response(timed(Cache_Control=cache_control).response.headers)
    assert (stale_while_revalidate(directives, rule), stale_if_error(directives, rule)) == expected


@pytest.mark.parametrize(("age", "text"), [(-1.0, "0"), (1.9, "1"), (1e30, str(MAX_SECONDS))])
def test_age_field(age: float, text: str) -> None:
    assert age_field(age) == text


@given(FIELD_TEXT, FIELD_TEXT, st.floats(0, 1e9), st.floats(0, 1e9))
def test_age_grows_with_time_whatever_the_fields_say(age: str, date: str, earlier: float, later: float) -> None:
    known = terms(timed(Age=age, Date=date), DEFAULT_RULE)
    first, second = sorted((earlier, later))
    assert 0 <= known.age(NOW + first) <= known.age(NOW + second)


@given(FIELD_TEXT, FIELD_TEXT, FIELD_TEXT, st.integers(100, 599))
def test_lifetime_is_never_negative(control: str, expires: str, modified: str, status: int) -> None:
    stored = timed(Cache_Control=control, Expires=expires, Last_Modified=modified, status=status)
    assert of(stored).seconds >= 0
