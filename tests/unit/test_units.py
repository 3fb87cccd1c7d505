"""Durations and sizes read, refused with a reason, and printed so that they read back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import units


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("50ms", 50_000_000),
        ("2s", 2 * 10**9),
        ("1.5s", 1_500_000_000),
        ("1h", 3_600 * 10**9),
        ("30d", 30 * 86_400 * 10**9),
        ("0", 0),
        ("7 us", 7_000),
    ],
)
def test_durations_are_nanoseconds(text: str, expected_ns: int) -> None:
    assert units.parse_duration(text) == expected_ns


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [("64MiB", 64 << 20), ("1KB", 1000), ("512B", 512), ("1.5GiB", 3 << 29), ("0", 0), ("8 KiB", 8192)],
)
def test_sizes_are_bytes(text: str, expected_bytes: int) -> None:
    assert units.parse_size(text) == expected_bytes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("50", "has no unit"),
        ("50sec", r"did you mean s\?"),
        ("50MS", r"did you mean ms\?"),
        ("-1s", "is not a duration"),
        ("", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("0.5ns", "finer than 1 ns"),
        ("999999999999d", "too large"),
        ("9" * 5000 + "s", "is not a duration"),
        ("٣s", "is not a duration"),
    ],
)
def test_a_wrong_duration_says_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(units.UnitError, match=said):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("64M", r"did you mean MiB\?"), ("64mib", r"did you mean MiB\?"), ("64", "no unit"), ("64MiBs", "unknown unit")],
)
def test_a_wrong_size_says_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(units.UnitError, match=said):
        units.parse_size(text)


@given(st.integers(0, units.MAX_VALUE))
def test_what_is_printed_reads_back(value: int) -> None:
    assert units.parse_duration(units.format_duration(value)) == value
    assert units.parse_size(units.format_size(value)) == value


@given(st.text(max_size=80))
def test_any_text_is_a_value_or_a_unit_error(text: str) -> None:
    for parse in (units.parse_duration, units.parse_size):
        with contextlib.suppress(units.UnitError):
            assert parse(text) >= 0


def test_seconds_are_printed_with_their_unit() -> None:
    assert units.format_seconds(0.05) == "50ms"
    assert units.format_seconds(60) == "1m"
    with pytest.raises(units.UnitError):
        units.format_size(-1)
