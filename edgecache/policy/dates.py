"""HTTP-date, read in its three forms and written in the preferred one (RFC 9110 section 5.6.7).

Instants are seconds since the epoch; no clock. Called wherever a field holds a date.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from edgecache.policy.message import Headers

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_FIXDATE_CHARS = len("Sun, 06 Nov 1994 08:49:37 GMT")
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS = tuple(
    # RFC 9111 section 4.2: dates are matched case-insensitively; a zone other than GMT is invalid.
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        rf"(?:mon|tue|wed|thu|fri|sat|sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"(?:mon|tue|wed|thu|fri|sat|sun) {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


def parse_date(text: str, reference: float | None = None) -> float | None:
    """Seconds since the epoch, or None if `text` is no HTTP-date.

    A two-digit year that would lie more than 50 years after `reference` is in the century before; without a reference,
    70 to 99 are of the twentieth century.
    """
    return _fixdate(text) if len(text) == _FIXDATE_CHARS else _parsed(text, reference)


@lru_cache(maxsize=256)
def _fixdate(text: str) -> float | None:
    """Of this length is the preferred form alone, which needs no reference; those that arrive now say nearly the same."""
    return _parsed(text, None)


def _parsed(text: str, reference: float | None) -> float | None:
    match = next((m for m in (form.fullmatch(text) for form in _FORMS) if m), None)
    if match is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year = _full_year(year, reference)
    month = _MONTHS.index(match["month"].lower()) + 1
    second = int(match["second"])
    if second > 60:
        return None
    try:
        # The grammar has a leap second, datetime has none.
        moment = datetime(year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp()


def _full_year(two_digits: int, reference: float | None) -> int:
    if reference is None:
        return two_digits + (1900 if two_digits >= 70 else 2000)
    now = datetime.fromtimestamp(min(max(reference, 0.0), 2.0**37), tz=UTC).year
    year = now - now % 100 + two_digits
    return year - 100 if year > now + 50 else year


def format_date(seconds: float) -> str:
    """IMF-fixdate of an instant, e.g. `Sun, 06 Nov 1994 08:49:37 GMT`."""
    return _formatted(int(seconds))


@lru_cache(maxsize=64)
def _formatted(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    month = _MONTHS[moment.month - 1].capitalize()
    return f"{_DAYS[moment.weekday()]}, {moment.day:02} {month} {moment.year:04} {moment:%H:%M:%S} GMT"


def date_field(headers: Headers, name: str, reference: float | None = None) -> float | None:
    """The instant that the first line of a date-valued field names; None if it is absent or invalid."""
    text = headers.get(name)
    return None if text is None else parse_date(text.strip(" \t"), reference)
