"""Keeps the tier within its bounds, bit by bit: reclaims segments, visits rows for purges, sweeps up after killed processes.

`worker` calls it between batches. Of several processes one does each of these at a time: locks on files, which end with their
holder.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from edgecache.policy.purging import Purge
from edgecache.store.disk import row as rows
from edgecache.store.disk.index import Index, Txn, charge
from edgecache.store.disk.judging import Marks, judge
from edgecache.store.disk.row import CorruptRow, Place
from edgecache.store.disk.segments import numbers, path_of, sealed, unlink
from edgecache.store.disk.settings import FULL, DiskSettings
from edgecache.store.disk.stats import Counts
from edgecache.store.stored_body import CorruptBody, Extent, OpenFile, StoredBody, blocks

_EXAMINED: Final = 256
"""Segments looked at for one that can be reclaimed, or that has become empty."""
_SWEEP_SLICE: Final = 500
_PERIOD_SECONDS: Final = 1.0
_RECORD_SECONDS: Final = 600.0
"""How long purges stay on record after all rows were held against them: no response is longer on its way and still stored."""
_MAX_ON_RECORD: Final = 10_000
_LOCK_SECONDS: Final = 1.0

Copy = Callable[[bytes, int], Place | None]
"""Writes a body elsewhere, with what its row is charged."""


@dataclass(slots=True)
class _Sweep:
    """A pass over all rows for the purges up to `target`; `start` is the next key."""

    target: int
    start: bytes
    lock: int


class Reclaimer:
    """Upkeep of one tier by one process."""

    def __init__(self, settings: DiskSettings, index: Index, counts: Counts, copy: Copy) -> None:
        self._settings = settings
        self._path = settings.path
        self._index = index
        self._counts = counts
        self._copy = copy
        self._sweep: _Sweep | None = None
        self._period_due = 0.0
        self._orphans_due = True
        self._serials: list[tuple[float, int]] = []
        """When which purges had been swept."""

    def close(self) -> None:
        """Leave what is under way to others."""
        if self._sweep is not None:
            os.close(self._sweep.lock)
            self._sweep = None

    def step(self, now: float) -> bool:
        """A few milliseconds of upkeep. True: there is more to do at once."""
        if now >= self._period_due:
            self._period_due = now + _PERIOD_SECONDS
            self._periodic(now)
        with self._index.reading() as txn:
            reserved = self._index.reserved_bytes(txn)
            general, swept = self._index.number(txn, b"general"), self._index.number(txn, b"swept")
        made_room = reserved > self._settings.content_bytes * FULL and self.reclaim_one(wait=False)
        if self._sweep is None and general > swept:
            self._begin_sweep(general)
        if self._sweep is not None:
            self._sweep_slice(self._sweep)
        return made_room or self._sweep is not None

    # Segments.

    def reclaim_one(self, *, wait: bool = True) -> bool:
        """Free the segment whose turn it is, but for what has answered since it was written. False: there is none to free."""
        with _locked(self._path / "reclaim.lock", _LOCK_SECONDS if wait else 0.0) as mine:
            if not mine:
                return False
            with self._index.reading() as txn:
                turns = list(islice(self._index.by_turn(txn), _EXAMINED))
            for number in turns:
                with sealed(self._path, number) as size:
                    if size is not None:
                        self._reclaim(number)
                        return True
        return False

    def _reclaim(self, number: int) -> None:
        with self._index.reading() as txn:
            found = [(key, self._index.row(txn, key)) for key in self._index.members(txn, number)]
            used = [(key, row) for key, row in found if row is not None and self._index.was_used(txn, key)]
        if used and rows.fixed(used[0][1]).place.length > self._settings.segment_bytes // 2:
            # It is alone in its segment, and moves with it.
            with self._index.writing() as txn:
                self._index.unuse(txn, used[0][0])
                self._index.postpone(txn, number)
            return
        moved = self._moved(number, used)
        with self._index.writing() as txn:
            for key, row, place in moved:
                if self._index.row(txn, key) == row:
                    have = rows.fixed(row)
                    new = rows.changed(row, place=place, serial=have.serial, stale=have.stale, renewing=have.renewing)
                    self._index.put(txn, key, new)
            self._counts.evicted += len(self._index.members(txn, number))
            self._index.release(txn, number)
        unlink(self._path, number)

    def _moved(self, number: int, used: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes, Place]]:
        """Copies of the bodies that are kept, small ones first: no more than half of the segment, so that each one frees some."""
        budget = self._settings.segment_bytes // 2
        moved: list[tuple[bytes, bytes, Place]] = []
        try:
            file = OpenFile(path_of(self._path, number))
        except OSError:
            return moved
        for key, row in sorted(used, key=lambda item: rows.fixed(item[1]).place.length):
            place = rows.fixed(row).place
            charged = charge(len(row))
            budget -= place.length + charged
            if budget < 0:
                break
            extent = Extent(file, place.offset, place.length, place.checksum)
            body = StoredBody(extent, bytearray(blocks(place.length)), _nothing)
            try:
                copied = self._copy(body.read(0, place.length), charged)
            except CorruptBody:
                self._counts.corrupt += 1
                continue
            if copied is None:
                break
            moved.append((key, row, copied))
        return moved

    def _periodic(self, now: float) -> None:
        self._index.free_dead_readers()
        self._forget_old_purges(now)
        with _locked(self._path / "reclaim.lock", 0.0) as mine:
            if not mine:
                return
            if self._orphans_due:
                self._orphans_due = False
                self._remove_orphans()
            with self._index.reading() as txn:
                candidates = self._index.candidates(txn, _EXAMINED)
            for number in candidates:
                with sealed(self._path, number) as size:
                    if size is not None:
                        self._examine(number, size)

    def _examine(self, number: int, size: int) -> None:
        """A segment that nobody writes any more: is it of use?"""
        with self._index.writing() as txn:
            empty = not self._index.live_bytes(txn, number)
            if empty:
                self._index.release(txn, number)
            else:
                self._index.resize(txn, number, size + self._index.charged(txn, number))
                self._index.no_candidate(txn, number)
        if empty:
            unlink(self._path, number)

    def _remove_orphans(self) -> None:
        """Files that the index does not know: a segment is made and entered there in one transaction."""
        with self._index.writing() as txn:
            for number in list(numbers(self._path)):
                if self._index.live_bytes(txn, number) is None:
                    unlink(self._path, number)

    # Purges.

    def _begin_sweep(self, target: int) -> None:
        lock = _try_lock(self._path / "sweep.lock")
        if lock is not None:
            self._sweep = _Sweep(target, b"", lock)

    def _sweep_slice(self, sweep: _Sweep) -> None:
        with self._index.reading() as txn:
            bans = self._index.bans(txn, self._index.number(txn, b"swept"))
            found = list(islice(self._index.rows(txn, sweep.start), _SWEEP_SLICE))
        due = [(number, purge) for number, purge in bans if number <= sweep.target]

        touched = [(key, row, left) for key, row in found if (left := _left(row, due, sweep.target)) is not _UNTOUCHED]
        if touched:
            with self._index.writing() as txn:
                for key, row, left in touched:
                    have = self._index.row(txn, key)
                    self._settle(txn, key, left if have == row else _left(have, due, sweep.target))
        if len(found) == _SWEEP_SLICE:
            sweep.start = found[-1][0] + b"\0"
            return
        with self._index.writing() as txn:
            self._index.sweep_done(txn, sweep.target)
        os.close(sweep.lock)
        self._sweep = None

    def _settle(self, txn: Txn, key: bytes, left: bytes | None) -> None:
        if left is _UNTOUCHED:
            return
        if left is None:
            self._index.delete(txn, key)
        else:
            self._index.mark(txn, key, left)

    def _forget_old_purges(self, now: float) -> None:
        with self._index.reading() as txn:
            count = self._index.purges_on_record(txn)
            swept, general = self._index.number(txn, b"swept"), self._index.number(txn, b"general")
            settled = self._index.number(txn, b"serial") if swept >= general else swept
        if not count:
            self._serials.clear()
            return
        if not self._serials or self._serials[-1][1] < settled:
            self._serials.append((now, settled))
        old = [serial for then, serial in self._serials if now - then > _RECORD_SECONDS]
        if count > _MAX_ON_RECORD:
            old.append(settled)
        if old:
            self._serials = [(then, serial) for then, serial in self._serials if serial > old[-1]]
            with self._index.writing() as txn:
                self._index.forget_purges(txn, old[-1])


_UNTOUCHED: Final = b""


def _left(row: bytes | None, due: list[tuple[int, Purge]], target: int) -> bytes | None:
    """The row as the purges in `due`, up to `target`, leave it: _UNTOUCHED, changed, or None; of what is no row, None."""
    if row is None or not rows.proven(row):
        return None
    try:
        have = rows.fixed(row)
        if have.serial >= target:
            return _UNTOUCHED
        before = Marks(have.stale, have.renewing)
        left = judge((purge for number, purge in due if number > have.serial), rows.label(row), before)
    except CorruptRow:
        return None
    if left is None:
        return None
    return _UNTOUCHED if left == before else rows.changed(row, serial=target, stale=left.stale, renewing=left.renewing)


def _try_lock(path: Path) -> int | None:
    """A descriptor whose closing ends the lock; None: another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def _locked(path: Path, seconds: float) -> Iterator[bool]:
    """Whether this process has the lock, if need be after so many seconds."""
    until = time.monotonic() + seconds
    while (lock := _try_lock(path)) is None:
        if time.monotonic() >= until:
            yield False
            return
        time.sleep(0.01)
    try:
        yield True
    finally:
        os.close(lock)


def _nothing() -> None:
    return
