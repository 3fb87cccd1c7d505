"""Whether to wait for the next message with the CPU in hand: who sleeps on an idle CPU is late by the time that it takes to wake.

Pure: times and counts in, a decision out; `frames.py` waits. It pays where calls come one upon the other and the CPU has nobody
else to serve. A wait in vain, or others' need for the CPU, ends it until that is so again.
"""

from __future__ import annotations

from typing import Final

_ENOUGH: Final = 8
_MOST: Final = 16
"""A process that is disturbed now and then, and not at every call, stays above `_ENOUGH`."""


class Polling:
    """How the last waits went: one more for each that was short; none after one that was long; half when others came between."""

    __slots__ = ("_limit_ns", "_preemptions", "_score")

    def __init__(self, limit_ns: int) -> None:
        """`limit_ns`: the longest that a wait may take to be short, and so the most that is ever polled in vain; 0 for never."""
        self._limit_ns = limit_ns
        self._score = 0
        self._preemptions = 0

    @property
    def limit_ns(self) -> int:
        return self._limit_ns

    @property
    def promising(self) -> bool:
        """Whether the last waits speak for it."""
        return self._score >= _ENOUGH

    def undisturbed(self, preemptions: int) -> bool:
        """Whether nobody else has wanted this CPU since this was last asked, by the count of involuntary context switches."""
        if preemptions == self._preemptions:
            return True
        self._preemptions = preemptions
        self._score //= 2
        return False

    def note(self, waited_ns: int) -> None:
        """The message came after so long."""
        self._score = min(self._score + 1, _MOST) if waited_ns <= self._limit_ns else 0
