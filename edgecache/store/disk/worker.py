"""The disk tier's thread: carries out orders in batches, each one transaction of the index, and keeps the tier within its bounds.

Bodies are written before the transaction that names them is committed. `tier` starts it and is told of what became of each order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import lmdb

from edgecache.store.disk import row as rows
from edgecache.store.disk.index import Index, Txn, charge, is_damage
from edgecache.store.disk.judging import Marks, judge
from edgecache.store.disk.orders import Ban, Drop, Order, OrderQueue, Put, Release, Reserve
from edgecache.store.disk.reclaiming import Reclaimer
from edgecache.store.disk.row import CorruptRow, Place, Unstorable
from edgecache.store.disk.segments import SegmentLost, SegmentWriter, unlink
from edgecache.store.disk.settings import DiskSettings
from edgecache.store.disk.stats import Counts
from edgecache.store.entry import Entry
from edgecache.store.stored_body import checksums

_log = logging.getLogger(__name__)
_GATHER_SECONDS: Final = 0.02
_IDLE_SECONDS: Final = 0.5
_COUNT_SECONDS: Final = 0.3
"""How long a purge's entries are counted before it answers."""
_COUNT_SLICE: Final = 500
_ROOM_STEPS: Final = 1000
_COMPLAIN_SECONDS: Final = 10.0


class DiskWorker:
    """The orders of one process; `finished` is called on its thread with each batch and what is to be told of it."""

    def __init__(
        self,
        settings: DiskSettings,
        index: Index,
        counts: Counts,
        finished: Callable[[Sequence[tuple[Order, object]]], None],
        *,
        max_variants: int,
    ) -> None:
        self.queue = OrderQueue()
        self.damage: Exception | None = None
        """What has shown that the index is damaged."""
        self._settings = settings
        self._index = index
        self._counts = counts
        self._finished = finished
        self._max_variants = max_variants
        self._shared: SegmentWriter | None = None
        self._reclaimer = Reclaimer(settings, index, counts, self._copy)
        self._used: set[bytes] = set()
        self._complained = 0.0
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="disk-tier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def used(self, key: bytes) -> None:
        """An object answered: reclaiming passes it over once. Called on any thread."""
        if len(self._used) < 10_000:
            self._used.add(key)

    def stop(self, seconds: float) -> bool:
        """Carry out what waits, then end. False: not within so many seconds. The index may be closed only then."""
        self.queue.close()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> list[Order]:
        """End soon, and leave the index as it is; the orders that are not carried out. `stop` waits for the end."""
        self._abandoned = True
        return self.queue.abandon()

    def _run(self) -> None:
        busy = False
        while True:
            orders = self.queue.take(self._settings.batch, 0.0 if busy else _IDLE_SECONDS, _GATHER_SECONDS)
            if not orders and self.queue.closed:
                break
            busy = False
            try:
                if orders:
                    self._carry_out(orders)
                if not self.queue.closed:
                    self._note_used()
                    busy = self._reclaimer.step(time.monotonic())
            except Exception as error:  # the tier must not stop taking orders, whatever one of them met
                self._failed(error)
        self._reclaimer.close()
        if self._shared is None:
            return
        if self._abandoned:
            self._shared.close()
            return
        try:
            self._seal(self._shared)
        except (lmdb.Error, OSError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._counts.failures += 1
        if is_damage(error):
            self.damage = error
        now = time.monotonic()
        if now - self._complained > _COMPLAIN_SECONDS:
            self._complained = now
            _log.error("disk tier %s: %s: %s", self._settings.path, type(error).__name__, error)

    # Orders.

    def _carry_out(self, orders: list[Order]) -> None:
        told: dict[Order, object] = {}
        closing: list[SegmentWriter] = []
        try:
            try:
                self._write(orders, told, closing)
            except (lmdb.Error, OSError, CorruptRow) as error:
                self._failed(error)
                # Nothing of the batch is in the index but segments. What it was to replace must go all the same.
                told = _reserved(told)
                self._write([_instead(order) for order in orders], told, closing)
        except (lmdb.Error, OSError, CorruptRow) as error:
            self._failed(error)
            told = {**dict.fromkeys(orders, error), **_reserved(told)}
        finally:
            for writer in closing:
                writer.close()
            self._finished([(order, told.get(order)) for order in orders])

    def _write(self, orders: list[Order], told: dict[Order, object], closing: list[SegmentWriter]) -> None:
        """One batch; raises with nothing of it in the index but the segments in `told`."""
        places = {order: self._placed(order, closing) for order in orders if isinstance(order, Put)}
        for order in orders:
            if isinstance(order, Reserve) and order not in told:
                told[order] = self._reserve(order.size, order.writer)
        released: list[int] = []
        bans: list[tuple[Ban, int]] = []
        with self._index.writing() as txn:
            for order in orders:
                match order:
                    case Put():
                        told[order] = self._put(txn, order, places[order])
                    case Drop():
                        self._drop(txn, order)
                    case Ban():
                        bans.append((order, self._ban(txn, order, told)))
                    case Release():
                        self._index.release(txn, order.number)
                        released.append(order.number)
                    case Reserve():
                        pass
        for number in released:
            unlink(self._settings.path, number)
        for ban, serial in bans:
            if ban.counted and not ban.purge.urls:
                told[ban] = self._concerned(ban, serial)

    def _put(self, txn: Txn, order: Put, place: Place | None) -> bool:
        """Whether it is stored now. What is refused leaves nothing older behind."""
        entry, index = order.entry, self._index
        old = index.row(txn, order.key)
        if order.moved_from is not None:
            same = old is not None and rows.fixed(old).time == order.moved_from
            place = rows.fixed(old).place if old is not None and same else place
        marks = self._left_by_purges(txn, order)
        if place is None or marks is None:
            index.delete(txn, order.key)
            self._counts.refused += 1
            return False
        serial = index.number(txn, b"serial")
        try:
            row = rows.encode(entry, place, serial)
        except Unstorable:
            index.delete(txn, order.key)
            self._counts.refused += 1
            return False
        if marks != Marks(entry.marked_stale, entry.renewing):
            row = rows.changed(row, serial=serial, stale=marks.stale, renewing=marks.renewing)
        self._make_place_among_variants(txn, order)
        index.put(txn, order.key, row)
        self._counts.written += 1
        return True

    def _left_by_purges(self, txn: Txn, order: Put) -> Marks | None:
        entry = order.entry
        marks = Marks(entry.marked_stale, entry.renewing)
        last = self._index.number(txn, b"serial")
        if order.serial == last:
            return marks
        # Beyond the last: it was asked for when another index was here.
        if not self._index.number(txn, b"floor") <= order.serial < last:
            return None
        older = {ban.serial for ban in order.after}
        newer = (purge for serial, purge in self._index.all_bans(txn, order.serial) if serial not in older)
        return judge(newer, entry, marks)

    def _make_place_among_variants(self, txn: Txn, order: Put) -> None:
        """As the memory tier: one Vary a URI, and so many variants; the oldest goes."""
        others = [(key, found) for key, found in self._index.variants(txn, order.entry.uri) if key != order.key]
        for key, found in others:
            if rows.label(found).vary != order.entry.vary:
                self._index.delete(txn, key)
        if len(others) >= self._max_variants:
            self._index.delete(txn, min(others, key=lambda other: rows.fixed(other[1]).time)[0])

    def _drop(self, txn: Txn, order: Drop) -> None:
        found = self._index.row(txn, order.key)
        if found is not None and _concerns(order, found):
            self._index.delete(txn, order.key)
            self._counts.corrupt += order.corrupt

    # Purges.

    def _ban(self, txn: Txn, order: Ban, told: dict[Order, object]) -> int:
        serial = order.serial = self._index.ban(txn, order.purge)
        count = 0
        for uri in order.purge.urls:
            for key, found in list(self._index.variants(txn, uri)):
                have, named = rows.fixed(found), rows.label(found)
                earlier = (purge for number, purge in self._index.bans(txn, have.serial) if number < serial)
                before = judge(earlier, named, Marks(have.stale, have.renewing))
                after = None if before is None else judge((order.purge,), named, before)
                if after is None:
                    self._index.delete(txn, key)
                elif after != before:
                    self._index.mark(txn, key, rows.changed(found, serial=serial, stale=after.stale, renewing=after.renewing))
                count += before is not None and after != before
        told[order] = count
        self._counts.purged += count
        return serial

    def _concerned(self, order: Ban, serial: int) -> int:
        """How many rows a purge that is in force concerns, as far as they can be counted in a moment."""
        count, start, until = 0, b"", time.monotonic() + _COUNT_SECONDS
        while time.monotonic() < until:
            with self._index.reading() as txn:
                earlier = self._index.bans(txn, 0)
                slice_ = [row for row, _ in zip(self._index.rows(txn, start), range(_COUNT_SLICE), strict=False)]
            for _, found in slice_:
                try:
                    have, named = rows.fixed(found), rows.label(found)
                except CorruptRow:
                    continue
                if have.serial < serial:
                    before = (purge for number, purge in earlier if have.serial < number < serial)
                    marks = judge(before, named, Marks(have.stale, have.renewing))
                    count += marks is not None and judge((order.purge,), named, marks) != marks
            if len(slice_) < _COUNT_SLICE:
                break
            start = slice_[-1][0] + b"\0"
        self._counts.purged += count
        return count

    # Room.

    def _placed(self, order: Put, closing: list[SegmentWriter]) -> Place | None:
        """Where the body lies, once it is written; None: nowhere yet."""
        if order.place is not None:
            return order.place
        if order.moved_from is not None:
            with self._index.reading() as txn:
                old = self._index.row(txn, order.key)
            if old is not None and rows.fixed(old).time == order.moved_from:
                return None
        body = order.entry.body
        return self._store(body, closing, _charge(order.entry)) if isinstance(body, bytes) else None

    def _store(self, body: bytes, closing: list[SegmentWriter], charged: int) -> Place | None:
        """Write a body; None: there is no room for it, or the disk refused."""
        checksum, table = checksums(body)
        size = len(body) + len(table) + charged
        try:
            writer = self._writer(size, closing)
            return (
                None if writer is None else Place(writer.number, self._append(writer, body, table, charged), len(body), checksum)
            )
        except OSError as error:
            self._failed(error)
            return None

    def _append(self, writer: SegmentWriter, body: bytes, table: bytes, charged: int) -> int:
        """Its offset. Raises OSError, lmdb.Error; a segment that is lost is the shared one no longer."""
        try:
            return writer.append(body, table, charge=charged)
        except SegmentLost:
            if writer is self._shared:
                self._shared = None
                self._seal(writer)
            raise

    def _writer(self, size: int, closing: list[SegmentWriter]) -> SegmentWriter | None:
        """Where `size` bytes can be written: the shared segment, or one of their own for what is long."""
        capacity = self._settings.segment_bytes
        if size > capacity // 2:
            if (own := self._reserve(size)) is not None:
                closing.append(own)
            return own
        if self._shared is not None and self._shared.room < size:
            self._seal(self._shared)
            self._shared = None
        if self._shared is None:
            self._shared = self._reserve(capacity)
        return self._shared

    def _seal(self, writer: SegmentWriter) -> None:
        try:
            with self._index.writing() as txn:
                self._index.resize(txn, writer.number, writer.size + writer.charged)
        finally:
            writer.close()

    def _reserve(self, size: int, writer: SegmentWriter | None = None) -> SegmentWriter | None:
        """Room for `size` bytes, made if need be, in a new segment or in all in `writer`'s; None: there is none."""
        limit = self._settings.content_bytes
        for _ in range(_ROOM_STEPS):
            if writer is None:
                found = self._new_segment(size, limit)
            else:
                with self._index.writing() as txn:
                    found = writer if self._index.resize(txn, writer.number, size, limit) else None
            if found is not None:
                found.capacity = size
                return found
            if size > limit // 2 or not self._reclaimer.reclaim_one():
                return None
        return None

    def _new_segment(self, size: int, limit: int) -> SegmentWriter | None:
        """Made and locked before other processes hear of it: they would take it for one whose writer has died."""
        writer: SegmentWriter | None = None
        try:
            with self._index.writing() as txn:
                number = self._index.reserve(txn, size, limit)
                if number is not None:
                    writer = SegmentWriter(self._settings.path, number, size)
        except BaseException:
            # Its number is the next one's, who would find the file locked.
            if writer is not None:
                writer.close()
            raise
        return writer

    def _copy(self, body: bytes, charged: int) -> Place | None:
        """Write what reclaiming keeps, within what is set apart for that; None: there is no room."""
        checksum, table = checksums(body)
        size = len(body) + len(table) + charged
        if self._shared is None or self._shared.room < size:
            if self._shared is not None:
                self._seal(self._shared)
                self._shared = None
            capacity = self._settings.segment_bytes
            self._shared = self._new_segment(capacity, self._settings.capacity_bytes)
            if self._shared is None:
                return None
        return Place(self._shared.number, self._append(self._shared, body, table, charged), len(body), checksum)

    def _note_used(self) -> None:
        if not self._used:
            return
        keys, self._used = self._used, set()
        with self._index.writing() as txn:
            for key in keys:
                self._index.use(txn, key)


def _concerns(order: Drop, row: bytes) -> bool:
    try:
        have = rows.fixed(row)
    except CorruptRow:
        return True
    return order.time in (None, have.time) and order.place in (None, have.place)


def _reserved(told: dict[Order, object]) -> dict[Order, object]:
    """What holds though the rest of a batch does not: whoever asked for a segment has it, to write or to give back."""
    return {order: outcome for order, outcome in told.items() if isinstance(order, Reserve)}


def _instead(order: Order) -> Order:
    """What still must be done where an order failed."""
    return Drop(order.key) if isinstance(order, Put) else order


def _charge(entry: Entry) -> int:
    """What the row will take in the index, without making it twice."""
    head = sum(len(name) + len(value) for name, value in entry.timed.response.headers.items())
    return charge(head + len(entry.head) + len(entry.uri) + len(entry.variant) + sum(map(len, entry.tags)) + 100)
