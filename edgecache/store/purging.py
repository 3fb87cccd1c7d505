"""Purges whose work is not done: what they mean for an entry is asked at each lookup, until a sweep has been everywhere.

Bookkeeping only: `memory` owns the entries, and acts on what `judge` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from edgecache.policy.purging import Purge, matches
from edgecache.store.entry import Entry

K = TypeVar("K", bound=Hashable)
_FREED_AT_ONCE = 100_000
"""Notes whose memory is given back in one go (1 ms)."""
_MAX_RENEWALS = 100_000
"""Keys that wait to be fetched anew; further ones are fetched when they are next asked for."""


@dataclass(slots=True)
class SweepKeys(Generic[K]):
    """Keys that one sweep is to visit, and what is to be told when all have been."""

    keys: set[K]
    visited: Callable[[], None]


@dataclass(slots=True, eq=False)
class Purging(Generic[K]):
    """One purge on its way through the entries."""

    purge: Purge
    number: int
    listed: int | None
    """How many entries it concerns, where the index alone knows; None: `touched` says it in the end."""
    members: deque[SweepKeys[K]] = field(default_factory=deque)
    touched: int = 0
    done: bool = False
    recorded: Awaitable[int] | None = None
    """Ends when it is in force for other processes, and after a crash, too: how many entries on disk it concerns."""

    @property
    def count(self) -> int | None:
        """How many entries it concerns; None: not known yet."""
        return self.touched if self.done else self.listed


class PurgeLog(Generic[K]):
    """Purges in the order of their arrival, and which of them each entry has been held against.

    An entry without a note was stored before all of them.
    """

    def __init__(self) -> None:
        self.pending: list[Purging[K]] = []
        self.renewals: deque[K] = deque()
        """What is to be fetched anew, in the order in which purges came to it."""
        self.touched = 0
        """Entries that purges have concerned, since the start."""
        self._number = 0
        self._judged: dict[K, int] = {}
        self._spent: list[dict[K, int]] = []

    def begin(self, purge: Purge, members: deque[SweepKeys[K]], listed: int | None) -> Purging[K]:
        """Put `purge` in force. `members` are to be visited; `listed`: how many it concerns, where that is known."""
        self._number += 1
        purging = Purging(purge, self._number, listed, members)
        self.pending.append(purging)
        return purging

    def finish(self, purging: Purging[K]) -> None:
        """All its members have been visited."""
        purging.done = True
        self.pending.remove(purging)
        if self.pending:
            return
        if len(self._judged) > _FREED_AT_ONCE:
            self._spent.append(self._judged)
            self._judged = {}
        else:
            self._judged.clear()

    def stored(self, key: K) -> None:
        """What is stored under `key` is newer than every purge so far."""
        if self.pending:
            self._judged[key] = self._number

    def forget(self, key: K) -> None:
        """Nothing is stored under `key`."""
        self._judged.pop(key, None)

    def judge(self, key: K, entry: Entry) -> Entry | None:
        """What the purges that came after `entry` leave of it: itself, marked, or nothing."""
        since = self._judged.get(key, 0)
        if since == self._number:
            return entry
        for purging in self.pending:
            if purging.number > since and matches(purging.purge, entry):
                purging.touched += 1
                self.touched += 1
                if not (purging.purge.soft or purging.purge.refresh):
                    return None
                renewing = purging.purge.refresh and (entry.renewing or not entry.marked_stale)
                entry = replace(entry, marked_stale=True, renewing=renewing)
                if purging.purge.refresh and len(self.renewals) < _MAX_RENEWALS:
                    self.renewals.append(key)
        self._judged[key] = self._number
        return entry

    def tidy(self, limit: int) -> int:
        """Free at most `limit` notes that nobody needs. Returns how many: a large dictionary at once would take too long."""
        freed = 0
        while self._spent and freed < limit:
            notes = self._spent[-1]
            if notes:
                notes.popitem()
                freed += 1
            else:
                self._spent.pop()
        return freed
