from __future__ import annotations

import pytest
from hypothesis import given

from edgecache.policy.etag import EntityTag, any_representation, entity_tag, listed_tags, parse_etag
from tests.unit.policy.values import FIELD_TEXT, LIST_LIKE, headers


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        pytest.param('W/"1"', 'W/"1"', False, True, id="RFC9110-8.8.3.2 both weak"),
        pytest.param('W/"1"', 'W/"2"', False, False, id="RFC9110-8.8.3.2 different"),
        pytest.param('W/"1"', '"1"', False, True, id="RFC9110-8.8.3.2 one weak"),
        pytest.param('"1"', '"1"', True, True, id="RFC9110-8.8.3.2 both strong"),
    ],
)
def test_comparison(one: str, other: str, strong: bool, weak: bool) -> None:
    first, second = parse_etag(one), parse_etag(other)
    assert first is not None
    assert second is not None
    assert (first.strongly_equals(second), first.weakly_equals(second)) == (strong, weak)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('"a,b"', EntityTag("a,b"), id="comma"),
        pytest.param('"a\\"', EntityTag("a\\"), id="RFC9110-8.8.3 backslash escapes nothing"),
        pytest.param('""', EntityTag(""), id="empty opaque tag"),
        pytest.param("abc", EntityTag("abc", weak=True), id="unquoted"),
        pytest.param('w/"a"', EntityTag('w/"a"', weak=True), id="RFC9110-8.8.3 W is case-sensitive"),
        pytest.param(" ", None, id="nothing"),
    ],
)
def test_parse(text: str, expected: EntityTag | None) -> None:
    assert parse_etag(text) == expected


def test_lists_over_several_lines() -> None:
    lines = headers(("If-None-Match", '"a,b", W/"c"'), ("If-None-Match", "d,"))
    assert listed_tags(lines, "If-None-Match") == (EntityTag("a,b"), EntityTag("c", weak=True), EntityTag("d", weak=True))


def test_star_and_absence() -> None:
    assert any_representation(headers(If_Match=" * "), "If-Match")
    assert not any_representation(headers(If_Match='"*"'), "If-Match")
    assert entity_tag(headers()) is None


@given(FIELD_TEXT | LIST_LIKE)
def test_any_text_is_tags_or_none(text: str) -> None:
    parse_etag(text)
    listed_tags(headers(("If-Match", text)), "If-Match")
