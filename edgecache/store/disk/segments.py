"""Segment files: one writer each, which holds a lock on it while it writes; anybody reads. The index says what they hold.

`worker` and `spool` write, `tier` and `reclaiming` read. A file is never changed where it was written once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lru import LRU

from edgecache.store.stored_body import OpenFile

_SUFFIX: Final = ".seg"
_OPEN_FILES: Final = 256
_WRITING: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
"""A link that somebody has put there must not lead to a file that is not ours."""


class SegmentLost(OSError):
    """Somebody else has shortened or deleted a segment that is being written."""


class SegmentWriter:
    """One segment being written."""

    def __init__(self, directory: Path, number: int, capacity: int) -> None:
        """Raises OSError. `capacity`: the bytes reserved for it."""
        self.number = number
        self.capacity = capacity
        self.size = 0
        self.charged = 0
        self._writing = threading.Lock()
        self._closing = False
        # What may be there was written by a process that died before the index heard of it.
        self._fd = os.open(path_of(directory, number), _WRITING, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    @property
    def room(self) -> int:
        return self.capacity - self.size - self.charged

    def append(self, *parts: bytes, charge: int = 0) -> int:
        """Write, and return the offset. Raises OSError; what was written in vain is then overwritten by the next.

        SegmentLost: there must be no next: it would make zeros of what was cut off, and readers have verified that once.
        `charge`: bytes that the index takes for it, which count as this segment's.
        """
        try:
            with self._writing:
                return self._append(parts, charge)
        finally:
            if self._closing:
                self.close()

    def _append(self, parts: Iterable[bytes], charge: int) -> int:
        start = position = self.size
        self._must_be_open()
        found = os.fstat(self._fd)
        if found.st_size < start or not found.st_nlink:
            raise SegmentLost(errno.ESTALE, f"segment {self.number:016x} was shortened or deleted while it was written")
        for part in parts:
            view = memoryview(part)
            while view:
                self._must_be_open()
                done = os.pwrite(self._fd, view, position)
                position += done
                view = view[done:]
        self.size = position
        self.charged += charge
        return start

    def _must_be_open(self) -> None:
        if self._closing:
            raise OSError(errno.EBADF, "the segment was closed meanwhile")

    def close(self) -> None:
        """Nothing more comes; idempotent. A thread that still writes closes it: else its descriptor may be another file's."""
        self._closing = True
        if self._writing.acquire(blocking=False):
            try:
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1
            finally:
                self._writing.release()


class SegmentReader:
    """Open segments of one thread, the least recently used closed unless somebody still reads them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: LRU[int, OpenFile] = LRU(_OPEN_FILES)

    def open(self, number: int) -> OpenFile:
        """Raises OSError: FileNotFoundError where it was reclaimed."""
        file: OpenFile | None = self._files.get(number)
        if file is None:
            file = self._files[number] = OpenFile(path_of(self._directory, number))
        return file

    def close_unlinked(self) -> None:
        """Let go of files that are no longer in the directory: their bytes are only free once nobody holds them."""
        for number in self._files.keys():  # noqa: SIM118 - an LRU is no mapping
            file = self._files.get(number)
            if file is not None and os.fstat(file.fd).st_nlink == 0:
                self._files.pop(number, None)


def path_of(directory: Path, number: int) -> str:
    return f"{directory}/{number:016x}{_SUFFIX}"


def numbers(directory: Path) -> Iterator[int]:
    """Those of all files that look like segments."""
    with os.scandir(directory) as found:
        for item in found:
            if item.name.endswith(_SUFFIX):
                with suppress(ValueError):
                    yield int(item.name.removesuffix(_SUFFIX), 16)


@contextmanager
def sealed(directory: Path, number: int) -> Iterator[int | None]:
    """The size of a segment that nobody writes, kept so meanwhile; None: somebody does. 0 where there is no file."""
    try:
        fd = os.open(path_of(directory, number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield 0
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield os.fstat(fd).st_size
    finally:
        os.close(fd)


def unlink(directory: Path, number: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path_of(directory, number))  # noqa: PTH108 - paths are strings here
