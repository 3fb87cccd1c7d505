from __future__ import annotations

import pytest
from hypothesis import given

from edgecache.policy import fields
from tests.unit.policy.values import FIELD_TEXT, LIST_LIKE, headers


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("a, b ,c", ["a", "b", "c"], id="RFC9110-5.6.1 whitespace around members"),
        pytest.param(", ,a,,", ["a"], id="RFC9110-5.6.1.2 empty members"),
        pytest.param('a="x, y", b', ['a="x, y"', "b"], id="RFC9110-5.6.4 comma in a quoted string"),
        pytest.param(r'a="x\", y", b', [r'a="x\", y"', "b"], id="RFC9110-5.6.4 escaped quote"),
        pytest.param('a="x, no-store', ['a="x', "no-store"], id="unclosed quote hides nothing"),
        pytest.param('"a", b="x, c', ['"a"', 'b="x', "c"], id="unclosed quote after a closed one"),
        pytest.param("", [], id="empty"),
    ],
)
def test_list_members(line: str, expected: list[str]) -> None:
    assert list(fields.split_list(line)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0", 0, id="zero"),
        pytest.param("003600", 3600, id="leading zeros"),
        pytest.param("2147483647", 2147483647, id="largest below the cap"),
        pytest.param("2147483649", fields.MAX_SECONDS, id="RFC9111-1.2.2 overflow"),
        pytest.param("9" * 5000, fields.MAX_SECONDS, id="RFC9111-1.2.2 overflow of a very long number"),
        pytest.param("0" * 5000 + "7", 7, id="very many zeros"),
        pytest.param("-1", None, id="negative"),
        pytest.param("1.0", None, id="decimal"),
        pytest.param("+1", None, id="sign"),
        pytest.param("1_0", None, id="underscore"),
        pytest.param("٣", None, id="digit of another script"),
        pytest.param("1 ", None, id="trailing space"),
        pytest.param("", None, id="empty"),
    ],
)
def test_delta_seconds(text: str, expected: int | None) -> None:
    assert fields.delta_seconds(text) == expected


def test_unquote_takes_only_whole_quoted_strings() -> None:
    assert fields.unquote(r'"a\"b"') == 'a"b'
    assert fields.unquote('"a" ') is None
    assert fields.unquote("a") is None


def test_quote_leaves_tokens_alone() -> None:
    assert fields.quote("shop.test") == "shop.test"
    assert fields.quote('a"b\\c') == r'"a\"b\\c"'


def test_names_are_lower_case_once_each_over_all_lines() -> None:
    assert fields.names(headers(("Vary", "A, b"), ("vary", "B, c")), "Vary") == ("a", "b", "c")


def test_many_unclosed_quotes_cost_linear_time() -> None:
    assert len(list(fields.split_list('"\\' * 40_000 + ",x"))) == 2
    assert len(list(fields.split_list("x," * 40_000 + '"'))) == 40_001


@given(LIST_LIKE | FIELD_TEXT)
def test_splitting_never_raises_and_members_are_trimmed(line: str) -> None:
    for member in fields.split_list(line):
        assert member == member.strip(" \t") != ""


@given(FIELD_TEXT)
def test_quote_and_unquote_are_inverse(text: str) -> None:
    quoted = fields.quote(text)
    assert quoted == text if fields.is_token(text) else fields.unquote(quoted) == text
