"""A long body on its way to the disk: written as it arrives, in a segment of its own, never whole in memory.

`serve.misses.spooling` writes chunks and commits the entry once the body is complete. Where the disk fails, the body goes on
without it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Final

from edgecache.store.contract import Make
from edgecache.store.disk.row import Place
from edgecache.store.disk.segments import SegmentWriter, path_of
from edgecache.store.disk.tier import DiskTier
from edgecache.store.stored_body import BLOCK_BYTES, Extent, OpenFile, StoredBody, blocks, pack_table

_FLUSH_BYTES: Final = 1 << 20
_STEP_BYTES: Final = 64 << 20
"""Room is reserved in steps where the length is not known."""
_ROW_BYTES: Final = 16 << 10


class Spool:
    """Write, then `commit` or `abort`; one task at a time."""

    def __init__(
        self, tier: DiskTier, length: int | None, displace: Callable[[str, str], object], record: int | None = None
    ) -> None:
        """`displace`: told of the URI and the variant that have a new response now. `record`: as of `DiskTier.put`."""
        self._tier = tier
        self._displace = displace
        self._step = min(_STEP_BYTES, tier.settings.capacity_bytes // 16)
        self._wanted = self._step if length is None else _with_table(length)
        self._record = tier.serial() if record is None else record
        self._writer: SegmentWriter | None = None
        self._chunks: list[bytes] = []
        self._held = 0
        self._sums: list[int] = []
        self._running = 0
        self._filled = 0
        self.length = 0
        self.broken = False
        """The disk has no room for it, or failed: nothing is kept."""

    async def write(self, chunk: bytes) -> None:
        """Never raises for the disk's sake: see `broken`."""
        if self.broken:
            return
        self._chunks.append(chunk)
        self._held += len(chunk)
        self.length += len(chunk)
        if self._held >= _FLUSH_BYTES:
            await self._flush()

    async def commit(self, make: Make, uri: str, variant: str, time: float) -> bool:
        """Store the entry that `make` makes of the complete body. False: it is not kept. `time`: its response time."""
        checksum, table = 0, b""
        await self._flush()
        if not self.broken:
            if self._filled:
                self._end_block()
            checksum, table = self._closing()
            await self._guarded(self._append, [table])
        writer = self._writer
        if self.broken or writer is None:
            await self.abort()
            return False
        try:
            file = await asyncio.to_thread(OpenFile, path_of(self._tier.settings.path, writer.number))
        except OSError:
            await self.abort()
            return False
        condemn = self._tier.condemning(uri, variant, time)
        extent = Extent(file, 0, self.length, checksum)
        entry = make(StoredBody(extent, bytearray(blocks(self.length)), condemn))
        place = Place(writer.number, 0, self.length, checksum)
        if entry is None:
            await self.abort()
            return False
        # Whoever waits may be cancelled when it is stored already, and must not take it back then; if it is not, it is reclaimed.
        self._writer = None
        try:
            kept = await self._tier.link(entry, place, self._record)
        finally:
            writer.close()
        if kept:
            self._displace(uri, variant)
        else:
            self._tier.release(writer.number)
        return kept

    async def abort(self) -> None:
        """Give back what was taken; idempotent."""
        self.broken = True
        self._chunks.clear()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._tier.release(writer.number)

    async def _flush(self) -> None:
        chunks, self._chunks, self._held = self._chunks, [], 0
        if self.broken or not (chunks or self._writer is None):
            return
        if await self._room():
            await self._guarded(self._write_all, chunks)

    async def _room(self) -> bool:
        """Reserve what the body takes so far."""
        if self._writer is None:
            self._writer = await self._tier.reserve(self._wanted)
        while self._writer is not None and _with_table(self.length) > self._wanted:
            self._wanted += self._step
            if await self._tier.reserve(self._wanted, self._writer) is None:
                await self.abort()
        self.broken = self._writer is None
        return not self.broken

    async def _guarded(self, work: Callable[[list[bytes]], None], chunks: list[bytes]) -> None:
        try:
            await asyncio.to_thread(work, chunks)
        except OSError:
            await self.abort()

    def _append(self, chunks: list[bytes]) -> None:
        if self._writer is not None:
            self._writer.append(*chunks)

    def _write_all(self, chunks: list[bytes]) -> None:
        self._append(chunks)
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                part = view[: BLOCK_BYTES - self._filled]
                self._running = zlib.crc32(part, self._running)
                self._filled += len(part)
                view = view[len(part) :]
                if self._filled == BLOCK_BYTES:
                    self._end_block()

    def _end_block(self) -> None:
        self._sums.append(self._running)
        self._running = self._filled = 0

    def _closing(self) -> tuple[int, bytes]:
        """As `stored_body.checksums`."""
        if len(self._sums) <= 1:
            return (self._sums[0] if self._sums else 0), b""
        table = pack_table(self._sums)
        return zlib.crc32(table), table


def _with_table(length: int) -> int:
    return length + 4 * blocks(length) + _ROW_BYTES
