from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_long_text_that_is_almost_a_quoted_string_is_none() -> None:
    assert fields.unquote('"' + "\\a" * 40_000) is None
    assert fields.unquote('"' + 'a\\"' * 40_000 + '"x') is None


QUOTES = st.text(alphabet='a,"\\ ', max_size=40)


def closing_quote(line: str, opening: int) -> int:
    """Where the quoted-string that begins at `opening` has its closing quote; -1: nowhere."""
    position = opening + 1
    while position < len(line) and line[position] != '"':
        position += 2 if line[position] == "\\" else 1
    return position if position < len(line) else -1


def listed(line: str) -> list[str]:
    """RFC 9110 section 5.6.1, a character at a time; from a member with an unclosed quote on, quotes mean nothing."""
    parts, start, position = [], 0, 0
    while position < len(line):
        if line[position] == '"' and (position := closing_quote(line, position)) == -1:
            break
        if line[position] == ",":
            parts.append(line[start:position])
            start = position + 1
        position += 1
    parts += [line[start:]] if position != -1 else line[start:].split(",")
    return [member for part in parts if (member := part.strip(" \t"))]


@given(LIST_LIKE | FIELD_TEXT | QUOTES)
def test_lists_are_split_as_a_reader_of_single_characters_splits_them(line: str) -> None:
    assert list(fields.split_list(line)) == listed(line)


@given(QUOTES | QUOTES.map('"{}"'.format))
def test_quoted_strings_are_those_that_end_with_their_closing_quote(text: str) -> None:
    whole = text.startswith('"') and closing_quote(text, 0) == len(text) - 1
    assert (fields.unquote(text) is not None) is whole


@given(LIST_LIKE | FIELD_TEXT)
def test_splitting_never_raises_and_members_are_trimmed(line: str) -> None:
    for member in fields.split_list(line):
        assert member == member.strip(" \t") != ""


@given(FIELD_TEXT)
def test_quote_and_unquote_are_inverse(text: str) -> None:
    quoted = fields.quote(text)
    assert quoted == text if fields.is_token(text) else fields.unquote(quoted) == text
