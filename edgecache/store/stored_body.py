"""A body that lies in a file: read or sent from there, in blocks whose checksums are verified once. Reads block; no event loop.

The disk tier makes them for entries; `serve` sends them. Whoever holds one holds its file open: nobody can take the bytes away.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 256 << 10


class CorruptBody(Exception):
    """The bytes in the file are not those that were stored, or are not there."""


class OpenFile:
    """A file open for reading, closed when nobody holds this any more."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def blocks(length: int) -> int:
    """Blocks of a body of `length` bytes."""
    return -(-length // BLOCK_BYTES)


def checksums(body: bytes | memoryview) -> tuple[int, bytes]:
    """The checksum of a whole body, and what is written behind it: where it has several blocks, a table of theirs.

    The checksum is then that of the table.
    """
    if len(body) <= BLOCK_BYTES:
        return zlib.crc32(body), b""
    view = memoryview(body)
    table = pack_table([zlib.crc32(view[at : at + BLOCK_BYTES]) for at in range(0, len(body), BLOCK_BYTES)])
    return zlib.crc32(table), table


def pack_table(sums: list[int]) -> bytes:
    return struct.pack(f"<{len(sums)}I", *sums)


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes of `file` from `offset`, followed by their table where they have several blocks."""

    file: OpenFile
    offset: int
    length: int
    checksum: int
    """As `checksums` makes it."""


class StoredBody:
    """The body in an extent."""

    __slots__ = ("_sums", "_verified", "condemn", "extent")

    def __init__(self, extent: Extent, verified: bytearray, condemn: Callable[[], None]) -> None:
        """`verified`: a byte a block, set once it was, shared by all who read this body. `condemn`: drops what is corrupt."""
        self.extent = extent
        self.condemn = condemn
        self._verified = verified
        self._sums: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.extent.length

    def verify(self, first: int, count: int) -> None:
        """Compare every block with any of these bytes to its checksum, unless that was done before. Raises CorruptBody."""
        for index in range(first // BLOCK_BYTES, blocks(first + count)):
            if not self._verified[index]:
                self._block(index)

    def verified(self, first: int, count: int) -> bool:
        """Whether `verify` has nothing left to do there."""
        begin, end = first // BLOCK_BYTES, blocks(first + count)
        return self._verified.count(1, begin, end) == end - begin

    def read(self, first: int, count: int) -> bytes:
        """These bytes. Raises CorruptBody."""
        pieces: list[bytes] = []
        while count > 0:
            index, skip = divmod(first, BLOCK_BYTES)
            size = min(count, BLOCK_BYTES - skip)
            pieces.append(
                self._pread(self.extent.offset + first, size) if self._verified[index] else self._block(index)[skip : skip + size]
            )
            first += size
            count -= size
        return b"".join(pieces)

    def _block(self, index: int) -> bytes:
        start = index * BLOCK_BYTES
        block = self._pread(self.extent.offset + start, min(BLOCK_BYTES, self.extent.length - start))
        if zlib.crc32(block) != self._sum(index):
            raise CorruptBody(f"block {index}")
        self._verified[index] = 1
        return block

    def _sum(self, index: int) -> int:
        count = blocks(self.extent.length)
        if count <= 1:
            return self.extent.checksum
        if not self._sums:
            table = self._pread(self.extent.offset + self.extent.length, 4 * count)
            if zlib.crc32(table) != self.extent.checksum:
                raise CorruptBody("table")
            self._sums = struct.unpack(f"<{count}I", table)
        return self._sums[index]

    def _pread(self, offset: int, count: int) -> bytes:
        try:
            data = os.pread(self.extent.file.fd, count, offset)
            while len(data) < count:
                more = os.pread(self.extent.file.fd, count - len(data), offset + len(data))
                if not more:
                    raise CorruptBody("the file ends early")
                data += more
        except OSError as error:
            raise CorruptBody(str(error)) from error
        return data
