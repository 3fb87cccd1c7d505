"""Purges that arrived while responses were on their way: what was asked for before a purge must not be stored after it.

Bookkeeping only. `purger` notes each purge; `keeping` and `fetching` ask before they store, `flying` before it shares. Purges of
other processes that this one has not heard of yet are the store's to know: it is told what was on record when it was asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edgecache.policy.purging import Purge, Purgeable, matches


class RecentPurges:
    """The last `capacity` purges, and changes of what is on record for all processes, in one numbering."""

    def __init__(self, on_record: Callable[[], int], capacity: int = 2048) -> None:
        """`on_record`: the store's."""
        self._on_record = on_record
        self._recent: deque[tuple[Purge | None, int]] = deque(maxlen=capacity)
        """With what was on record then, as far as was known. None: no purge, but more on record."""
        self._record = 0
        self.count = 0

    def note(self, purge: Purge) -> None:
        self._append(purge)

    def now(self) -> int:
        """The number for what is asked for from here on."""
        record = self._on_record()
        if record != self._record:
            self._record = record
            self._append(None)
        return self.count

    def on_record(self, since: int) -> int:
        """What was on record when `now` was `since`; nothing, where that is too long ago to tell."""
        back = self.count - since
        if back == 0:
            return self._record
        return self._recent[-back - 1][1] if back < len(self._recent) else 0

    def allow(self, entry: Purgeable, since: int, until: int | None = None) -> bool:
        """Whether `entry`, asked for when `count` was `since`, may be stored, or given to who asked at `until`.

        When in doubt it may not.
        """
        last = self.count if until is None else until
        if last > since and self.count - since > len(self._recent):
            return False
        purges = [self._recent[number - self.count - 1][0] for number in range(since + 1, last + 1)]
        return not any(purge is not None and matches(purge, entry) for purge in purges)

    def _append(self, purge: Purge | None) -> None:
        self._recent.append((purge, self._record))
        self.count += 1
