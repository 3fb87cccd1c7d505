"""How long a response is fresh and how old it is (RFC 9111 section 4.2). Values in, seconds out; `now` is an argument.

Called by storing when a response arrives and by lookup when it is asked for again.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

from mypy_extensions import mypyc_attr

from edgecache.policy.cache_control import ResponseDirectives, parse_response
from edgecache.policy.dates import date_field, parse_date
from edgecache.policy.fields import MAX_SECONDS, OWS, delta_seconds, split_list
from edgecache.policy.message import Headers, Timed
from edgecache.policy.rule import CacheRule

HEURISTIC_STATUSES = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 451, 501})
"""Cacheable without explicit freshness (RFC 9110 section 15.1, RFC 7725 section 3)."""

HEURISTIC_FRACTION = 0.1
"""Part of the time since Last-Modified (RFC 9111 section 4.2.2)."""
HEURISTIC_CAP_S = 86_400.0
"""A guess is never trusted for longer than a day."""
_CLOCK_STEP_S: Final = 300.0
"""By how much clocks are corrected while what is stored goes on answering."""


class LifetimeSource(enum.StrEnum):
    """Who said how long a response is fresh."""

    EXPLICIT = "explicit"
    HEURISTIC = "heuristic"
    DEFAULT = "default"
    NONE = "none"


@mypyc_attr(acyclic=True)
@dataclass(slots=True, init=False, unsafe_hash=True)
class Lifetime:
    """Freshness lifetime in seconds, and where it comes from."""

    seconds: Final[float]
    source: Final[LifetimeSource]

    def __init__(self, seconds: float, source: LifetimeSource) -> None:
        self.seconds = seconds
        self.source = source


@mypyc_attr(acyclic=True)
@dataclass(slots=True, init=False, unsafe_hash=True)
class Terms:
    """All that deciding about a stored response needs, computed once when it is stored."""

    lifetime: Final[Lifetime]
    born: Final[float]
    """The instant at which the response had age 0: its current age is `now - born`."""
    directives: Final[ResponseDirectives]

    def __init__(self, lifetime: Lifetime, born: float, directives: ResponseDirectives) -> None:
        self.lifetime = lifetime
        self.born = born
        self.directives = directives

    def age(self, now: float) -> float:
        """Current age in seconds (RFC 9111 section 4.2.3); never negative, though the clock may step back.

        Of what comes from the future nobody knows the age. Fresh until the clock is there again, it could answer for years.
        """
        age = now - self.born
        if age >= 0:
            return age
        return 0.0 if age > -_CLOCK_STEP_S else float(MAX_SECONDS)


def terms(stored: Timed, rule: CacheRule) -> Terms:
    """Lifetime, birth and directives of a response."""
    directives = parse_response(stored.response.headers)
    born = stored.response_time - _corrected_initial_age(stored)
    return Terms(lifetime(stored, directives, rule), born, directives)


def lifetime(stored: Timed, directives: ResponseDirectives, rule: CacheRule) -> Lifetime:
    """Freshness lifetime (RFC 9111 section 4.2.1): s-maxage, max-age, Expires, the operator's default, a heuristic."""
    if directives.s_maxage is not None:
        return Lifetime(directives.s_maxage, LifetimeSource.EXPLICIT)
    if directives.max_age is not None:
        return Lifetime(directives.max_age, LifetimeSource.EXPLICIT)
    headers = stored.response.headers
    if not directives.targeted and (expires := headers.getall("Expires", None)):
        return Lifetime(_until_expires(expires, stored), LifetimeSource.EXPLICIT)
    if stored.response.status not in HEURISTIC_STATUSES and not directives.public:
        return Lifetime(0.0, LifetimeSource.NONE)
    if rule.default_ttl is not None:
        return Lifetime(max(0.0, rule.default_ttl), LifetimeSource.DEFAULT)
    modified = date_field(headers, "Last-Modified", stored.response_time) if rule.heuristic else None
    if modified is None:
        return Lifetime(0.0, LifetimeSource.NONE)
    guess = (_date_value(stored) - modified) * HEURISTIC_FRACTION
    return Lifetime(min(max(0.0, guess), HEURISTIC_CAP_S), LifetimeSource.HEURISTIC)


def stale_while_revalidate(directives: ResponseDirectives, rule: CacheRule) -> float:
    """Seconds after its lifetime for which a response may answer while it is revalidated (RFC 5861 section 3); 0: never."""
    return _grace(directives.stale_while_revalidate, rule.stale_while_revalidate, directives)


def stale_if_error(directives: ResponseDirectives, rule: CacheRule) -> float:
    """Seconds after its lifetime for which a response may answer if the source fails (RFC 5861 section 4); 0: never."""
    return _grace(directives.stale_if_error, rule.stale_if_error, directives)


def _grace(given: int | None, of_rule: float, directives: ResponseDirectives) -> float:
    if directives.forbids_stale:
        return 0.0
    if given is not None:
        # s-maxage alone forbids stale use, but an origin that writes both means caches like this one with both.
        return given
    return 0.0 if directives.s_maxage is not None else of_rule


def age_field(age: float) -> str:
    """The value of an Age field (RFC 9111 section 5.1)."""
    return str(int(min(max(0.0, age), MAX_SECONDS)))


def _corrected_initial_age(stored: Timed) -> float:
    # Date counts whole seconds: the part of one that has passed since is no age.
    apparent_age = max(0.0, math.floor(stored.response_time) - _date_value(stored))
    response_delay = max(0.0, stored.response_time - stored.request_time)
    return max(apparent_age, _age_value(stored.response.headers) + response_delay)


def _age_value(headers: Headers) -> int:
    """RFC 9111 section 5.1: of several members the first counts; an invalid one is ignored.

    Parameters, which an integer may have where fields are structured (RFC 9651 section 3.3), do not make a response young.
    """
    line = headers.get("Age")
    if line is None:
        return 0
    return delta_seconds(next(split_list(line), "").partition(";")[0].rstrip(OWS)) or 0


def _date_value(stored: Timed) -> float:
    """RFC 9110 section 6.6.1: a response without a (valid) Date was made when it was received."""
    date = date_field(stored.response.headers, "Date", stored.response_time)
    return stored.response_time if date is None else date


def _until_expires(lines: list[str], stored: Timed) -> float:
    """RFC 9111 section 5.3: an invalid date, `0` above all, is in the past; so are lines that contradict each other."""
    if len(set(lines)) > 1:
        return 0.0
    expires = parse_date(lines[0].strip(OWS), stored.response_time)
    return 0.0 if expires is None else max(0.0, expires - _date_value(stored))
