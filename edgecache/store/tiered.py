"""Two tiers as one store: memory in front, the disk behind it. Same shape as the memory tier; the event loop's thread only.

What is stored goes to memory, and in the background to the disk; what only the disk has answers from there, and short bodies
return to memory. What is too long for memory is on disk alone.
"""

from __future__ import annotations

from edgecache.policy.message import Request
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.policy.variance import variant_key
from edgecache.store.disk import DiskTier
from edgecache.store.disk.spool import Spool
from edgecache.store.entry import Entry
from edgecache.store.memory import MemoryStore
from edgecache.store.purging import Purging
from edgecache.store.stats import StoreStats

_Key = tuple[str, str]
_PARTIAL = 206
"""Parts grow with each request that brings another: they are kept in memory alone."""


class TieredStore:
    """See the module."""

    def __init__(self, memory: MemoryStore, disk: DiskTier) -> None:
        self.memory = memory
        self.disk = disk
        self.at = memory.at
        """What is in memory under this very URI and variant: the hit path asks, and must not wait for a disk."""
        self.asked, self.unsettled = memory.asked, memory.unsettled
        memory.on_evict = self._evicted

    def get(self, uri: str, request: Request, rule: CacheRule) -> Entry | None:
        entry = self.memory.get(uri, request, rule)
        return self._from_disk(uri, request, rule) if entry is None else entry

    def _from_disk(self, uri: str, request: Request, rule: CacheRule) -> Entry | None:
        entry = self.disk.get(uri, lambda vary: variant_key(request, vary, rule))
        if entry is None:
            return None
        vary = self.memory.vary(uri)
        if vary and vary != entry.vary:
            # Memory is the newer one: the URI's variants differ in other fields by now.
            return None
        if isinstance(entry.body, bytes):
            self.memory.put(entry)
        return entry

    def vary(self, uri: str) -> tuple[str, ...]:
        return self.memory.vary(uri) or self.disk.vary(uri)

    def on_record(self) -> int:
        return self.disk.serial()

    def put(self, entry: Entry, record: int | None = None) -> bool:
        """Store; False: neither tier takes it."""
        return self._put(entry, None, record)

    def _put(self, entry: Entry, moved_from: float | None, record: int | None) -> bool:
        if entry.timed.response.status == _PARTIAL:
            return self.memory.put(entry)
        # The disk first: what memory does not let in is looked for there.
        worth = moved_from is not None or self._worth_writing(entry, known=0)
        on_disk = worth and self.disk.put(entry, moved_from=moved_from, record=record)
        if not worth:
            self.disk.decline(entry.uri, entry.variant)
        if isinstance(entry.body, bytes):
            return self.memory.put(entry) or on_disk
        self.memory.forget(entry.uri, entry.variant)
        return on_disk

    def replace(self, old: Entry, new: Entry, record: int | None = None) -> bool:
        """Put `new` in the place of `old` unless something else has taken it (RFC 9111 section 4.3.4)."""
        if not self._holds(old):
            return False
        same_body = old.body is new.body and (old.uri, old.variant) == (new.uri, new.variant)
        return self._put(new, old.timed.response_time if same_body else None, record)

    def discard(self, entry: Entry) -> bool:
        """Drop this very entry, if it is still what is stored."""
        if not self._holds(entry):
            return False
        self.memory.forget(entry.uri, entry.variant)
        self.disk.drop(entry.uri, entry.variant)
        return True

    def remove(self, uri: str) -> int:
        """Drop every variant of `uri`; how many memory had."""
        count = self.memory.remove(uri)
        self.disk.drop_all(uri)
        return count

    def _holds(self, entry: Entry) -> bool:
        """Whether this very response is stored: where memory has one, that one counts."""
        held = self.memory.at((entry.uri, entry.variant))
        return held is entry if held is not None else self.disk.holds(entry)

    # Purges.

    def purge(self, purge: Purge) -> Purging[_Key]:
        """Put `purge` in force in both tiers; `recorded` waits until it is so for every process, and after a crash."""
        purging = self.memory.purge(purge)
        purging.recorded = self.disk.purge(purge)
        return purging

    def reclaim(self, limit: int) -> bool:
        """Visit at most `limit` entries in memory for the oldest purge; the disk's are visited on its own thread."""
        return self.memory.reclaim(limit)

    @property
    def renewals(self) -> int:
        return self.memory.renewals

    def next_renewal(self) -> Entry | None:
        return self.memory.next_renewal()

    @property
    def crowded(self) -> bool:
        return self.memory.crowded or self.disk.crowded

    # Long bodies.

    @property
    def spool_above(self) -> int:
        return min(self.disk.settings.large_bytes, self.memory.max_entry_bytes)

    def spool(self, length: int | None, record: int | None = None) -> Spool | None:
        """Where a body of `length` bytes (None: unknown) is written as it arrives; None: it is too long for that, too."""
        return (
            Spool(self.disk, length, self.memory.forget, record)
            if length is None or length <= self.disk.settings.content_bytes // 2
            else None
        )

    # Figures.

    def stats(self) -> StoreStats:
        """Those of memory."""
        return self.memory.stats()

    def _worth_writing(self, entry: Entry, *, known: int) -> bool:
        """Whether it was asked for more than `known` times.

        A full disk takes nothing else: one visit of a crawler must not displace what others come back for.

        What is asked for again while memory has it is written when memory lets go of it.
        """
        frequency = self.memory.frequency(entry.uri, entry.variant) if self.disk.full else None
        return frequency is None or frequency > known

    def _evicted(self, entry: Entry) -> None:
        """Memory lets go of it: the disk has it, unless it was too busy to take it then, or has reclaimed it since."""
        if entry.timed.response.status == _PARTIAL or self.disk.has(entry.uri, entry.variant):
            return
        if self._worth_writing(entry, known=1):
            self.disk.put(entry)
