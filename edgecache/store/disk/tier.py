"""The disk tier as the event loop sees it: `lookups` at once, from mapped memory; everything that writes goes to `worker`.

`store.tiered` calls it. A response that waits to be written answers from here, and purges are in force before they are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import takewhile
from typing import Any, Final

import lmdb

from edgecache.policy.purging import Purge
from edgecache.store.disk import row as rows
from edgecache.store.disk.crashes import CrashRecord
from edgecache.store.disk.index import Index
from edgecache.store.disk.lookups import Lookups, VariantOf
from edgecache.store.disk.opening import DiskError, open_index
from edgecache.store.disk.orders import Ban, Drop, Order, Put, Release, Reserve, Told
from edgecache.store.disk.pending import Pending
from edgecache.store.disk.row import CorruptRow, Place
from edgecache.store.disk.segments import SegmentWriter
from edgecache.store.disk.settings import FULL, DiskSettings
from edgecache.store.disk.stats import Counts, DiskStats
from edgecache.store.disk.worker import DiskWorker
from edgecache.store.entry import Entry

_log = logging.getLogger(__name__)
_MAX_ORDERS: Final = 50_000
_CROWDED: Final = 64
"""Purges not yet on record at which those that can wait do; each costs every lookup a comparison."""
_MAX_PURGING: Final = 1000
_HOUSEKEEPING_SECONDS: Final = 1.0
_MEND_SECONDS: Final = 30.0
"""How long the thread of an index that is put aside may take to end; after that the index stays open."""
_AGAIN_SECONDS: Final = 5.0
"""Until what the disk refused is tried again."""


class DiskTier:
    """Closed until `start`: then it finds nothing and keeps nothing."""

    def __init__(self, settings: DiskSettings, *, max_variants: int = 64) -> None:
        self.settings = settings
        self.counts = Counts()
        self._max_variants = max_variants
        self._index: Index | None = None
        self._worker: DiskWorker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending = Pending()
        self._lookups = self._new_lookups()
        self._damage: Exception | None = None
        self._mending: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._record: CrashRecord | None = None
        self._own: deque[Ban] = deque(maxlen=_MAX_PURGING)
        """Of this process, on record; the latest last."""
        self._overrun: Ban | None = None
        """Everything is being forgotten: nothing else is asked of the disk until that is on record."""
        self._until_empty: list[asyncio.Future[int]] = []
        self._housekeeping: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open, or make, the tier. Must come after the last fork. Raises DiskError."""
        self._loop = asyncio.get_running_loop()
        await self._open(None)
        self._housekeeping = self._loop.call_later(_HOUSEKEEPING_SECONDS, self._keep_house)

    async def _open(self, before: Index | None) -> None:
        """Raises DiskError."""
        index = await asyncio.to_thread(open_index, self.settings, before)
        try:
            self._record = CrashRecord(self.settings.path, index.identity)
        except OSError as error:
            index.close()
            raise DiskError(f"the disk tier {self.settings.path} cannot be opened: {error.strerror}") from error
        self._worker = DiskWorker(self.settings, index, self.counts, self._finished_elsewhere, max_variants=self._max_variants)
        self._index = self._lookups.index = index
        self._worker.start()

    async def close(self, seconds: float = 10.0) -> None:
        """Write what waits, within so many seconds. Harmless on what did not start."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        self._closing.set()
        if self._mending is not None:
            await self._mending
        worker, index, self._worker, self._index = self._worker, self._index, None, None
        self._lookups.index = None
        record, self._record = self._record, None
        if worker is not None and index is not None:
            if await asyncio.to_thread(worker.stop, seconds):
                index.close()
            else:
                _log.warning("the disk tier did not take its last responses in time")
        if record is not None:
            record.close()

    # Lookups.

    def get(self, uri: str, variant_of: VariantOf) -> Entry | None:
        """What is stored of `uri` under the variant chosen by `variant_of`, which is told the fields that variants differ in."""
        return self._lookups.get(uri, variant_of)

    def vary(self, uri: str) -> tuple[str, ...]:
        return self._lookups.vary(uri)

    def has(self, uri: str, variant: str) -> bool:
        """Whether something is stored there, or waits to be."""
        return self._lookups.has(uri, variant)

    def holds(self, entry: Entry) -> bool:
        """Whether this very response is what is stored, or waits to be."""
        return self._lookups.holds(entry)

    def _used(self, key: bytes) -> None:
        if self._worker is not None:
            self._worker.used(key)

    # Changes.

    def put(self, entry: Entry, *, moved_from: float | None = None, record: int | None = None) -> bool:
        """Write it soon. False: refused.

        `moved_from`: the response time of what is stored there, which has this very body. `record`: the last purge on record when
        it was asked for; later ones of other processes take it, this one's own are known not to.
        """
        key = rows.object_key(entry.uri, entry.variant)
        index, size = self._index, len(entry.body)
        full = self._pending.waiting_bytes + size > self.settings.queue_bytes or self._crowded()
        if index is None or full or (moved_from is None and not isinstance(entry.body, bytes)):
            self.counts.refused += index is not None
            self.drop(entry.uri, entry.variant)
            return False
        serial = self.serial() if record is None else record
        put = Put(key, entry, serial, after=self._own_purges(serial), moved_from=moved_from)
        self._pending.wait(put)
        self._order(put)
        return True

    def decline(self, uri: str, variant: str) -> None:
        """Not worth its room: what is stored there is older, and goes."""
        self.counts.declined += 1
        self.drop(uri, variant)

    def drop(self, uri: str, variant: str, time: float | None = None) -> None:
        """Forget what is stored there, or only the response that came at `time`."""
        self._pending.overtake(uri, variant)
        self._order(Drop(rows.object_key(uri, variant), time))

    def drop_all(self, uri: str) -> None:
        """Forget every variant of `uri`."""
        for variant in self._pending.variants(uri):
            self.drop(uri, variant)
        if self._index is not None:
            with contextlib.suppress(lmdb.Error, CorruptRow), self._index.reading() as txn:
                for key, _ in self._index.variants(txn, uri):
                    self._order(Drop(key))

    def purge(self, purge: Purge) -> asyncio.Future[int]:
        """In force at once; done when it is on record, with the number of stored responses that it concerns."""
        loop = self._loop or asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        if self._worker is None:
            done.set_result(0)
            return done
        if self._crowded() or len(self._pending.purging) >= _MAX_PURGING:
            self._empty("purges come faster than it records them")
            self._until_empty.append(done)
            return done
        order = Ban(purge, partial(_settle, done), counted=True)
        self._pending.purging.append(order)
        self._worker.queue.append(order, urgent=True)
        return done

    @property
    def full(self) -> bool:
        """Whether something has to go for what comes."""
        if self._index is None:
            return False
        with contextlib.suppress(lmdb.Error), self._index.reading() as txn:
            return self._index.reserved_bytes(txn) > self.settings.content_bytes * FULL
        return False

    @property
    def crowded(self) -> bool:
        """Whether so many purges wait to be recorded that another had better wait."""
        return len(self._pending.purging) >= _CROWDED

    def serial(self) -> int:
        """The last purge on record: what is asked for from now on is newer."""
        if self._index is None:
            return 0
        try:
            with self._index.reading() as txn:
                return self._index.number(txn, b"serial")
        except lmdb.Error:
            return 0

    # For `spool`.

    async def reserve(self, size: int, writer: SegmentWriter | None = None) -> SegmentWriter | None:
        """A segment of `size` bytes, new or `writer`'s made longer; None: there is no room."""
        found = await self._asked(lambda told: Reserve(size, told, writer))
        return found if isinstance(found, SegmentWriter) else None

    async def link(self, entry: Entry, place: Place, serial: int) -> bool:
        """Store an entry whose body lies at `place` already. False: a purge has overtaken it, or the disk refused."""
        key = rows.object_key(entry.uri, entry.variant)
        after = self._own_purges(serial)
        return bool(await self._asked(lambda told: Put(key, entry, serial, after=after, place=place, told=told)))

    def release(self, number: int) -> None:
        self._order(Release(number))

    def condemning(self, uri: str, variant: str, time: float) -> Callable[[], None]:
        """Drops the response that came there at `time`, when its body turns out to be corrupt."""
        return partial(self._order, Drop(rows.object_key(uri, variant), time, corrupt=True))

    def _own_purges(self, serial: int) -> tuple[Ban, ...]:
        """Those after `serial`: whoever stores has asked whether they concern it."""
        recorded = takewhile(lambda ban: ban.serial > serial, reversed(self._own))
        return (*recorded, *self._pending.purging)

    # Plumbing.

    async def _asked(self, order: Callable[[Told], Order]) -> object:
        """Put an order in the queue, and wait for what became of it: None also where the disk failed."""
        if self._worker is None or self._loop is None or self._crowded():
            return None
        done: asyncio.Future[object] = self._loop.create_future()
        self._worker.queue.append(order(partial(_settle, done)), urgent=True)
        try:
            return await done
        except DiskError:
            return None

    def _order(self, order: Order) -> None:
        if self._worker is None:
            return
        if not self._crowded():
            if isinstance(order, Drop):
                self._pending.drop(order)
            self._worker.queue.append(order)
        else:
            self._empty("it does not keep up")

    def _empty(self, why: str) -> None:
        """The disk does not do what it must, and what it was to forget must not answer: it forgets everything, once it can."""
        if self._overrun is None:
            self._overrun = Ban(Purge(everything=True))
            self._pending.empty(self._overrun)
            _log.error("disk tier %s is emptied: %s", self.settings.path, why)
            self._empty_again()

    def _empty_again(self) -> None:
        if self._worker is not None and self._overrun is not None:
            self._worker.queue.append(self._overrun, urgent=True)

    def _keep_house(self) -> None:
        if self._loop is None:
            return
        if self._mending is None:
            self._look_after()
        self._lookups.close_unlinked()
        self._housekeeping = self._loop.call_later(_HOUSEKEEPING_SECONDS, self._keep_house)

    # Damage.

    def _new_lookups(self) -> Lookups:
        return Lookups(
            self.settings.path,
            self.counts,
            self._pending,
            order=self._order,
            used=self._used,
            damaged=self._damaged,
        )

    def _damaged(self, error: Exception) -> None:
        """Nothing is looked up in it any more; what is to be done comes with the next look after the house."""
        self._damage = error
        self._lookups.index = None

    def _look_after(self) -> None:
        """An index that is damaged is made anew; one that another process has made anew is opened."""
        index, worker = self._index, self._worker
        if index is None or worker is None:
            return
        damage = self._damage or worker.damage
        fault = index.fault() if damage is None else f"{type(damage).__name__}: {damage}"
        if fault is None:
            return
        _log.error("disk tier %s is put aside, and opened anew: %s", self.settings.path, fault)
        self.counts.failures += 1
        self._index = self._worker = self._damage = None
        # Segments of another index may have the same names.
        self._lookups = self._new_lookups()
        # All that was stored is forgotten, and so is what was to be forgotten.
        self._finished([(order, 0 if isinstance(order, Ban) else None) for order in worker.abandon()])
        self._mending = asyncio.get_running_loop().create_task(self._mend(worker, index))

    async def _mend(self, worker: DiskWorker, index: Index) -> None:
        record, self._record = self._record, None
        if await asyncio.to_thread(worker.stop, _MEND_SECONDS):
            index.close()
        if record is not None:
            record.close()
        try:
            while self._index is None and not self._closing.is_set():
                try:
                    await self._open(index)
                except DiskError as error:
                    _log.error("%s; it is tried again", error)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), _AGAIN_SECONDS)
            self._empty_again()
        finally:
            self._mending = None

    def _crowded(self) -> bool:
        return self._overrun is not None or (self._worker is not None and len(self._worker.queue) >= _MAX_ORDERS)

    def _finished_elsewhere(self, outcomes: Sequence[tuple[Order, object]]) -> None:
        """Called on the worker's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finished, outcomes)

    def _finished(self, outcomes: Sequence[tuple[Order, object]]) -> None:
        for order, outcome in outcomes:
            match order:
                case Put(place=None):
                    self._pending.written(order)
                case Drop(time=None) if isinstance(outcome, BaseException):
                    self._empty(str(outcome))
                case Drop(time=None):
                    self._pending.dropped(order)
                case Ban():
                    self._recorded(order, outcome)
                case _:
                    pass
            if isinstance(order, Put | Ban | Reserve) and order.told is not None:
                order.told(outcome)

    def stats(self) -> DiskStats:
        objects = segments = used = pending = 0
        index = self._index
        if index is not None:
            with contextlib.suppress(lmdb.Error, OSError), index.reading() as txn:
                objects, segments = index.count(txn), index.segment_count(txn)
                used = index.reserved_bytes(txn)
                pending = len(index.bans(txn, index.number(txn, b"swept")))
        return DiskStats(
            capacity_bytes=self.settings.capacity_bytes,
            used_bytes=used,
            objects=objects,
            segments=segments,
            purges_pending=pending,
            waiting_bytes=self._pending.waiting_bytes,
            **asdict(self.counts),
        )

    def _recorded(self, order: Ban, outcome: object) -> None:
        if not isinstance(outcome, BaseException):
            with contextlib.suppress(ValueError):
                self._pending.purging.remove(order)
            if order is not self._overrun:
                self._own.append(order)
            else:
                self._overrun = None
                done, self._until_empty = self._until_empty, []
                for future in done:
                    _settle(future, 0)
        elif order is not self._overrun:
            self._pending.purging.remove(order)
            self._empty(str(outcome))
        elif self._loop is not None:
            self._loop.call_later(_AGAIN_SECONDS, self._empty_again)


def _settle(done: asyncio.Future[Any], outcome: object) -> None:
    if done.done():
        if isinstance(outcome, SegmentWriter):
            outcome.close()
        return
    if isinstance(outcome, BaseException):
        done.set_exception(DiskError(f"the disk refused: {outcome}"))
        # Whoever invalidates does not wait.
        done.exception()
    else:
        done.set_result(outcome)
