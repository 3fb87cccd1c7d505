"""Bodies that lie in files, as answers send them: spans of a stored body, and bytes between them where there are several.

`shape` makes them. `writer` hands spans to the kernel where the connection allows it; all others iterate. Reads go to threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgecache.source import Culprit, SourceError
from edgecache.store import CorruptBody, StoredBody

_READ_BYTES: Final = 256 << 10
_EXAMINED_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class FileSpan:
    """`count` bytes of `body` from `first`."""

    body: StoredBody
    first: int
    count: int


class FileBody:
    """Pieces in their order; a `source.Body`."""

    def __init__(self, pieces: Sequence[bytes | FileSpan]) -> None:
        self.pieces = tuple(pieces)
        self._blocks = self._read()

    @property
    def length(self) -> int:
        return sum(piece.count if isinstance(piece, FileSpan) else len(piece) for piece in self.pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._blocks)

    async def close(self) -> None:
        await self._blocks.aclose()
        self.pieces = ()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            first, end = piece.first, piece.first + piece.count
            while first < end:
                size = min(_READ_BYTES - first % _READ_BYTES, end - first)
                try:
                    block = await asyncio.to_thread(piece.body.read, first, size)
                except CorruptBody as error:
                    raise corrupt(piece.body, error) from error
                yield block
                first += size


def whole(body: StoredBody) -> FileBody:
    return FileBody((FileSpan(body, 0, len(body)),))


async def sound(body: StoredBody) -> bool:
    """Whether the beginning of the body, all of it up to 8 MiB, is what was stored. False: it has been dropped."""
    span = FileSpan(body, 0, min(len(body), _EXAMINED_BYTES))
    try:
        await verify(span)
    except SourceError:
        return False
    return True


async def verify(span: FileSpan) -> None:
    """Compare all of `span` with its checksums unless that was done before. Raises SourceError."""
    if not span.body.verified(span.first, span.count):
        try:
            await asyncio.to_thread(span.body.verify, span.first, span.count)
        except CorruptBody as error:
            raise corrupt(span.body, error) from error


def corrupt(body: StoredBody, error: CorruptBody) -> SourceError:
    """Drops what is stored; the answer cannot go on."""
    body.condemn()
    return SourceError(Culprit.EDGE, "corrupt", f"a stored body: {error}", status=500)
