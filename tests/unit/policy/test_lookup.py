from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.dates import format_date
from edgecache.policy.freshness import terms
from edgecache.policy.lookup import (
    Bypass,
    BypassReason,
    Decision,
    Fresh,
    Miss,
    MissReason,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
    conditions,
    decide,
)
from edgecache.policy.message import Request, Timed
from edgecache.policy.rule import DEFAULT_RULE, CacheRule
from tests.unit.policy.values import FIELD_TEXT, NOW, headers, request, response, timed


def cached(control: str = "max-age=60", **fields: str) -> Timed:
    return timed(ETag='"v1"', Cache_Control=control, **fields)


def after(seconds: float, stored: Timed | None, *, rule: CacheRule = DEFAULT_RULE, asked: Request | None = None) -> Decision:
    return decide(asked or request(), stored, rule, NOW + seconds)


def asking(control: str) -> Request:
    return request(Cache_Control=control)


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        pytest.param(request(method="POST"), cached(), Bypass(BypassReason.METHOD), id="RFC9111-4 unsafe method"),
        pytest.param(request(method="OPTIONS"), None, Bypass(BypassReason.METHOD), id="RFC9110-9.3.7 OPTIONS is not cacheable"),
        pytest.param(request(Content_Length="3"), cached(), Bypass(BypassReason.BODY), id="RFC9110-9.3.1 GET with content"),
        pytest.param(request(Transfer_Encoding="chunked"), None, Bypass(BypassReason.BODY), id="RFC9110-9.3.1 chunked GET"),
        pytest.param(request(Content_Length="0"), None, Miss(), id="RFC9110-9.3.1 GET with empty content"),
        pytest.param(request(), None, Miss(MissReason.ABSENT), id="nothing stored"),
        pytest.param(request(method="HEAD"), None, Miss(MissReason.HEAD, collapse=False), id="HEAD fills nothing"),
        pytest.param(
            request(Authorization="x"),
            None,
            Miss(MissReason.AUTHORIZATION, collapse=False),
            id="RFC9111-3.5 nobody else waits for it",
        ),
        pytest.param(
            request(Authorization="x"), cached(), Bypass(BypassReason.AUTHORIZATION), id="RFC9111-3.5 not said to be shared"
        ),
        pytest.param(request(Authorization="x"), cached("public, max-age=60"), Fresh(0, 60), id="RFC9111-3.5 public"),
        pytest.param(request(If_Match='"a"'), None, Miss(collapse=False), id="RFC9111-4.3.2 nobody else waits for it"),
        pytest.param(request(If_Match='"v1"'), cached(), Fresh(0, 60), id="RFC9110-13.1.1 ignored where it is met"),
        pytest.param(
            request(If_Match='"v2"'), cached(), Miss(MissReason.PRECONDITION, collapse=False), id="RFC9111-4.3.2 the source's"
        ),
        pytest.param(
            request(If_Match='"v2"', Cache_Control="only-if-cached"), cached(), Unsatisfiable(), id="RFC9111-5.2.1.7 not met"
        ),
        pytest.param(asking("no-store"), None, Bypass(BypassReason.REQUEST_NO_STORE), id="RFC9111-5.2.1.5 no-store"),
        pytest.param(asking("no-store"), cached(), Fresh(0, 60), id="RFC9111-5.2.1.5 what is stored may answer"),
        pytest.param(asking("only-if-cached"), None, Unsatisfiable(), id="RFC9111-5.2.1.7 nothing stored"),
        pytest.param(asking("only-if-cached"), cached(), Fresh(0, 60), id="RFC9111-5.2.1.7 stored"),
        pytest.param(asking("only-if-cached, no-cache"), cached(), Unsatisfiable(), id="RFC9111-5.2.1.7 not usable"),
        pytest.param(
            request(Cache_Control="only-if-cached", Authorization="x"),
            cached(),
            Unsatisfiable(),
            id="RFC9111-5.2.1.7 with Authorization",
        ),
        pytest.param(request(method="HEAD"), cached(), Fresh(0, 60), id="RFC9110-9.3.2 HEAD from a stored GET"),
    ],
)
def test_at_once(asked: Request, stored: Timed | None, expected: Decision) -> None:
    assert after(0, stored, asked=asked) == expected


def test_fresh_until_the_lifetime_has_passed() -> None:
    assert after(59, cached()) == Fresh(59, 1)
    assert isinstance(after(60, cached()), Validate)


def test_age_counts_from_the_origin() -> None:
    assert after(0, cached(Age="50")) == Fresh(50, 10)


def test_terms_may_be_kept() -> None:
    stored = cached()
    assert decide(request(), stored, DEFAULT_RULE, NOW + 5, known=terms(stored, DEFAULT_RULE)) == Fresh(5, 55)


def test_validation_sends_both_validators_of_the_stored_response() -> None:
    modified = format_date(NOW - 9)
    found = after(60, cached(Last_Modified=modified))
    assert isinstance(found, Validate)
    assert list(found.headers.items()) == [("If-None-Match", '"v1"'), ("If-Modified-Since", modified)]
    assert (found.stale_if_error, found.must, found.refused) == (False, False, False)


def test_conditions_leave_out_an_invalid_date() -> None:
    assert not conditions(response(Last_Modified="yesterday"))


@pytest.mark.parametrize(
    ("control", "seconds", "rule", "expected"),
    [
        pytest.param("max-age=60, stale-while-revalidate=30", 90, CacheRule(), StaleWhileRevalidate(90), id="RFC5861-3 within"),
        pytest.param("max-age=60, stale-while-revalidate=30", 91, CacheRule(), Validate, id="RFC5861-3 beyond"),
        pytest.param("max-age=60", 70, CacheRule(stale_while_revalidate=30), StaleWhileRevalidate(70), id="RFC5861-3 by rule"),
        pytest.param(
            "max-age=60, must-revalidate, stale-while-revalidate=30", 70, CacheRule(), Validate, id="RFC9111-5.2.2.2 must"
        ),
        pytest.param(
            "max-age=60, proxy-revalidate, stale-while-revalidate=30", 70, CacheRule(), Validate, id="RFC9111-5.2.2.8 must"
        ),
        pytest.param(
            "s-maxage=60", 70, CacheRule(stale_while_revalidate=30), Validate, id="RFC9111-5.2.2.10 rule cannot overrule it"
        ),
        pytest.param("max-age=60, no-cache", 0, CacheRule(stale_while_revalidate=30), Validate, id="RFC9111-5.2.2.4 no-cache"),
        pytest.param('max-age=60, no-cache="x"', 0, CacheRule(), Fresh(0, 60), id="RFC9111-5.2.2.4 no-cache with fields"),
        pytest.param("max-age=0", 0, CacheRule(), Validate, id="RFC9111-4.2 zero lifetime"),
        pytest.param("max-age=60, immutable", 70, CacheRule(), Validate, id="RFC8246-2 immutable while fresh only"),
    ],
)
def test_staleness(control: str, seconds: float, rule: CacheRule, expected: Decision | type[Validate]) -> None:
    found = after(seconds, cached(control), rule=rule)
    assert isinstance(found, Validate) if expected is Validate else found == expected


@pytest.mark.parametrize(
    ("wish", "control", "seconds", "expected"),
    [
        pytest.param("no-cache", "max-age=60", 0, Validate, id="RFC9111-5.2.1.4 no-cache"),
        pytest.param("no-cache", "max-age=60, immutable", 0, Validate, id="RFC8246-2 no-cache validates what is immutable"),
        pytest.param("max-age=0", "max-age=60", 0, Validate, id="RFC9111-5.2.1.1 reload"),
        pytest.param("max-age=0", "max-age=60, immutable", 9, Fresh(9, 51), id="RFC8246-2 reload of what is immutable"),
        pytest.param("max-age=0", "max-age=60, immutable", 70, Validate, id="RFC8246-2 reload of what was immutable"),
        pytest.param(
            "max-age=0",
            "max-age=60, immutable, stale-while-revalidate=99",
            70,
            Validate,
            id="RFC8246-2 reload goes before stale use",
        ),
        pytest.param("max-age=10", "max-age=60", 10, Fresh(10, 50), id="RFC9111-5.2.1.1 young enough"),
        pytest.param("max-age=10", "max-age=60", 11, Validate, id="RFC9111-5.2.1.1 too old"),
        pytest.param("min-fresh=50", "max-age=60", 10, Fresh(10, 50), id="RFC9111-5.2.1.3 fresh for long enough"),
        pytest.param("min-fresh=51", "max-age=60", 10, Validate, id="RFC9111-5.2.1.3 not for long enough"),
        pytest.param("max-stale", "max-age=60", 10_000, StaleWhileRevalidate(10_000), id="RFC9111-5.2.1.2 any staleness"),
        pytest.param("max-stale=5", "max-age=60", 65, StaleWhileRevalidate(65), id="RFC9111-5.2.1.2 within"),
        pytest.param("max-stale=5", "max-age=60", 66, Validate, id="RFC9111-5.2.1.2 beyond"),
        pytest.param("max-stale=5", "max-age=60, must-revalidate", 65, Validate, id="RFC9111-5.2.2.2 before max-stale"),
        pytest.param("max-stale=5", "s-maxage=60", 65, Validate, id="RFC9111-5.2.2.10 before max-stale"),
        pytest.param("max-stale=5, only-if-cached", "max-age=60", 66, Unsatisfiable(), id="RFC9111-5.2.1.7 too stale"),
    ],
)
def test_what_clients_ask(wish: str, control: str, seconds: float, expected: Decision | type[Validate]) -> None:
    found = after(seconds, cached(control), asked=asking(wish))
    assert isinstance(found, Validate) if expected is Validate else found == expected


def test_pragma_asks_for_validation() -> None:
    found = after(0, cached(), asked=request(Pragma="no-cache"))
    assert isinstance(found, Validate)
    assert found.refused


@pytest.mark.parametrize("wish", ["no-cache", "max-age=0", "min-fresh=1000", "no-store"])
def test_rule_can_ignore_clients(wish: str) -> None:
    rule = CacheRule(honour_client_reload=False)
    assert after(9, cached(), rule=rule, asked=asking(wish)) == Fresh(9, 51)
    assert after(9, None, rule=rule, asked=asking(wish)) == Miss()


@pytest.mark.parametrize(
    ("wish", "control", "rule", "expected"),
    [
        pytest.param("", "max-age=60, stale-if-error=40", CacheRule(), (True, False), id="RFC5861-4 response"),
        pytest.param("", "max-age=60, stale-if-error=39", CacheRule(), (False, False), id="RFC5861-4 too stale"),
        pytest.param("", "max-age=60", CacheRule(stale_if_error=40), (True, False), id="RFC5861-4 rule"),
        pytest.param("stale-if-error=40", "max-age=60", CacheRule(), (True, False), id="RFC5861-4 request"),
        pytest.param("", "max-age=60, must-revalidate, stale-if-error=40", CacheRule(), (False, True), id="RFC9111-5.2.2.2 must"),
        pytest.param("stale-if-error=40", "s-maxage=60", CacheRule(stale_if_error=40), (False, True), id="RFC9111-5.2.2.10 must"),
        pytest.param("", "s-maxage=60, stale-if-error=40", CacheRule(), (True, True), id="RFC5861-4 beside s-maxage"),
        pytest.param(
            "no-cache", "max-age=60, stale-if-error=40", CacheRule(), (False, False), id="RFC9111-5.2.1.4 client insists"
        ),
        pytest.param("max-age=0", "max-age=60, stale-if-error=40", CacheRule(), (True, False), id="RFC5861-4 reload"),
    ],
)
def test_when_the_source_fails(wish: str, control: str, rule: CacheRule, expected: tuple[bool, bool]) -> None:
    found = after(100, cached(control), rule=rule, asked=asking(wish))
    assert isinstance(found, Validate)
    assert (found.stale_if_error, found.must) == expected


@pytest.mark.parametrize(
    ("wish", "control", "rule", "allowed"),
    [
        pytest.param("", "max-age=60", CacheRule(), True, id="RFC9111-4.2.4 disconnected"),
        pytest.param("", "max-age=60", CacheRule(stale_if_unreachable=40), True, id="as long as the operator allows"),
        pytest.param("", "max-age=60", CacheRule(stale_if_unreachable=39), False, id="and no longer"),
        pytest.param("", "max-age=60, must-revalidate", CacheRule(), False, id="RFC9111-5.2.2.2 must-revalidate"),
        pytest.param("", "max-age=60, proxy-revalidate", CacheRule(), False, id="RFC9111-5.2.2.8 proxy-revalidate"),
        pytest.param("", "max-age=60, no-cache", CacheRule(), False, id="RFC9111-5.2.2.4 no-cache"),
        pytest.param("", "s-maxage=60", CacheRule(), False, id="RFC9111-5.2.2.10 s-maxage"),
        pytest.param("", "max-age=60, stale-if-error=1", CacheRule(), False, id="RFC5861-4 the source says how long"),
        pytest.param("no-cache", "max-age=60", CacheRule(), False, id="RFC9111-5.2.1.4 the client insists"),
    ],
)
def test_when_the_source_is_out_of_reach(wish: str, control: str, rule: CacheRule, allowed: bool) -> None:
    found = after(100, cached(control), rule=rule, asked=asking(wish))
    assert isinstance(found, Validate)
    assert found.stale_if_unreachable is allowed


def test_soft_purge_makes_stale_at_once() -> None:
    assert isinstance(decide(request(), cached(), DEFAULT_RULE, NOW, marked_stale=True), Validate)
    rule = CacheRule(stale_while_revalidate=9)
    assert decide(request(), cached(), rule, NOW + 1, marked_stale=True) == StaleWhileRevalidate(1)


def test_a_refresh_lets_what_is_within_its_lifetime_answer_whatever_forbids_stale() -> None:
    stored = cached("max-age=60, must-revalidate, proxy-revalidate")
    found = decide(request(), stored, DEFAULT_RULE, NOW + 1, marked_stale=True, renewing=True)
    assert found == StaleWhileRevalidate(1)
    wishes = (request(Cache_Control=wish) for wish in ("no-cache", "max-age=0", "min-fresh=60"))
    for asked, now in ((request(), NOW + 61), *((wish, NOW + 1) for wish in wishes)):
        assert isinstance(decide(asked, stored, DEFAULT_RULE, now, marked_stale=True, renewing=True), Validate)


PAIRS = st.lists(
    st.tuples(
        st.sampled_from(["Cache-Control", "CDN-Cache-Control", "Age", "Expires", "Date", "ETag", "Last-Modified", "Pragma"]),
        FIELD_TEXT
        | st.sampled_from(["max-age=60", "s-maxage=9, stale-while-revalidate=99", "no-cache", "max-stale", "immutable"]),
    ),
    max_size=6,
)


@given(PAIRS, PAIRS, st.floats(-1e6, 1e6), st.sampled_from(["GET", "HEAD"]))
def test_fresh_means_younger_than_the_lifetime(
    asked: list[tuple[str, str]], given_: list[tuple[str, str]], offset: float, method: str
) -> None:
    stored = timed(*given_)
    found = decide(Request(method, "http", "h", "/", headers(*asked)), stored, DEFAULT_RULE, NOW + offset)
    known = terms(stored, DEFAULT_RULE)
    if isinstance(found, Fresh):
        assert found.age < known.lifetime.seconds
        assert found.lifetime_left > 0
        assert not known.directives.no_cache
    if isinstance(found, StaleWhileRevalidate):
        assert not known.directives.forbids_stale
