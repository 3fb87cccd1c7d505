"""Who is kept from running because it keeps harming its worker: a score, and a back-off that doubles.

Pure: time in seconds is an argument. Held by the dispatcher, one record a generator.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.outcome import End

STRIKES: dict[End, int] = {
    End.FINISHED: -1,
    End.FAULT: 2,
    End.BOOT_FAILED: 7,
    End.REJECTED: 7,
    End.WORKER_DIED: 10,
}
"""What an end adds to the score. Limits are no strikes: a request's own CPU pays for them, and clients could provoke them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinePolicy:
    """When a generator is quarantined, and for how long, in seconds: doubled each time, from the first to the longest."""

    threshold: int = 20
    """Two dead workers, three failed boots or ten faults with no good answer between them."""
    first_s: float = 1.0
    longest_s: float = 300.0
    forget_s: float = 600.0
    """After so long without quarantine the back-off starts from the beginning."""


class Score:
    """One generator's score."""

    __slots__ = ("_level", "_policy", "_score", "until")

    def __init__(self, policy: QuarantinePolicy) -> None:
        self._policy = policy
        self._score = 0
        self._level = 0
        self.until = 0.0
        """Time at which it may run again; in the past when it may run now."""

    def holds(self, now: float) -> bool:
        return now < self.until

    def note(self, end: End, now: float) -> bool:
        """Count an end of a request or boot that was this generator's own doing; True when that puts it into quarantine."""
        if end is End.FINISHED and not self._score:
            return False
        policy = self._policy
        self._score = max(0, self._score + STRIKES.get(end, 0))
        if self._score < policy.threshold or self.holds(now):
            return False
        if now - self.until > policy.forget_s:
            self._level = 0
        self.until = now + min(policy.longest_s, policy.first_s * 2**self._level)
        self._level = min(self._level + 1, 32)
        # On probation: the next strike of any size brings it back, good answers wear that off.
        self._score = policy.threshold - 1
        return True
