"""The memory tier: entries by URI and variant, within a number of bytes. Synchronous, on the event loop's thread only.

Bytes are counted with the objects around them (`Entry.size_bytes`), so the bound holds for many small entries too. Who goes when
they run out is `eviction`'s to say.
A purge is in force when `purge` returns; where it concerns many entries, `reclaim` visits them bit by bit, and every lookup asks
`purging.PurgeLog` in the meantime.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from mypy_extensions import mypyc_attr

from edgecache.policy.message import Request
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.policy.variance import variant_key
from edgecache.store.entry import Entry
from edgecache.store.eviction import AdmissionPolicy, Shelves
from edgecache.store.groups import GroupIndex
from edgecache.store.purging import PurgeLog, Purging, SweepKeys
from edgecache.store.stats import StoreStats

_Key = tuple[str, str]
_Group = TypeVar("_Group", str, tuple[str, str])
_MAX_PENDING = 64


@mypyc_attr(acyclic=True)
@dataclass(slots=True)
class _Primary:
    """What one URI has stored: the fields its variants differ in, and the variants, oldest first."""

    vary: tuple[str, ...]
    variants: dict[str, Entry] = field(default_factory=dict)


class MemoryStore:
    """Entries by URI and variant, within `capacity_bytes`."""

    def __init__(
        self,
        capacity_bytes: int,
        *,
        max_variants: int = 64,
        max_entry_share: float = 0.5,
        purge_at_once: int = 500,
        admission: AdmissionPolicy = AdmissionPolicy.LRU,
    ) -> None:
        """`purge_at_once`: a purge that has more entries to visit is left to `reclaim`."""
        self._capacity = capacity_bytes
        self._max_variants = max_variants
        self._purge_at_once = purge_at_once
        self._max_entry_bytes = int(capacity_bytes * max_entry_share)
        self._shelves = Shelves(capacity_bytes, admission)
        self._asked, self._main, self._window = self._shelves.asked, self._shelves.main, self._shelves.window
        self._primaries: dict[str, _Primary] = {}
        self._sites: GroupIndex[str, _Key] = GroupIndex()
        self._tags: GroupIndex[tuple[str, str], _Key] = GroupIndex()
        """By site and tag: a site's purge must not have to look at other sites' entries."""
        self._log: PurgeLog[_Key] = PurgeLog()
        self.on_evict: Callable[[Entry], object] | None = None
        """Told of each entry that has to go for want of memory."""
        self._stored = self._evicted = self._refused = 0

    def change(self, capacity_bytes: int, *, max_variants: int, max_entry_share: float) -> None:
        """Go on with other bounds; what no longer fits goes, least recently used first."""
        self._capacity = capacity_bytes
        self._max_variants = max_variants
        self._max_entry_bytes = int(capacity_bytes * max_entry_share)
        self._shelves.change(capacity_bytes)
        self._evict()

    def get(self, uri: str, request: Request, rule: CacheRule) -> Entry | None:
        """The variant that `request` selects (RFC 9111 section 4.1); it becomes the most recently used."""
        primary = self._primaries.get(uri)
        if primary is None:
            return None
        return self.at((uri, variant_key(request, primary.vary, rule)))

    def at(self, key: tuple[str, str]) -> Entry | None:
        """The entry under this very URI and variant; it becomes the most recently used."""
        entry = self._main.get(key)
        if entry is None and (entry := self._window.get(key)) is None:
            return None
        self._asked(key)
        return entry if not self._log.pending else self._settled(key, entry)

    def asked(self, key: tuple[str, str], times: int) -> None:
        """Count requests for `key` that were answered by its entry's standing, without `at`."""
        self._shelves.asked_again(key, times)

    @property
    def unsettled(self) -> list[Purging[_Key]]:
        """Purges under way: while there are any, an entry's standing does not tell all. Always the same list."""
        return self._log.pending

    def vary(self, uri: str) -> tuple[str, ...]:
        """The request fields that select among the stored variants of `uri`."""
        primary = self._living(uri)
        return primary.vary if primary else ()

    def on_record(self) -> int:
        """Other processes have memories of their own."""
        return 0

    def put(self, entry: Entry, record: int | None = None) -> bool:
        """Store, replacing the same variant. False: the entry is too large for this tier.

        An entry whose Vary differs from its URI's drops the other variants: their keys can no longer be computed.
        """
        if entry.size_bytes > self._max_entry_bytes:
            self._refused += 1
            self._forget((entry.uri, entry.variant))
            return False
        primary = self._living(entry.uri)
        if primary is not None and primary.vary != entry.vary:
            self.remove(entry.uri)
            primary = None
        if primary is None:
            primary = self._primaries[entry.uri] = _Primary(entry.vary)
        known = (entry.uri, entry.variant) in self._main
        self._forget((entry.uri, entry.variant), keep_primary=True)
        self._insert(primary, entry, known=known)
        for variant in list(islice(primary.variants, max(0, len(primary.variants) - self._max_variants))):
            self._forget((entry.uri, variant))
        self._evict()
        return True

    def replace(self, old: Entry, new: Entry, record: int | None = None) -> bool:
        """Put `new` in the place of `old` unless something else has taken it (RFC 9111 section 4.3.4)."""
        return self.at((old.uri, old.variant)) is old and self.put(new)

    def discard(self, entry: Entry) -> bool:
        """Drop this very entry, if it is still what is stored."""
        return self.at((entry.uri, entry.variant)) is entry and self._forget((entry.uri, entry.variant))

    def forget(self, uri: str, variant: str) -> bool:
        """Drop what is stored there. False: nothing was."""
        return self._forget((uri, variant))

    def remove(self, uri: str) -> int:
        """Drop every variant of `uri`."""
        primary = self._primaries.get(uri)
        if primary is None:
            return 0
        return sum(self._forget((uri, variant)) for variant in list(primary.variants))

    def purge(self, purge: Purge) -> Purging[_Key]:
        """Put `purge` in force: a hard one drops entries, all others mark them. It is done at once unless there are many to
        visit."""
        if purge.urls:
            purging = self._log.begin(purge, deque(), None)
            for uri in dict.fromkeys(purge.urls):
                self._living(uri)
            self._log.finish(purging)
            return purging
        if purge.tag is not None:
            return self._purge_groups(purge, self._tags, [(site, purge.tag) for site in self._sites_of(purge)])
        return self._purge_groups(purge, self._sites, self._sites_of(purge))

    def reclaim(self, limit: int) -> bool:
        """Visit at most `limit` entries for the oldest purge. False: no purge has anything left to do."""
        if self._log.pending:
            self._sweep(self._log.pending[0], limit)
            return True
        return self._log.tidy(limit) > 0

    @property
    def renewals(self) -> int:
        """How many keys wait to be fetched anew."""
        return len(self._log.renewals)

    def next_renewal(self) -> Entry | None:
        """Take the next key from those that wait, and say what is to be fetched anew there: None where nothing is any more."""
        if not self._log.renewals:
            return None
        uri, variant = self._log.renewals.popleft()
        primary = self._living(uri)
        entry = None if primary is None else primary.variants.get(variant)
        return entry if entry is not None and entry.marked_stale else None

    @property
    def crowded(self) -> bool:
        """Whether so many purges are under way that another had better wait: each costs every lookup a comparison."""
        return len(self._log.pending) >= _MAX_PENDING

    def frequency(self, uri: str, variant: str) -> int | None:
        """About how often it was asked for or stored lately; None: nobody counts."""
        frequency = self._shelves.frequency
        return None if frequency is None else frequency.of((uri, variant))

    @property
    def max_entry_bytes(self) -> int:
        """The largest `size_bytes` of one entry."""
        return self._max_entry_bytes

    @property
    def spool_above(self) -> None:
        """Long bodies have no other tier to go to."""

    def spool(self, length: int | None, record: int | None = None) -> None:
        del length, record

    def stats(self) -> StoreStats:
        return StoreStats(
            capacity_bytes=self._capacity,
            used_bytes=self._shelves.used,
            entries=len(self._shelves),
            uris=len(self._primaries),
            tags=len(self._tags),
            stored=self._stored,
            evicted=self._evicted,
            refused=self._refused,
            purged=self._log.touched,
        )

    def _sites_of(self, purge: Purge) -> list[str]:
        return self._sites.groups() if purge.site is None else [purge.site]

    def _purge_groups(self, purge: Purge, index: GroupIndex[_Group, _Key], groups: list[_Group]) -> Purging[_Key]:
        """A purge whose entries are all in `groups`."""
        total = sum(map(index.size, groups))
        at_once = total <= self._purge_at_once and all(map(index.complete, groups))
        exact = purge.host is None and purge.prefix is None and not self._log.pending
        members = deque(SweepKeys(index.take(group), partial(index.give_back, group)) for group in groups)
        purging = self._log.begin(purge, members, total if exact else None)
        if at_once:
            self._sweep(purging, total)
        return purging

    def _sweep(self, purging: Purging[_Key], limit: int) -> None:
        """Visit `limit` members; none left: the purge is done."""
        members = purging.members
        while members:
            keys = members[0].keys
            while keys:
                if limit <= 0:
                    return
                limit -= 1
                self._visit(keys.pop())
            members.popleft().visited()
        self._log.finish(purging)

    def _visit(self, key: _Key) -> None:
        primary = self._primaries.get(key[0])
        entry = None if primary is None else primary.variants.get(key[1])
        if entry is not None and (left := self._settled(key, entry)) is not None:
            self._list(key, left)

    def _living(self, uri: str) -> _Primary | None:
        """What `uri` has stored, with the purges under way applied to it."""
        primary = self._primaries.get(uri)
        if primary is None or not self._log.pending:
            return primary
        for variant, entry in list(primary.variants.items()):
            self._settled((uri, variant), entry)
        return self._primaries.get(uri)

    def _settled(self, key: _Key, entry: Entry) -> Entry | None:
        """`entry`, as the purges under way leave it there."""
        left = self._log.judge(key, entry)
        if left is None:
            self._drop(key, entry)
        elif left is not entry:
            self._primaries[key[0]].variants[key[1]] = left
            self._shelves.replace(key, left)
        return left

    def _insert(self, primary: _Primary, entry: Entry, *, known: bool) -> None:
        key = (entry.uri, entry.variant)
        primary.variants[entry.variant] = entry
        self._shelves.add(key, entry, known=known)
        self._list(key, entry)
        self._log.stored(key)
        self._stored += 1

    def _list(self, key: _Key, entry: Entry) -> None:
        self._sites.add(entry.site, key)
        for tag in entry.tags:
            self._tags.add((entry.site, tag), key)

    def _forget(self, key: _Key, *, keep_primary: bool = False) -> bool:
        """Drop what is stored under `key`. False: nothing was, or nothing that purges under way would have left."""
        primary = self._primaries.get(key[0])
        entry = None if primary is None else primary.variants.get(key[1])
        if entry is None:
            return False
        living = not self._log.pending or self._log.judge(key, entry) is not None
        self._drop(key, entry, keep_primary=keep_primary)
        return living

    def _drop(self, key: _Key, entry: Entry, *, keep_primary: bool = False) -> None:
        self._shelves.remove(key, entry)
        self._log.forget(key)
        self._sites.discard(entry.site, key)
        for tag in entry.tags:
            self._tags.discard((entry.site, tag), key)
        primary = self._primaries[key[0]]
        del primary.variants[key[1]]
        if not primary.variants and not keep_primary:
            del self._primaries[key[0]]

    def _evict(self) -> None:
        if self._shelves.make_room():
            return
        for key, entry in self._shelves.overflow():
            living = self._forget(key)
            self._evicted += living
            if living and self.on_evict is not None:
                self.on_evict(entry)
