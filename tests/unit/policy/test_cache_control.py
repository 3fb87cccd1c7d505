from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from edgecache.policy.cache_control import RequestDirectives, ResponseDirectives, parse_request, parse_response
from edgecache.policy.fields import MAX_SECONDS
from tests.unit.policy.values import FIELD_TEXT, LIST_LIKE, headers


def directives(*lines: str) -> ResponseDirectives:
    return parse_response(headers(*(("Cache-Control", line) for line in lines)))


def targeted(*lines: str, cache_control: str = "no-store") -> ResponseDirectives:
    return parse_response(headers(*(("CDN-Cache-Control", line) for line in lines), ("Cache-Control", cache_control)))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["max-age=60"], {"max_age": 60}, id="RFC9111-5.2.2.1 max-age"),
        pytest.param(["MaX-aGe=60"], {"max_age": 60}, id="RFC9111-5.2 names are case-insensitive"),
        pytest.param(['max-age="60"'], {"max_age": 60}, id="RFC9111-5.2 quoted number"),
        pytest.param(["max-age=0060"], {"max_age": 60}, id="leading zeros"),
        pytest.param(["max-age=99999999999999999999"], {"max_age": MAX_SECONDS}, id="RFC9111-1.2.2 overflow"),
        pytest.param(["max-age=10, max-age=20"], {"max_age": 10}, id="RFC9111-4.2.1 first of two"),
        pytest.param(["max-age=20", "max-age=10"], {"max_age": 20}, id="RFC9111-4.2.1 first of two lines"),
        pytest.param(["max-age=-1"], {"max_age": 0}, id="RFC9111-4.2.1 negative is stale"),
        pytest.param(["max-age=60.5"], {"max_age": 0}, id="RFC9111-4.2.1 decimal is stale"),
        pytest.param(["max-age=a60"], {"max_age": 0}, id="RFC9111-4.2.1 garbage is stale"),
        pytest.param(["max-age='60'"], {"max_age": 0}, id="RFC9111-4.2.1 single quotes are stale"),
        pytest.param(["max-age"], {"max_age": 0}, id="RFC9111-4.2.1 argument missing"),
        pytest.param(["max-age="], {"max_age": 0}, id="RFC9111-4.2.1 argument empty"),
        pytest.param(["max-age =60"], {"max_age": 0}, id="RFC9111-5.2 space before equals"),
        pytest.param(["max-age= 60"], {"max_age": 0}, id="RFC9111-5.2 space after equals"),
        pytest.param(['x="max-age=60", max-age=1'], {"max_age": 1}, id="RFC9110-5.6.4 quoted text is no directive"),
        pytest.param(['max-age=1, x="max-age=60"'], {"max_age": 1}, id="RFC9110-5.6.4 quoted text after"),
        pytest.param(['x="open, no-store', "max-age=9"], {"no_store": True, "max_age": 9}, id="unclosed quote hides nothing"),
        pytest.param(["s-maxage=5"], {"s_maxage": 5}, id="RFC9111-5.2.2.10 s-maxage"),
        pytest.param(["no-store, no-transform"], {"no_store": True, "no_transform": True}, id="RFC9111-5.2.2.5 no-store"),
        pytest.param(["no-store=x"], {"no_store": True}, id="argument of a flag is ignored"),
        pytest.param(["no-cache"], {"no_cache": True}, id="RFC9111-5.2.2.4 no-cache"),
        pytest.param(['no-cache="Set-Cookie, X-A"'], {"no_cache_fields": ("set-cookie", "x-a")}, id="RFC9111-5.2.2.4 fields"),
        pytest.param(["no-cache=a"], {"no_cache_fields": ("a",)}, id="RFC9111-5.2.2.4 one field as token"),
        pytest.param(['no-cache=""'], {"no_cache": True}, id="RFC9111-5.2.2.4 empty list restricts all"),
        pytest.param(['no-cache="a b"'], {"no_cache": True}, id="RFC9111-5.2.2.4 no field name restricts all"),
        pytest.param(['no-cache="a", no-cache'], {"no_cache": True}, id="RFC9111-4.2.1 widest no-cache"),
        pytest.param(['no-cache, no-cache="a"'], {"no_cache": True}, id="RFC9111-4.2.1 widest no-cache first"),
        pytest.param(['private="a", private="b"'], {"private": True}, id="RFC9111-4.2.1 two private lists"),
        pytest.param(["private"], {"private": True}, id="RFC9111-5.2.2.7 private"),
        pytest.param(
            ["must-revalidate, proxy-revalidate, must-understand, public, immutable"],
            dict.fromkeys(("must_revalidate", "proxy_revalidate", "must_understand", "public", "immutable"), True),
            id="flags",
        ),
        pytest.param(
            ["stale-while-revalidate=5, stale-if-error=x"],
            {"stale_while_revalidate": 5, "stale_if_error": 0},
            id="RFC5861 windows",
        ),
        pytest.param([""], {}, id="empty line"),
        pytest.param([], {}, id="absent"),
    ],
)
def test_response(lines: list[str], expected: dict[str, object]) -> None:
    assert directives(*lines) == replace(ResponseDirectives(), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["max-age=60"], {"max_age": 60}, id="RFC9213-2.1 replaces Cache-Control"),
        pytest.param(["max-age=1", "public"], {"max_age": 1, "public": True}, id="RFC9213-2.1 several lines"),
        pytest.param(["foo, max-age=9;x=1"], {"max_age": 9}, id="RFC9213-2.1 unknown members and parameters"),
        pytest.param(["foo"], {}, id="RFC9213-2.1 unknown members alone still replace"),
        pytest.param(["max-age=99999999999"], {"max_age": MAX_SECONDS}, id="RFC9111-1.2.2 overflow"),
        pytest.param(["max-age=-5"], {"max_age": 0}, id="RFC9111-4.2.1 negative is stale"),
        pytest.param(["no-store=?0, max-age=1"], {"max_age": 1}, id="RFC9213-2.1 false flag"),
        pytest.param(["no-cache, private=?0"], {"no_cache": True}, id="RFC9213-2.1 no-cache"),
        pytest.param(['private="a,b"'], {"private_fields": ("a", "b")}, id="RFC9213-2.1 field names"),
        pytest.param(
            ["stale-while-revalidate=3, stale-if-error=4, s-maxage=2"],
            {"stale_while_revalidate": 3, "stale_if_error": 4, "s_maxage": 2},
            id="RFC5861 windows",
        ),
    ],
)
def test_targeted(lines: list[str], expected: dict[str, object]) -> None:
    assert targeted(*lines) == replace(ResponseDirectives(targeted=True), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="RFC9213-2.1 empty"),
        pytest.param("max-age=60, &&&", id="RFC9213-2.1 not a structured field"),
        pytest.param("MAX-AGE=60", id="RFC9651-3.1.2 keys are lower case"),
        pytest.param('max-age="60"', id="RFC9213-2.1 string for a number"),
        pytest.param("max-age=1.5", id="RFC9213-2.1 decimal for a number"),
        pytest.param("max-age", id="RFC9213-2.1 boolean for a number"),
        pytest.param("max-age=(1 2)", id="RFC9213-2.1 list for a number"),
        pytest.param("public=1", id="RFC9213-2.1 number for a flag"),
        pytest.param("no-cache=1", id="RFC9213-2.1 number for field names"),
        pytest.param(f"max-age=60, {'x' * 5000}", id="too long"),
        pytest.param("max-age =60", id="RFC9651 space before equals"),
        pytest.param("max-age=60, é", id="RFC9651-4.2 not ASCII"),
        pytest.param('max-age=60, x="é"', id="RFC9651-4.2 string that is not ASCII"),
        pytest.param("max-age=60, x=\udc80", id="RFC9651-4.2 not even text"),
    ],
)
def test_invalid_targeted_field_is_ignored_whole(line: str) -> None:
    assert targeted(line, cache_control="no-store, max-age=7") == ResponseDirectives(no_store=True, max_age=7)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([], RequestDirectives(), id="absent"),
        pytest.param([("Cache-Control", "no-cache, no-store")], RequestDirectives(no_cache=True, no_store=True), id="flags"),
        pytest.param([("Cache-Control", "max-age=0")], RequestDirectives(max_age=0), id="RFC9111-5.2.1.1 max-age"),
        pytest.param([("Cache-Control", "max-age=x")], RequestDirectives(), id="invalid number is ignored"),
        pytest.param([("Cache-Control", "max-stale")], RequestDirectives(max_stale=MAX_SECONDS), id="RFC9111-5.2.1.2 unbounded"),
        pytest.param([("Cache-Control", "max-stale=5")], RequestDirectives(max_stale=5), id="RFC9111-5.2.1.2 bounded"),
        pytest.param([("Cache-Control", "max-stale=x")], RequestDirectives(), id="RFC9111-5.2.1.2 invalid"),
        pytest.param([("Cache-Control", "min-fresh=5")], RequestDirectives(min_fresh=5), id="RFC9111-5.2.1.3 min-fresh"),
        pytest.param([("Cache-Control", "only-if-cached")], RequestDirectives(only_if_cached=True), id="RFC9111-5.2.1.7"),
        pytest.param([("Cache-Control", "stale-if-error=5")], RequestDirectives(stale_if_error=5), id="RFC5861-4"),
        pytest.param([("Pragma", "no-cache")], RequestDirectives(no_cache=True), id="RFC9111-5.4 Pragma"),
        pytest.param([("Pragma", "x")], RequestDirectives(), id="RFC9111-5.4 other Pragma"),
        pytest.param(
            [("Pragma", "no-cache"), ("Cache-Control", "max-age=9")],
            RequestDirectives(max_age=9),
            id="RFC9111-5.4 Pragma beside Cache-Control",
        ),
    ],
)
def test_request(pairs: list[tuple[str, str]], expected: RequestDirectives) -> None:
    assert parse_request(headers(*pairs)) == expected


def test_long_values_are_parsed_like_short_ones() -> None:
    padding = f'x="{"y" * 600}"'
    assert directives(padding, "max-age=3") == ResponseDirectives(max_age=3)
    assert parse_request(headers(("Cache-Control", f"{padding}, max-age=3"))) == RequestDirectives(max_age=3)


@given(LIST_LIKE | FIELD_TEXT, LIST_LIKE | FIELD_TEXT)
def test_any_text_gives_directives(one: str, two: str) -> None:
    lines = headers(("Cache-Control", one), ("CDN-Cache-Control", two), ("Cache-Control", f"max-age={two}"))
    found = parse_response(lines)
    assert found.max_age is None or 0 <= found.max_age <= MAX_SECONDS
    parse_request(lines)
    parse_request(headers(Pragma=one))


@given(LIST_LIKE)
def test_no_store_is_found_whatever_precedes_it(line: str) -> None:
    closed = line.replace('"', "")
    assert directives(f"{closed}, no-store").no_store
    assert directives(line, "no-store").no_store
