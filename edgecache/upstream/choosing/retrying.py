"""Whether a request may be sent once more, and the budget that keeps retries from doubling a load. Pure but for its number.

`origins` asks. What is never sent again: a request of which an answer has begun, one that is not idempotent (RFC 9110 section
9.2.2) unless nothing of it was sent, and one whose body is no longer known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgecache.policy.upstream import RetryRule

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""
UNREACHED: Final = frozenset({"connect", "tls"})
"""Reasons of a failure before a byte of the request was sent."""
_RESERVE: Final = 10.0
"""Retries that may come in a row, whatever was asked before: without them a site of few requests could never retry."""


@dataclass(slots=True)
class RetryBudget:
    """Retries of at most `share` of the requests, and a reserve: never more than `share` x requests + the reserve."""

    share: float
    left: float = _RESERVE

    def asked(self) -> None:
        """One request has come."""
        self.left = min(_RESERVE, self.left + self.share)

    def take(self) -> bool:
        """One retry, if there is one left."""
        if self.left < 1.0 or self.share <= 0.0:
            return False
        self.left -= 1.0
        return True


def retriable(rule: RetryRule, method: str, reason: str, retries: int) -> bool:
    """Whether a request that failed for `reason` after `retries` retries may be sent once more, where the budget has room."""
    return method in IDEMPOTENT and retries < rule.attempts and reason in rule.on


def retriable_status(rule: RetryRule, method: str, status: int, retries: int) -> bool:
    """The same for an answer with `status`, whose body nobody has read."""
    return method in IDEMPOTENT and retries < rule.attempts and status in rule.statuses
