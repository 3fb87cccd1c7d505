from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.dates import date_field, format_date, parse_date
from tests.unit.policy.values import FIELD_TEXT, NOW, headers

EXAMPLE = 784_111_777.0
"""The instant of the examples in RFC 9110 section 5.6.7."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE, id="RFC9110-5.6.7 IMF-fixdate"),
        pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE, id="RFC9110-5.6.7 RFC 850 date"),
        pytest.param("Sun Nov  6 08:49:37 1994", EXAMPLE, id="RFC9110-5.6.7 asctime"),
        pytest.param("SUN, 06 NOV 1994 08:49:37 gmt", EXAMPLE, id="RFC9111-4.2 case does not matter"),
        pytest.param("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_799.0, id="leap second"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 UTC", None, id="RFC9111-4.2 zone other than GMT"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 +0000", None, id="RFC9111-4.2 numeric zone"),
        pytest.param("Sun 06 Nov 1994 08:49:37 GMT", None, id="comma missing"),
        pytest.param("Sun, 06  Nov 1994 08:49:37 GMT", None, id="two spaces"),
        pytest.param("Sun, 6 Nov 1994 08:49:37 GMT", None, id="one-digit day"),
        pytest.param("Sun, 06 Nov 94 08:49:37 GMT", None, id="two-digit year in IMF-fixdate"),
        pytest.param("Sun, 06 Nov 1994 08.49.37 GMT", None, id="full stops in the time"),
        pytest.param("Sun, 06 Nov 1994 8:49:37 GMT", None, id="one-digit hour"),
        pytest.param("Sun, 06 Nov 1994 24:00:00 GMT", None, id="hour 24"),
        pytest.param("Sun, 06 Nov 1994 08:49:61 GMT", None, id="second 61"),
        pytest.param("Thu, 30 Feb 2023 00:00:00 GMT", None, id="no such day"),
        pytest.param("Thu, 01 Jan 0000 00:00:00 GMT", None, id="no such year"),
        pytest.param("0", None, id="RFC9111-5.3 zero"),
        pytest.param("-1", None, id="minus one"),
        pytest.param("", None, id="empty"),
    ],
)
def test_forms(text: str, expected: float | None) -> None:
    assert parse_date(text) == expected


@pytest.mark.parametrize(
    ("year", "reference", "expected"),
    [
        pytest.param("75", NOW, "2075", id="RFC9110-5.6.7 48 years ahead"),
        pytest.param("78", NOW, "1978", id="RFC9110-5.6.7 more than 50 years ahead"),
        pytest.param("70", None, "1970", id="no reference, late"),
        pytest.param("69", None, "2069", id="no reference, early"),
    ],
)
def test_two_digit_years(year: str, reference: float | None, expected: str) -> None:
    found = parse_date(f"Monday, 01-Jan-{year} 00:00:00 GMT", reference)
    assert found == parse_date(f"Mon, 01 Jan {expected} 00:00:00 GMT")


def test_date_field_trims_and_reads_the_first_line() -> None:
    lines = headers(("Date", " Sun, 06 Nov 1994 08:49:37 GMT\t"), ("Date", "x"))
    assert date_field(lines, "date") == EXAMPLE
    assert date_field(lines, "Expires") is None


@given(st.integers(0, 253_402_300_799))
def test_what_is_written_is_read_back(seconds: int) -> None:
    assert parse_date(format_date(seconds)) == seconds


@given(FIELD_TEXT, st.none() | st.floats(allow_nan=False))
def test_any_text_is_a_date_or_none(text: str, reference: float | None) -> None:
    parse_date(text, reference)
    parse_date(f"Monday, 01-Jan-{text[:2]} 00:00:00 GMT", reference)
