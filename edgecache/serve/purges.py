"""Purges that arrived while responses were on their way: what was asked for before a purge must not be stored after it.

Bookkeeping only. `purger` notes each purge; `keeping` and `fetching` ask before they store, `flying` before it shares.
"""

from __future__ import annotations

from collections import deque

from edgecache.policy.purging import Purge, Purgeable, matches


class RecentPurges:
    """The last `capacity` purges, each with its number."""

    def __init__(self, capacity: int = 1024) -> None:
        self._recent: deque[Purge] = deque(maxlen=capacity)
        self.count = 0

    def note(self, purge: Purge) -> None:
        self._recent.append(purge)
        self.count += 1

    def allow(self, entry: Purgeable, since: int, until: int | None = None) -> bool:
        """Whether `entry`, asked for when `count` was `since`, may be stored, or given to who asked at `until`.

        When in doubt it may not.
        """
        last = self.count if until is None else until
        if last > since and self.count - since > len(self._recent):
            return False
        return not any(matches(self._recent[number - self.count - 1], entry) for number in range(since + 1, last + 1))
