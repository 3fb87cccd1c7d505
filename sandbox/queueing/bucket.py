"""A token bucket: what may be used now, and how long to wait for more. Pure: integers, and time as an argument.

CPU caps (`caps.py`) and rates (`dispatch/pacing.py`) are made of it.
"""

from __future__ import annotations

_SECOND_NS = 1_000_000_000


class TokenBucket:
    """At most `burst` tokens, refilled with `rate` a second; full at first. What is taken beyond is a debt, refilled first.

    Over any `t` seconds no more than `burst + rate * t` is taken by who takes only what `wait_ns` says is there. Time that runs
    backwards refills nothing. Raises ValueError unless both are positive.
    """

    __slots__ = ("_at_ns", "_level", "burst", "rate")

    def __init__(self, rate: int, burst: int, now_ns: int) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError("rate and burst must be positive")
        self.rate = rate
        self.burst = burst
        self._level = burst * _SECOND_NS
        """In tokens times 10**9, so that a refill of one nanosecond is a whole number."""
        self._at_ns = now_ns

    def take(self, tokens: int, now_ns: int) -> None:
        """Take, also what is not there; a negative number gives back what was taken in advance, up to a full bucket."""
        self._refill(now_ns)
        self._level = min(self._level - tokens * _SECOND_NS, self.burst * _SECOND_NS)

    def spend(self, tokens: int, now_ns: int) -> bool:
        """Take what is there in full, or nothing; whether it was there."""
        self._refill(now_ns)
        left = self._level - tokens * _SECOND_NS
        if left < 0:
            return False
        self._level = left
        return True

    def wait_ns(self, tokens: int, now_ns: int) -> int:
        """Nanoseconds until `tokens`, or a full bucket where they are more than it holds; 0 when they are there."""
        self._refill(now_ns)
        missing = min(tokens, self.burst) * _SECOND_NS - self._level
        return 0 if missing <= 0 else -(-missing // self.rate)

    def level(self, now_ns: int) -> int:
        """Whole tokens that are there; negative while there is a debt."""
        self._refill(now_ns)
        return self._level // _SECOND_NS

    def retune(self, rate: int, burst: int, now_ns: int) -> None:
        """Another rate and burst from here on: what is there stays, as far as the new burst holds it. Raises ValueError."""
        if rate <= 0 or burst <= 0:
            raise ValueError("rate and burst must be positive")
        self._refill(now_ns)
        self.rate, self.burst = rate, burst
        self._level = min(self._level, burst * _SECOND_NS)

    def _refill(self, now_ns: int) -> None:
        passed_ns = now_ns - self._at_ns
        if passed_ns > 0:
            self._at_ns = now_ns
            self._level = min(self._level + self.rate * passed_ns, self.burst * _SECOND_NS)
