"""Which parts of the mmap region are taken: a sorted list of disjoint ranges, bounded.

Pure bookkeeping on addresses; rights and contents live in the page tables. Part of a VM's snapshot.
"""

from __future__ import annotations

import bisect
from typing import Final

MAX_AREAS: Final = 1024


class TooManyAreas(Exception):
    """The change would leave more than MAX_AREAS ranges."""


class Areas:
    """Disjoint ranges [start, end), neighbours merged, ascending."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: tuple[tuple[int, int], ...] = ()) -> None:
        self._ranges = list(ranges)

    def frozen(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._ranges)

    def copy(self) -> Areas:
        """Independent of this one."""
        other = Areas.__new__(Areas)
        other._ranges = self._ranges.copy()
        return other

    def lowest(self, default: int) -> int:
        """Start of the lowest range."""
        return self._ranges[0][0] if self._ranges else default

    def add(self, start: int, end: int) -> None:
        """Take [start, end), free or not. Raises TooManyAreas."""
        low = bisect.bisect_left(self._ranges, start, key=lambda r: r[1])
        high = bisect.bisect_right(self._ranges, end, key=lambda r: r[0])
        if low < high:
            start, end = min(start, self._ranges[low][0]), max(end, self._ranges[high - 1][1])
        self._replace(low, high, [(start, end)])

    def remove(self, start: int, end: int) -> None:
        """Free [start, end), taken or not. Raises TooManyAreas."""
        low = bisect.bisect_right(self._ranges, start, key=lambda r: r[1])
        high = bisect.bisect_left(self._ranges, end, key=lambda r: r[0])
        kept = []
        if low < high:
            first, last = self._ranges[low][0], self._ranges[high - 1][1]
            kept = [(a, b) for a, b in ((first, start), (end, last)) if a < b]
        self._replace(low, high, kept)

    def free(self, start: int, end: int) -> bool:
        """Whether nothing of [start, end) is taken."""
        at = bisect.bisect_right(self._ranges, start, key=lambda r: r[1])
        return at == len(self._ranges) or self._ranges[at][0] >= end

    def place(self, length: int, low: int, high: int) -> int | None:
        """The highest address in [low, high) where `length` bytes are free; None when there is none."""
        top = high
        for start, end in reversed(self._ranges):
            if top - end >= length:
                break
            top = min(top, start)
        return top - length if top - length >= low else None

    def _replace(self, low: int, high: int, ranges: list[tuple[int, int]]) -> None:
        if len(self._ranges) - max(high - low, 0) + len(ranges) > MAX_AREAS:
            raise TooManyAreas
        self._ranges[low:high] = ranges
