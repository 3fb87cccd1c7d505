"""The index of the disk tier: an LMDB environment that every process of the tier maps. Its tables, and how they change together.

Each method works within a transaction of its caller; what is committed survives kill -9. No segment files here.

Tables, keys and numbers big-endian:
    objects     object key -> row               members     segment -> object keys in it (several)
    segments    segment -> reserved, live, turn  turns       turn -> segment: who is reclaimed next
    candidates  segment -> nothing: may be empty, or left by a dead writer
    used        object key -> nothing: answered since it was written
    bans        serial -> purge that is held against every row    keyed  serial -> purge by URL, which has had its rows
    meta        born: when it was made; next: of segments and turns; reserved: of all segments; and of purges
                serial: of the last; general: of the last but those by URL; swept: every row was held against them;
                floor: no longer on record
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from edgecache.policy.purging import Purge
from edgecache.store.disk.index_file import IndexFile
from edgecache.store.disk.row import URI_KEY_BYTES, Place, fixed, label, object_key, proven, uri_key

FORMAT: Final = b"edgecache-disk-1"
_NUMBER: Final = struct.Struct(">Q")
_SEGMENT: Final = struct.Struct(">QQQ")
_MAX_READERS: Final = 1024
_ROW_OVERHEAD: Final = 200
_DAMAGE: Final = (
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
_form: Final = msgspec.msgpack.Decoder(dict[str, Any])

Txn = Any
"""An lmdb.Transaction, whose stubs do not know that it gives bytes where no buffers were asked for."""


def _unpacked(form: struct.Struct, data: bytes) -> tuple[Any, ...]:
    """Raises BadEntry."""
    if len(data) != form.size:
        raise BadEntry("an index with entries of the wrong length")
    return form.unpack(data)


class BadEntry(lmdb.CorruptedError):
    """An entry of a sound index that is not ours."""


def is_damage(error: BaseException) -> bool:
    """Whether LMDB has found the index itself to be damaged: nothing in it can be relied on any more."""
    return isinstance(error, _DAMAGE) and not isinstance(error, BadEntry)


class WrongFormat(Exception):
    """The directory holds an index of another program, or of another version of this one."""


class Index:
    """An open environment. Raises lmdb.Error wherever LMDB does."""

    def __init__(self, directory: Path, map_bytes: int) -> None:
        """Raises WrongFormat, lmdb.Error, OSError."""
        self.born = 0
        """When it was made, in nanoseconds since the epoch: later than any that was in its place."""
        self.made = False
        """Whether it was not there before."""
        directory.mkdir(mode=0o700, exist_ok=True)
        # metasync off: the last transaction may be lost with the machine's power, never the index's integrity.
        self._env = lmdb.open(
            str(directory), map_size=map_bytes, max_dbs=16, max_readers=_MAX_READERS, metasync=False, readahead=False, mode=0o600
        )
        self._file = IndexFile(directory / "data.mdb", self._env)
        try:
            self._open_tables()
        except BaseException:
            self.close()
            raise

    def _open_tables(self) -> None:
        fault = self._file.fault()
        if fault is not None:
            raise WrongFormat(fault)
        table = self._env.open_db
        self._meta = table(b"meta")
        self._objects, self._used = table(b"objects"), table(b"used")
        self._members = table(b"members", dupsort=True, dupfixed=True)
        self._segments, self._turns, self._candidates = table(b"segments"), table(b"turns"), table(b"candidates")
        self._bans, self._keyed = table(b"bans"), table(b"keyed")
        with self._env.begin(write=True) as txn:
            have = txn.get(b"format", db=self._meta)
            if have is None and not txn.stat(self._meta)["entries"]:
                txn.put(b"format", FORMAT, db=self._meta)
                self.made = True
                # What is told of segments and purges of an index that was here before must not be taken for this one's.
                first = time.time_ns()
                for name in (b"born", b"next", b"serial", b"general", b"swept", b"floor"):
                    self.set_number(txn, name, first)
            elif have != FORMAT:
                raise WrongFormat(f"{self._file.path} is not an index of this version")
            self.born = self.number(txn, b"born")
            with txn.cursor(self._meta) as cursor:
                if any(len(value) != _NUMBER.size for name, value in cursor.iternext() if name != b"format"):
                    raise WrongFormat(f"{self._file.path} is damaged")
        self._file.fill_up()
        self._env.reader_check()

    def close(self) -> None:
        self._env.close()
        self._file.close()

    @property
    def identity(self) -> tuple[int, int]:
        """Of its file; another one of that name is another index."""
        return self._file.identity

    def fault(self) -> str | None:
        """As `IndexFile`."""
        return self._file.fault()

    @contextmanager
    def reading(self) -> Iterator[Txn]:
        with self._env.begin() as txn:
            yield txn

    @contextmanager
    def writing(self) -> Iterator[Txn]:
        """Committed at its end, or not at all."""
        with self._env.begin(write=True) as txn:
            yield txn
        self._file.fill_up()

    def free_dead_readers(self) -> None:
        """Processes that were killed while they read must not keep pages from being used again."""
        self._env.reader_check()

    # Numbers.

    def number(self, txn: Txn, name: bytes) -> int:
        found = txn.get(name, db=self._meta)
        return _unpacked(_NUMBER, found)[0] if found is not None else 0

    def set_number(self, txn: Txn, name: bytes, value: int) -> None:
        txn.put(name, _NUMBER.pack(value), db=self._meta)

    def _next(self, txn: Txn) -> int:
        number = self.number(txn, b"next") + 1
        self.set_number(txn, b"next", number)
        return number

    # Objects.

    def find(self, txn: Txn, uri: str, variant_of: Callable[[tuple[str, ...]], str]) -> tuple[bytes, bytes] | None:
        """Key and row of the variant that `variant_of` chooses, told which fields the URI's variants differ in.

        What is found may be no row, and is then to be dropped.
        """
        first = next(self._of(txn, uri), None)
        if first is None or not proven(first[1]):
            return first
        key = object_key(uri, variant_of(label(first[1]).vary))
        if key == first[0]:
            return first
        row = txn.get(key, db=self._objects)
        return None if row is None else (key, row)

    def row(self, txn: Txn, key: bytes) -> bytes | None:
        found: bytes | None = txn.get(key, db=self._objects)
        return found if found is not None and proven(found) else None

    def variants(self, txn: Txn, uri: str) -> Iterator[tuple[bytes, bytes]]:
        """Keys and rows of everything that is stored of `uri`."""
        return (found for found in self._of(txn, uri) if proven(found[1]))

    def _of(self, txn: Txn, uri: str) -> Iterator[tuple[bytes, bytes]]:
        prefix = uri_key(uri)
        for key, row in self.rows(txn, prefix):
            if key[:URI_KEY_BYTES] != prefix:
                return
            yield key, row

    def rows(self, txn: Txn, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All from `start` on, in the order of their keys, those too that are damaged."""
        with txn.cursor(self._objects) as cursor:
            if cursor.set_range(start) if start else cursor.first():
                yield from cursor.iternext()

    def put(self, txn: Txn, key: bytes, row: bytes) -> None:
        self.delete(txn, key)
        place = fixed(row).place
        txn.put(key, row, db=self._objects)
        txn.put(_NUMBER.pack(place.segment), key, db=self._members)
        self._add_live(txn, place, 1)

    def delete(self, txn: Txn, key: bytes) -> bool:
        row = txn.pop(key, db=self._objects)
        if row is None:
            return False
        txn.delete(key, db=self._used)
        if proven(row):
            place = fixed(row).place
            txn.delete(_NUMBER.pack(place.segment), key, db=self._members)
            self._add_live(txn, place, -1)
        return True

    def mark(self, txn: Txn, key: bytes, row: bytes) -> None:
        """Put `row`, whose body has not moved."""
        txn.put(key, row, db=self._objects)

    def count(self, txn: Txn) -> int:
        entries: int = txn.stat(self._objects)["entries"]
        return entries

    def use(self, txn: Txn, key: bytes) -> None:
        if txn.get(key, db=self._used) is None and txn.get(key, db=self._objects) is not None:
            txn.put(key, b"", db=self._used)

    def unuse(self, txn: Txn, key: bytes) -> None:
        txn.delete(key, db=self._used)

    def was_used(self, txn: Txn, key: bytes) -> bool:
        return txn.get(key, db=self._used) is not None

    # Segments.

    def reserve(self, txn: Txn, size: int, capacity: int) -> int | None:
        """The number of a new segment of `size` bytes; None: the tier would hold more than `capacity`."""
        if self.reserved_bytes(txn) + size > capacity:
            return None
        number = self._next(txn)
        name = _NUMBER.pack(number)
        txn.put(name, _SEGMENT.pack(size, 0, number), db=self._segments)
        txn.put(name, name, db=self._turns)
        # Its writer may die: whoever finds it unlocked sees whether it holds anything.
        txn.put(name, b"", db=self._candidates)
        self.set_number(txn, b"reserved", self.number(txn, b"reserved") + size)
        return number

    def resize(self, txn: Txn, number: int, size: int, capacity: int | None = None) -> bool:
        """Reserve more, or give back what was not needed. False: `capacity` does not allow it, or the segment is gone."""
        found = txn.get(_NUMBER.pack(number), db=self._segments)
        if found is None:
            return False
        have, live, turn = _unpacked(_SEGMENT, found)
        if capacity is not None and self.reserved_bytes(txn) + size - have > capacity:
            return False
        txn.put(_NUMBER.pack(number), _SEGMENT.pack(size, live, turn), db=self._segments)
        self.set_number(txn, b"reserved", max(0, self.number(txn, b"reserved") + size - have))
        return True

    def release(self, txn: Txn, number: int) -> None:
        """Forget a segment and everything in it."""
        name = _NUMBER.pack(number)
        for key in self.members(txn, number):
            txn.delete(key, db=self._objects)
            txn.delete(key, db=self._used)
        txn.delete(name, db=self._members)
        txn.delete(name, db=self._candidates)
        found = txn.pop(name, db=self._segments)
        if found is not None:
            size, _, turn = _unpacked(_SEGMENT, found)
            txn.delete(_NUMBER.pack(turn), db=self._turns)
            self.set_number(txn, b"reserved", max(0, self.number(txn, b"reserved") - size))

    def postpone(self, txn: Txn, number: int) -> None:
        """Another turn for a segment that is worth keeping as it is."""
        found = txn.get(_NUMBER.pack(number), db=self._segments)
        if found is not None:
            size, live, turn = _unpacked(_SEGMENT, found)
            new = self._next(txn)
            txn.delete(_NUMBER.pack(turn), db=self._turns)
            txn.put(_NUMBER.pack(new), _NUMBER.pack(number), db=self._turns)
            txn.put(_NUMBER.pack(number), _SEGMENT.pack(size, live, new), db=self._segments)

    def members(self, txn: Txn, number: int) -> list[bytes]:
        """Keys of the objects whose bodies lie in this segment."""
        with txn.cursor(self._members) as cursor:
            return list(cursor.iternext_dup()) if cursor.set_key(_NUMBER.pack(number)) else []

    def charged(self, txn: Txn, number: int) -> int:
        """What the rows of a segment take in the index."""
        found = (self.row(txn, key) for key in self.members(txn, number))
        return sum(charge(len(row)) for row in found if row is not None)

    def live_bytes(self, txn: Txn, number: int) -> int | None:
        """What of it is still of use; None: there is no such segment."""
        found = txn.get(_NUMBER.pack(number), db=self._segments)
        return None if found is None else _unpacked(_SEGMENT, found)[1]

    def by_turn(self, txn: Txn) -> Iterator[int]:
        """All segments, that first which has been left alone longest."""
        with txn.cursor(self._turns) as cursor:
            for _, name in cursor.iternext():
                yield _unpacked(_NUMBER, name)[0]

    def candidates(self, txn: Txn, limit: int) -> list[int]:
        with txn.cursor(self._candidates) as cursor:
            return [_unpacked(_NUMBER, name)[0] for name, _ in zip(cursor.iternext(values=False), range(limit), strict=False)]

    def no_candidate(self, txn: Txn, number: int) -> None:
        txn.delete(_NUMBER.pack(number), db=self._candidates)

    def segment_count(self, txn: Txn) -> int:
        entries: int = txn.stat(self._segments)["entries"]
        return entries

    def reserved_bytes(self, txn: Txn) -> int:
        """Of all segments; with it what their rows take in the index (`charge`)."""
        return self.number(txn, b"reserved")

    def _add_live(self, txn: Txn, place: Place, sign: int) -> None:
        name = _NUMBER.pack(place.segment)
        found = txn.get(name, db=self._segments)
        if found is None:
            return
        size, live, turn = _unpacked(_SEGMENT, found)
        # An empty body keeps its segment, too: there is a row that names it.
        live = max(0, live + sign * (place.length + 1))
        txn.put(name, _SEGMENT.pack(size, live, turn), db=self._segments)
        if live == 0:
            txn.put(name, b"", db=self._candidates)

    # Purges.

    def ban(self, txn: Txn, purge: Purge) -> int:
        """Put a purge on record; its serial."""
        serial = self.number(txn, b"serial") + 1
        self.set_number(txn, b"serial", serial)
        if not purge.urls:
            self.set_number(txn, b"general", serial)
        packed = msgspec.msgpack.encode(purge)
        txn.put(_NUMBER.pack(serial), packed, db=self._keyed if purge.urls else self._bans)
        return serial

    def bans(self, txn: Txn, after: int) -> list[tuple[int, Purge]]:
        """Those that each row is held against."""
        return list(self._purges(txn, self._bans, after))

    def all_bans(self, txn: Txn, after: int) -> list[tuple[int, Purge]]:
        """Also those by URL: what is being stored may be older than they are."""
        return sorted([*self._purges(txn, self._bans, after), *self._purges(txn, self._keyed, after)], key=lambda ban: ban[0])

    def sweep_done(self, txn: Txn, serial: int) -> None:
        """Every row has been held against the purges up to `serial`."""
        self.set_number(txn, b"swept", max(serial, self.number(txn, b"swept")))

    def forget_purges(self, txn: Txn, serial: int) -> None:
        """Take the purges up to `serial` from record: what was asked for before them can then no longer be stored."""
        for table in (self._bans, self._keyed):
            with txn.cursor(table) as cursor:
                while cursor.first() and _unpacked(_NUMBER, cursor.key())[0] <= serial:
                    cursor.delete()
        self.set_number(txn, b"floor", max(serial, self.number(txn, b"floor")))

    def purges_on_record(self, txn: Txn) -> int:
        return sum(txn.stat(table)["entries"] for table in (self._bans, self._keyed))

    def _purges(self, txn: Txn, table: Any, after: int) -> Iterator[tuple[int, Purge]]:
        with txn.cursor(table) as cursor:
            if cursor.set_range(_NUMBER.pack(after + 1)):
                for name, packed in cursor.iternext():
                    yield _unpacked(_NUMBER, name)[0], _purge(packed)


def charge(row_bytes: int) -> int:
    """What a row takes in the index, its keys in other tables included: pages of the tree are at least half full."""
    return 2 * (row_bytes + _ROW_OVERHEAD)


def _purge(packed: bytes) -> Purge:
    """A purge as it was recorded; one that cannot be read means everything: when in doubt, nothing is served."""
    try:
        form = _form.decode(packed)
        form["urls"] = tuple(form["urls"])
        return Purge(**form)
    except (msgspec.MsgspecError, TypeError, KeyError, ValueError):
        return Purge(everything=True)
