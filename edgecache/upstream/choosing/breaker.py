"""The circuit breaker of one origin for one site: when it opens, when it lets one request through, when it closes. Pure; `member`
keeps the value, times are the caller's clock in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

_LONGEST: Final = 32
"""The pause doubles with each opening in a row, up to this multiple of the first."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Closed while `until` is None."""

    failures: int = 0
    """In a row, since the last success."""
    openings: int = 0
    """In a row, since the last success."""
    until: float | None = None
    """Set while it is open: from this time on, in seconds, one request may be let through."""
    probing: bool = False
    """That request was let through, and is under way."""

    def open(self, now: float) -> bool:
        """Whether a request that comes now fails at once."""
        return self.until is not None and (self.probing or now < self.until)


CLOSED: Final = Breaker()


def asked(breaker: Breaker) -> Breaker:
    """A request is sent that `open` let through."""
    return breaker if breaker.until is None else replace(breaker, probing=True)


def failed(breaker: Breaker, now: float, limit: int, pause: float) -> Breaker:
    """The `limit`-th failure in a row opens it; that of the request which was let through opens it again, for longer.

    Failures of requests that were sent before it opened change nothing.
    """
    if breaker.until is not None and not breaker.probing:
        return breaker
    failures = breaker.failures + 1
    if not breaker.probing and failures < limit:
        return replace(breaker, failures=failures)
    length = min(pause * 2.0 ** min(breaker.openings, _LONGEST), pause * _LONGEST)
    return Breaker(0, breaker.openings + 1, now + length)


def undecided(breaker: Breaker) -> Breaker:
    """The request ended without saying anything of the origin: its client left. The next one may be let through."""
    return replace(breaker, probing=False) if breaker.probing else breaker
