"""Purges that arrived while responses were on their way: what was asked for before a purge must not be stored after it.

Bookkeeping only. The pipeline notes each purge and asks before it stores.
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

    def allow(self, entry: Purgeable, since: int) -> bool:
        """Whether `entry`, asked for when `count` was `since`, may be stored. When in doubt it may not."""
        newer = self.count - since
        if newer > len(self._recent):
            return False
        return not any(matches(self._recent[-i], entry) for i in range(1, newer + 1))
