"""One body on its way to many readers, each from its first byte at its own pace. No knowledge of HTTP or of who produces.

While everything fits into `limit_bytes` all of it is kept: readers may join, slow ones stall nobody. Beyond that it is a window:
nobody joins, what all have read is dropped, and the producer waits for the slowest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from edgecache.source import Culprit, SourceError


@dataclass(slots=True)
class BufferBudget:
    """Bytes that all shared bodies together may keep."""

    capacity_bytes: int
    used_bytes: int = 0

    def take(self, size: int) -> bool:
        if self.used_bytes + size > self.capacity_bytes:
            return False
        self.used_bytes += size
        return True

    def give(self, size: int) -> None:
        self.used_bytes -= size


class SharedBody:
    """Producer's side: `feed` chunks, then `finish` or `fail`. Readers come from `reader()`."""

    def __init__(self, *, limit_bytes: int, window_bytes: int, budget: BufferBudget) -> None:
        self._limit = limit_bytes
        self._window = window_bytes
        self._budget = budget
        self._chunks: deque[bytes] = deque()
        self._dropped = 0
        self._held = 0
        self._taken = 0
        self.received = 0
        self.whole = True
        """Everything received is still kept."""
        self._done = False
        self._error: BaseException | None = None
        self._readers: set[SharedReader] = set()
        self._room: asyncio.Future[None] | None = None

    async def feed(self, chunk: bytes) -> None:
        """Give one chunk to all readers; waits for the slowest one only when the body is not kept whole."""
        size = len(chunk)
        self.received += size
        if self.whole and (self.received > self._limit or not self._budget.take(size)):
            self._stop_keeping()
        elif self.whole:
            self._taken += size
        self._chunks.append(chunk)
        self._held += size
        self._wake()
        if not self.whole:
            await self._wait_for_room()

    def finish(self) -> None:
        self._done = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done = True
        self._wake()

    def content(self) -> bytes | None:
        """The body, when all of it has arrived and been kept."""
        return b"".join(self._chunks) if self.whole and self._error is None else None

    def beginning(self, limit_bytes: int) -> bytes | None:
        """What has arrived so far, when all of it has been kept and is no more than `limit_bytes`."""
        return b"".join(self._chunks) if self.whole and 0 < self.received <= limit_bytes else None

    def reader(self) -> SharedReader:
        """A reader from the first byte. Only while the body is kept whole."""
        if not self.whole:
            raise RuntimeError("the beginning of this body is gone")
        reader = SharedReader(self)
        self._readers.add(reader)
        return reader

    def release(self) -> None:
        """The producer's last call: give the budget back."""
        self._budget.give(self._taken)
        self._taken = 0

    def _stop_keeping(self) -> None:
        self.whole = False
        self.release()
        self._trim()

    def _trim(self) -> None:
        slowest = min((reader.position for reader in self._readers), default=self._dropped + len(self._chunks))
        while self._dropped < slowest and self._chunks:
            self._held -= len(self._chunks.popleft())
            self._dropped += 1

    async def _wait_for_room(self) -> None:
        self._trim()
        while self._held > self._window:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
            self._trim()

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def _advanced(self) -> None:
        if not self.whole and self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _left(self, reader: SharedReader) -> None:
        self._readers.discard(reader)
        self._advanced()

    def _chunk(self, position: int) -> bytes | None:
        index = position - self._dropped
        return self._chunks[index] if index < len(self._chunks) else None


class SharedReader:
    """One reader's place in a shared body; a `source.Body`."""

    def __init__(self, body: SharedBody) -> None:
        self._body = body
        self.position = 0
        self._wakeup: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body = self._body
        while (chunk := body._chunk(self.position)) is None:
            if body._error is not None:
                raise again(body._error)
            if body._done:
                raise StopAsyncIteration
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup
        self.position += 1
        body._advanced()
        return chunk

    def at_hand(self) -> bytes:
        """The next of what has arrived already, if anything has."""
        chunk = self._body._chunk(self.position)
        if chunk is None:
            return b""
        self.position += 1
        self._body._advanced()
        return chunk

    async def close(self) -> None:
        self._body._left(self)


def again(error: BaseException) -> SourceError:
    """A fresh exception for each reader: one object raised in several tasks would collect their tracebacks."""
    if isinstance(error, SourceError):
        return SourceError(
            error.culprit,
            error.reason,
            error.detail,
            status=error.status,
            retry=error.retry,
            retry_after=error.retry_after,
        )
    return SourceError(Culprit.EDGE, "aborted")
