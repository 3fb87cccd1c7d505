"""Durations and sizes as people write them: `50ms`, `2s`, `64MiB`. Integers inside (nanoseconds, bytes), units outside.

Pure; no YAML and no JSON here. The configuration, manifests and the control API read and print with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

DURATION_UNITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ns": 1,
        "us": 10**3,
        "ms": 10**6,
        "s": 10**9,
        "m": 60 * 10**9,
        "h": 3_600 * 10**9,
        "d": 86_400 * 10**9,
    }
)
"""Nanoseconds in each unit."""

SIZE_UNITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "B": 1,
        "KiB": 1 << 10,
        "MiB": 1 << 20,
        "GiB": 1 << 30,
        "TiB": 1 << 40,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
    }
)
"""Bytes in each unit."""

MAX_VALUE: Final = (1 << 63) - 1
"""Largest number of nanoseconds or bytes: 292 years, 8 EiB."""

_MEASURE: Final = re.compile(r"(?P<number>[0-9]{1,19}(?:\.[0-9]{1,9})?) ?(?P<unit>[A-Za-zµ]{0,8})")
_SPELLED: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("sec", "secs", "second", "seconds"), "s")
    | dict.fromkeys(("min", "mins", "minute", "minutes"), "m")
    | {"hour": "h", "hours": "h", "day": "d", "days": "d"}
    | {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", "byte": "B", "bytes": "B"}
)
_PRINTED_SIZES: Final = ("TiB", "GiB", "MiB", "KiB")


class UnitError(ValueError):
    """A duration or size that cannot be read. The message says what is wrong and what would be right."""


def parse_duration(text: str) -> int:
    """`50ms`, `1.5s`, `30d` in nanoseconds. A bare `0` needs no unit. Raises UnitError."""
    return _parse(text, DURATION_UNITS, "duration", "50ms, 2s or 1h")


def parse_size(text: str) -> int:
    """`64MiB`, `1.5GiB`, `10MB` in bytes. A bare `0` needs no unit. Raises UnitError."""
    return _parse(text, SIZE_UNITS, "size", "512B, 64KiB or 8MiB")


def format_duration(duration_ns: int) -> str:
    """The shortest exact form that `parse_duration` reads back: the largest unit that leaves a whole number."""
    if duration_ns == 0:
        return "0s"
    return _format(duration_ns, DURATION_UNITS, tuple(reversed(list(DURATION_UNITS))))


def format_seconds(seconds: float) -> str:
    """`format_duration` for seconds, rounded to nanoseconds."""
    return format_duration(round(seconds * 10**9))


def format_size(size_bytes: int) -> str:
    """The shortest exact form that `parse_size` reads back, in binary units."""
    return "0B" if size_bytes == 0 else _format(size_bytes, SIZE_UNITS, (*_PRINTED_SIZES, "B"))


def _parse(text: str, units: Mapping[str, int], kind: str, examples: str) -> int:
    shown = repr(text if len(text) <= 40 else text[:37] + "...")
    match = _MEASURE.fullmatch(text.strip()) if len(text) <= 64 else None
    if match is None:
        raise UnitError(f"{shown} is not a {kind}; write a number and a unit, such as {examples}")
    number, unit = match["number"], match["unit"].replace("µ", "u")
    if not unit:
        if Fraction(number) == 0:
            return 0
        raise UnitError(f"{shown} has no unit; write {examples}")
    factor = units.get(unit)
    if factor is None:
        raise UnitError(f"{shown} has an unknown unit{_nearest(unit, units)}; the units of a {kind} are {', '.join(units)}")
    value = Fraction(number) * factor
    if value.denominator != 1:
        raise UnitError(f"{shown} is finer than 1 {next(iter(units))}")
    if value > MAX_VALUE:
        raise UnitError(f"{shown} is too large")
    return int(value)


def _nearest(unit: str, units: Mapping[str, int]) -> str:
    """Same letters in another case, or the unit spelled out or cut short."""
    folded = unit.lower()
    known = {name.lower(): name for name in units}
    found = known.get(folded) or _SPELLED.get(folded)
    return f" (did you mean {found}?)" if found in units else ""


def _format(value: int, units: Mapping[str, int], order: tuple[str, ...]) -> str:
    if value < 0:
        raise UnitError(f"{value} is negative")
    return next(f"{value // units[unit]}{unit}" for unit in order if value % units[unit] == 0)
