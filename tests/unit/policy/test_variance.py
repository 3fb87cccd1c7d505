from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.message import Request
from edgecache.policy.rule import DEFAULT_RULE, CacheRule
from edgecache.policy.variance import normalise, selected_fields, variant_key, vary_names
from tests.unit.policy.values import FIELD_TEXT, headers, request, response


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], (), id="absent"),
        pytest.param(["Accept, accept", "B"], ("accept", "b"), id="RFC9110-12.5.5 names are case-insensitive"),
        pytest.param(["b, a"], ("a", "b"), id="order does not matter"),
        pytest.param(["*"], None, id="RFC9111-4.1 star"),
        pytest.param(["a, *"], None, id="RFC9111-4.1 star among others"),
        pytest.param(["", ", *"], None, id="RFC9111-4.1 star on another line"),
    ],
)
def test_vary_names(lines: list[str], expected: tuple[str, ...] | None) -> None:
    assert vary_names(response(*(("Vary", line) for line in lines))) == expected


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        pytest.param("Accept-Encoding", ["gzip, br"], ["br,gzip;q=0.5"], id="RFC9110-12.5.3 same codings"),
        pytest.param("Accept-Encoding", ["gzip, br"], ["GZIP", "br"], id="RFC9110-5.3 lines joined"),
        pytest.param("Accept-Encoding", ["gzip, identity"], ["x-gzip, deflate;q=0"], id="RFC9110-8.4.1.3 x-gzip"),
        pytest.param("Accept-Language", ["de, en;q=0.5"], ["en;q=0.1 ,DE ; q=0.9"], id="RFC9110-12.5.4 same order of preference"),
        pytest.param("Accept", ["text/html;level=1;q=0.5"], ["text/html; level=1; q=0.500"], id="RFC9110-12.5.1 parameters"),
        pytest.param("Accept-Language", ["en;q=2"], ["en"], id="weight above 1"),
        pytest.param("Accept-Language", ["en;q=nan"], ["en"], id="weight that is no number"),
        pytest.param("X-A", [" 1", "2 "], ["1, 2"], id="RFC9111-4.1 lines joined"),
    ],
)
def test_meaningless_differences_select_the_same_variant(name: str, one: list[str], other: list[str]) -> None:
    assert normalise(name, one) == normalise(name, other)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        pytest.param("Accept-Encoding", [""], ["gzip"], id="RFC9110-12.5.3 no coding"),
        pytest.param("Accept-Encoding", ["gzip;q=0"], ["gzip"], id="RFC9110-12.5.3 coding refused"),
        pytest.param("Accept-Encoding", ["gzip, identity;q=0"], ["gzip"], id="RFC9110-12.5.3 identity refused"),
        pytest.param("Accept-Encoding", ["*"], ["*;q=0"], id="RFC9110-12.5.3 all others refused"),
        pytest.param("Accept-Language", ["de, en;q=0.9"], ["en, de;q=0.9"], id="RFC9110-12.5.4 wanted more"),
        pytest.param("Accept-Language", ["de, en;q=0"], ["de"], id="RFC9110-12.4.2 refused"),
        pytest.param("X-A", ["a"], ["A"], id="other fields are case-sensitive"),
    ],
)
def test_meaningful_differences_select_another(name: str, one: list[str], other: list[str]) -> None:
    assert normalise(name, one) != normalise(name, other)


def test_an_absent_field_matches_only_absence() -> None:
    keys = {variant_key(asked, ("a",), DEFAULT_RULE) for asked in (request(), request(A=""), request(A="-"))}
    assert len(keys) == 3


def test_fields_of_the_rule_always_count() -> None:
    rule = CacheRule(vary=("X-Device",))
    assert variant_key(request(X_Device="a"), (), rule) != variant_key(request(X_Device="b"), (), rule)
    assert variant_key(request(X_Device="a"), (), rule) == variant_key(request(X_Device="a"), ("x-device",), rule)


def test_without_selecting_fields_there_is_one_variant() -> None:
    assert variant_key(request(A="1"), (), DEFAULT_RULE) == ""


def test_long_keys_are_digested() -> None:
    one, other = (variant_key(request(Cookie="x" * n), ("cookie",), DEFAULT_RULE) for n in (5000, 5001))
    assert one != other
    assert len(one) == len(other) == 64


NAMES = ("accept", "accept-encoding", "x-a", "cookie")
FIELDS = st.lists(
    st.tuples(st.sampled_from(NAMES), FIELD_TEXT | st.sampled_from(["gzip", "br, gzip;q=0.1", "en, de;q=0.5"])), max_size=5
)


def selecting(asked: Request) -> list[str | None]:
    return [normalise(name, asked.headers.getall(name)) if name in asked.headers else None for name in NAMES]


@given(FIELDS, FIELDS)
def test_keys_are_equal_if_and_only_if_the_normalised_fields_are(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    first, second = (Request("GET", "http", "h", "/", headers(*pairs)) for pairs in (one, other))
    keys = [variant_key(asked, NAMES, DEFAULT_RULE) for asked in (first, second)]
    assert (keys[0] == keys[1]) == (selecting(first) == selecting(second))


@given(FIELD_TEXT, st.sampled_from(NAMES))
def test_whitespace_around_a_value_never_matters(value: str, name: str) -> None:
    assert normalise(name, [value]) == normalise(name, [f" {value}\t"])


@given(st.dictionaries(st.sampled_from(["a", "accept-encoding", "accept-language", "x-v"]), FIELD_TEXT, max_size=4))
def test_a_key_that_tells_its_fields_tells_them_all_or_can_be_seen_not_to(fields: dict[str, str]) -> None:
    names = ("a", "accept-encoding", "accept-language", "x-v")
    key = variant_key(request(**fields), names, DEFAULT_RULE)
    told = selected_fields(key)
    if told is not None:
        assert {name for name, _ in told} == set(fields)
        assert all(value == normalise(name, [fields[name]]) for name, value in told)


def test_credentials_are_not_told() -> None:
    names = ("accept-language", "cookie")
    assert selected_fields(variant_key(request(Accept_Language="de"), names, DEFAULT_RULE)) == (("accept-language", "de"),)
    assert selected_fields(variant_key(request(Cookie="id=1"), names, DEFAULT_RULE)) is None
    assert selected_fields("0" * 64) is None
