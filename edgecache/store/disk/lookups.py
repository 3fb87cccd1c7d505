"""Lookups in a disk tier, within one turn of the event loop: the index in mapped memory, under what was asked but is not done.

`tier` makes one and tells it of the index. Nothing is written here; what turns out to be corrupt is ordered to be dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import lmdb
from lru import LRU

from edgecache.policy.purging import Purge
from edgecache.store.disk import row as rows
from edgecache.store.disk.index import Index, Txn, is_damage
from edgecache.store.disk.judging import Marks, judge
from edgecache.store.disk.orders import Drop
from edgecache.store.disk.pending import Pending
from edgecache.store.disk.row import CorruptRow, Place
from edgecache.store.disk.segments import SegmentReader
from edgecache.store.disk.stats import Counts
from edgecache.store.entry import Entry
from edgecache.store.stored_body import CorruptBody, Extent, StoredBody, blocks

_log = logging.getLogger(__name__)
INLINE_BYTES: Final = 64 << 10
"""Bodies up to this length are read at once and may go to memory; longer ones are read as they are sent."""
_VERIFIED: Final = 4096
"""Bodies of which this process remembers what it has verified."""

VariantOf = Callable[[tuple[str, ...]], str]


class Lookups:
    """Without an index it finds what waits to be written, and nothing else."""

    def __init__(
        self,
        path: Path,
        counts: Counts,
        pending: Pending,
        *,
        order: Callable[[Drop], None],
        used: Callable[[bytes], None],
        damaged: Callable[[Exception], None],
    ) -> None:
        """`order` has what is corrupt dropped; `used` hears the key of what was found, `damaged` that the index itself is."""
        self.index: Index | None = None
        self._path = path
        self._counts = counts
        self._pending = pending
        self._order = order
        self._used = used
        self._damaged = damaged
        self._files = SegmentReader(path)
        self._verified: LRU[tuple[int, int], bytearray] = LRU(_VERIFIED)
        self._bans: list[tuple[int, Purge]] = []
        self._bans_known = (-1, -1)

    def close_unlinked(self) -> None:
        """Let go of segments that are gone; asked from time to time."""
        self._files.close_unlinked()

    def get(self, uri: str, variant_of: VariantOf) -> Entry | None:
        """What is stored of `uri` under the variant chosen by `variant_of`, which is told the fields that variants differ in."""
        waiting = self._pending.entries(uri)
        if waiting:
            vary = next(iter(waiting.values())).vary
            if (awaited := waiting.get(variant_of(vary))) is not None:
                return awaited
        entry = self._stored(uri, variant_of)
        if entry is None or (waiting and entry.vary != vary):
            self._counts.misses += 1
            return None
        self._counts.hits += 1
        return entry

    def vary(self, uri: str) -> tuple[str, ...]:
        waiting = self._pending.entries(uri)
        if waiting:
            return next(iter(waiting.values())).vary
        if self.index is None:
            return ()
        with contextlib.suppress(lmdb.Error, CorruptRow), self.index.reading() as txn:
            for key, row in self.index.variants(txn, uri):
                if self._pending.hides(key):
                    continue
                named = rows.label(row)
                if named.uri == uri and self._left(txn, row, named) is not None:
                    return named.vary
        return ()

    def has(self, uri: str, variant: str) -> bool:
        """Whether something is stored there, or waits to be."""
        if variant in self._pending.entries(uri):
            return True
        if self.index is None:
            return False
        key = rows.object_key(uri, variant)
        with contextlib.suppress(lmdb.Error), self.index.reading() as txn:
            return not self._pending.hides(key) and self.index.row(txn, key) is not None
        return False

    def holds(self, entry: Entry) -> bool:
        """Whether this very response is what is stored, or waits to be."""
        awaited = self._pending.entries(entry.uri).get(entry.variant)
        if awaited is not None:
            return awaited.timed == entry.timed
        if self.index is None:
            return False
        with contextlib.suppress(lmdb.Error, CorruptRow), self.index.reading() as txn:
            key = rows.object_key(entry.uri, entry.variant)
            row = None if self._pending.hides(key) else self.index.row(txn, key)
            return row is not None and rows.fixed(row).time == entry.timed.response_time
        return False

    def _stored(self, uri: str, variant_of: VariantOf) -> Entry | None:
        index = self.index
        if index is None:
            return None
        try:
            with index.reading() as txn:
                found = index.find(txn, uri, variant_of)
                if found is None or self._pending.hides(found[0]):
                    return None
                key, row = found
                named = rows.label(row) if rows.proven(row) else None
                if named is None or rows.object_key(named.uri, named.variant) != key:
                    self._order(Drop(key, corrupt=True))
                    return None
                marks = self._left(txn, row, named)
        except (lmdb.Error, CorruptRow) as error:
            self._counts.failures += 1
            if is_damage(error):
                self._damaged(error)
            else:
                _log.error("disk tier %s: %s: %s", self._path, type(error).__name__, error)
            return None
        if marks is None or named.uri != uri:
            return None
        return self._read(*found, marks)

    def _left(self, txn: Txn, row: bytes, named: rows.Label) -> Marks | None:
        """What the purges since it was written leave of a row."""
        have = rows.fixed(row)
        marks = Marks(have.stale, have.renewing)
        bans = self._bans_of(txn)
        if bans and bans[-1][0] > have.serial:
            left = judge((purge for number, purge in bans if number > have.serial), named, marks)
            if left is None:
                return None
            marks = left
        return self._pending.left(named, marks)

    def _bans_of(self, txn: Txn) -> list[tuple[int, Purge]]:
        index = self.index
        if index is None:
            return []
        known = index.number(txn, b"general"), index.number(txn, b"swept")
        if known != self._bans_known:
            self._bans = index.bans(txn, known[1]) if known[0] > known[1] else []
            self._bans_known = known
        return self._bans

    def _read(self, key: bytes, row: bytes, marks: Marks) -> Entry | None:
        """The entry of a row, a short body with it; None: the file is gone, or something is corrupt."""
        fixed = rows.fixed(row)
        try:
            body = self._body(key, fixed.place, fixed.time)
            content = body.read(0, fixed.place.length) if fixed.place.length <= INLINE_BYTES else body
            entry = rows.entry_of(row, content, stale=marks.stale, renewing=marks.renewing)
        except (CorruptRow, CorruptBody, OSError):
            # A segment that was reclaimed a moment ago took its rows with it: then there is nothing to drop.
            self._order(Drop(key, fixed.time, fixed.place, corrupt=True))
            return None
        self._used(key)
        return entry

    def _body(self, key: bytes, place: Place, time: float) -> StoredBody:
        """Raises OSError, CorruptBody."""
        where = (place.segment, place.offset)
        verified = self._verified.get(where)
        if verified is None or len(verified) != blocks(place.length):
            verified = self._verified[where] = bytearray(blocks(place.length))
        file = self._files.open(place.segment)
        if os.fstat(file.fd).st_size < place.offset + place.length:
            # What was verified before somebody shortened the file would fail only after the head has been sent.
            raise CorruptBody(f"segment {place.segment:016x} ends early")
        condemn = partial(self._order, Drop(key, time, place, corrupt=True))
        extent = Extent(file, place.offset, place.length, place.checksum)
        return StoredBody(extent, verified, condemn)
