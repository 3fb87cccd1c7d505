"""The memory tier: least recently used entries go first when the bytes run out. Synchronous, on the event loop's thread only.

Bytes are counted with the objects around them (`Entry.size_bytes`), so the bound holds for many small entries too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from lru import LRU

from edgecache.policy.message import Request
from edgecache.policy.purging import Purge, matches
from edgecache.policy.rule import CacheRule
from edgecache.policy.variance import variant_key
from edgecache.store.entry import Entry
from edgecache.store.tags import TagIndex

_Key = tuple[str, str]
_NO_LIMIT = 2**31 - 1
"""The LRU counts entries; this tier counts bytes and evicts by itself."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since the start, and what is held now."""

    capacity_bytes: int
    used_bytes: int
    entries: int
    uris: int
    tags: int
    stored: int
    evicted: int
    refused: int
    """Entries larger than the whole tier, or than its largest share for one entry."""
    purged: int


@dataclass(slots=True)
class _Primary:
    """What one URI has stored: the fields its variants differ in, and the variants, oldest first."""

    vary: tuple[str, ...]
    variants: dict[str, None] = field(default_factory=dict)


class MemoryStore:
    """Entries by URI and variant, within `capacity_bytes`."""

    def __init__(self, capacity_bytes: int, *, max_variants: int = 64, max_entry_share: float = 0.5) -> None:
        self._capacity = capacity_bytes
        self._max_variants = max_variants
        self._max_entry_bytes = int(capacity_bytes * max_entry_share)
        self._entries: LRU[_Key, Entry] = LRU(_NO_LIMIT)
        self._primaries: dict[str, _Primary] = {}
        self._tags: TagIndex[_Key] = TagIndex()
        self._used = 0
        self._stored = self._evicted = self._refused = self._purged = 0

    def get(self, uri: str, request: Request, rule: CacheRule) -> Entry | None:
        """The variant that `request` selects (RFC 9111 section 4.1); it becomes the most recently used."""
        primary = self._primaries.get(uri)
        if primary is None:
            return None
        variant = variant_key(request, primary.vary, rule)
        return self._entries.get((uri, variant))

    def at(self, key: tuple[str, str]) -> Entry | None:
        """The entry under this very URI and variant; it becomes the most recently used."""
        return self._entries.get(key)

    def vary(self, uri: str) -> tuple[str, ...]:
        """The request fields that select among the stored variants of `uri`."""
        primary = self._primaries.get(uri)
        return primary.vary if primary else ()

    def put(self, entry: Entry) -> bool:
        """Store, replacing the same variant. False: the entry is too large for this tier.

        An entry whose Vary differs from its URI's drops the other variants: their keys can no longer be computed.
        """
        if entry.size_bytes > self._max_entry_bytes:
            self._refused += 1
            self._forget((entry.uri, entry.variant))
            return False
        primary = self._primaries.get(entry.uri)
        if primary is not None and primary.vary != entry.vary:
            self.remove(entry.uri)
            primary = None
        if primary is None:
            primary = self._primaries[entry.uri] = _Primary(entry.vary)
        self._forget((entry.uri, entry.variant), keep_primary=True)
        primary.variants[entry.variant] = None
        self._insert(entry)
        for variant in list(islice(primary.variants, max(0, len(primary.variants) - self._max_variants))):
            self._forget((entry.uri, variant))
        self._evict()
        return True

    def replace(self, old: Entry, new: Entry) -> bool:
        """Put `new` in the place of `old` unless something else has taken it (RFC 9111 section 4.3.4)."""
        current = self._entries.get((old.uri, old.variant))
        return current is old and self.put(new)

    def discard(self, entry: Entry) -> bool:
        """Drop this very entry, if it is still what is stored."""
        key = (entry.uri, entry.variant)
        return self._entries.get(key) is entry and self._forget(key)

    def remove(self, uri: str) -> int:
        """Drop every variant of `uri`."""
        primary = self._primaries.get(uri)
        if primary is None:
            return 0
        return sum(self._forget((uri, variant)) for variant in list(primary.variants))

    def purge(self, purge: Purge) -> int:
        """Apply `purge`; soft purges mark entries stale. Returns how many entries it touched."""
        touched = 0
        for key in self._candidates(purge):
            entry = self._entries.get(key)
            if entry is None or not matches(purge, entry):
                continue
            touched += 1
            if purge.soft:
                self._entries[key] = replace(entry, marked_stale=True)
            else:
                self._forget(key)
        self._purged += touched
        return touched

    def stats(self) -> StoreStats:
        return StoreStats(
            capacity_bytes=self._capacity,
            used_bytes=self._used,
            entries=len(self._entries),
            uris=len(self._primaries),
            tags=len(self._tags),
            stored=self._stored,
            evicted=self._evicted,
            refused=self._refused,
            purged=self._purged,
        )

    def _candidates(self, purge: Purge) -> Iterable[_Key]:
        if purge.tag is not None:
            return self._tags.keys(purge.tag)
        if purge.urls:
            return [(uri, variant) for uri in purge.urls if (p := self._primaries.get(uri)) for variant in p.variants]
        return [(uri, variant) for uri, primary in self._primaries.items() for variant in primary.variants]

    def _insert(self, entry: Entry) -> None:
        key = (entry.uri, entry.variant)
        self._entries[key] = entry
        self._tags.add(key, entry.tags)
        self._used += entry.size_bytes
        self._stored += 1

    def _forget(self, key: _Key, *, keep_primary: bool = False) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._used -= entry.size_bytes
        self._tags.discard(key, entry.tags)
        primary = self._primaries[key[0]]
        primary.variants.pop(key[1], None)
        if not primary.variants and not keep_primary:
            del self._primaries[key[0]]
        return True

    def _evict(self) -> None:
        while self._used > self._capacity:
            oldest = self._entries.peek_last_item()
            if oldest is None:
                return
            self._forget(oldest[0])
            self._evicted += 1
