"""Which entry of the memory tier goes when the bytes run out. Bookkeeping of keys, sizes and recency; `memory` owns the entries.

Two ways: the least recently used; or W-TinyLFU, where newcomers wait in a small window, and what leaves it displaces others only
if it was asked for more often than they were together (size-aware: Einziger, Eytan, Friedman, Manes 2021, "aggregated victims").
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from lru import LRU

from edgecache.store.entry import Entry
from edgecache.store.frequency import MOST, Frequency

_Key = tuple[str, str]
_NO_LIMIT: Final = 2**31 - 1
"""The LRUs count entries; this tier counts bytes and evicts by itself."""
_WINDOW_SHARE: Final = 0.02
_TYPICAL_BYTES: Final = 4096
"""Size of an entry, by which it is reckoned how many keys the sketch must tell apart."""
_MAX_KEYS: Final = 1 << 22
_REMEMBERED: Final = 2048
"""Requests remembered since the last response was stored: the latest of them."""
_COUNTED: Final = 32
"""Of those remembered: the rest is taken to be like them."""


class AdmissionPolicy(enum.StrEnum):
    """Who stays when memory is full."""

    TINYLFU = "tinylfu"
    LRU = "lru"


class Shelves:
    """The entries in the order of their use: `main`, and with W-TinyLFU a window before it."""

    def __init__(self, capacity_bytes: int, policy: AdmissionPolicy) -> None:
        self.main: LRU[_Key, Entry] = LRU(_NO_LIMIT)
        self.window: LRU[_Key, Entry] = LRU(_NO_LIMIT)
        tiny = policy is AdmissionPolicy.TINYLFU
        keys = min(max(capacity_bytes // _TYPICAL_BYTES, 1), _MAX_KEYS)
        self.frequency = Frequency(keys) if tiny else None
        self._recent: deque[_Key] = deque(maxlen=_REMEMBERED if tiny else 1)
        self.asked: Final[Callable[[_Key], None]] = self._recent.append
        """Told of each key that is asked for; costs an append, for hits come here."""
        self._capacity = capacity_bytes
        self._window_bytes = int(capacity_bytes * _WINDOW_SHARE) if tiny else 0
        self._window_used = 0
        self.used = 0

    def __len__(self) -> int:
        return len(self.main) + len(self.window)

    def asked_again(self, key: _Key, times: int) -> None:
        """Told of several requests for a key at once."""
        self._recent.extend([key] * min(times, MOST))

    def change(self, capacity_bytes: int) -> None:
        """Another bound, from the next `overflow` on. The sketch keeps its size."""
        self._capacity = capacity_bytes
        self._window_bytes = int(capacity_bytes * _WINDOW_SHARE) if self.frequency is not None else 0

    def add(self, key: _Key, entry: Entry, *, known: bool) -> None:
        """A new entry; `known`: it replaces one that was in `main`."""
        if self.frequency is not None:
            self._count(self.frequency, key)
        self.used += entry.size_bytes
        entry.standing.entry = entry
        if known or self.frequency is None:
            self.main[key] = entry
        else:
            self.window[key] = entry
            self._window_used += entry.size_bytes

    def replace(self, key: _Key, entry: Entry) -> None:
        """The same entry, marked."""
        shelf = self.window if key in self.window else self.main
        before = shelf.get(key)
        if before is not None:
            before.standing.entry = None
        entry.standing.entry = entry
        shelf[key] = entry

    def remove(self, key: _Key, entry: Entry) -> None:
        entry.standing.entry = None
        if self.window.pop(key, None) is not None:
            self._window_used -= entry.size_bytes
            self.used -= entry.size_bytes
        elif self.main.pop(key, None) is not None:
            self.used -= entry.size_bytes

    def make_room(self) -> bool:
        """Move newcomers from the window to `main` while everything fits. False: entries may have to go (`overflow`)."""
        while self._window_used > self._window_bytes and self.used <= self._capacity:
            newcomer = self.window.peek_last_item()
            if newcomer is None:
                break
            key, entry = newcomer
            self.window.pop(key)
            self._window_used -= entry.size_bytes
            self.main[key] = entry
        return self.used <= self._capacity

    def overflow(self) -> Iterator[tuple[_Key, Entry]]:
        """Entries that have to go, until the rest fits; each must have been removed before the next is asked for."""
        while self._window_used > self._window_bytes and (newcomer := self.window.peek_last_item()) is not None:
            key, entry = newcomer
            self.window.pop(key)
            self._window_used -= entry.size_bytes
            self.main[key] = entry
            if self.used > self._capacity:
                yield from self._contest(key, entry)
        while self.used > self._capacity:
            oldest = self.main.peek_last_item() or self.window.peek_last_item()
            if oldest is None:
                return
            yield oldest

    def _contest(self, key: _Key, entry: Entry) -> Iterator[tuple[_Key, Entry]]:
        """Who has to go: the newcomer, or those whose place it takes."""
        if self.frequency is None:
            return
        need, mine, theirs = self.used - self._capacity, self.frequency.of(key), 0
        victims: list[tuple[_Key, Entry]] = []
        while need > 0 and theirs < mine:
            oldest = self.main.peek_last_item()
            if oldest is None or oldest[0] == key:
                break
            theirs += self.frequency.of(oldest[0])
            if theirs >= mine:
                break
            self.main.pop(oldest[0])
            victims.append(oldest)
            need -= oldest[1].size_bytes
        wins = need <= 0 and theirs < mine
        for victim, held in victims:
            self.main[victim] = held
        yield from victims if wins else [(key, entry)]

    def _count(self, frequency: Frequency, key: _Key) -> None:
        """Add to the sketch the requests since the last time, of which a sample stands for all, and this one."""
        recent = self._recent
        if recent:
            step = -(-len(recent) // _COUNTED)
            for asked in list(recent)[::step]:
                frequency.add(asked, step)
            recent.clear()
        frequency.add(key)
