"""A body on its way that is too long for memory: written to the store as it passes, and stored when it is complete.

`long_bodies` makes it, `fetching` puts it between a source and a flight. What the client gets does not depend on whether the
store keeps up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from edgecache.source import Body
from edgecache.store import Spool


class SpoolingBody:
    """`body` unchanged. Of an unknown length, it is only spooled from `above` bytes on."""

    def __init__(
        self,
        body: Body,
        *,
        length: int | None,
        above: int,
        limit_bytes: int,
        spool: Callable[[int | None], Spool | None],
        keep: Callable[[Spool], Awaitable[object]],
        closed: Callable[[], None],
    ) -> None:
        """`keep` is awaited once the body is complete, before its end is told. `closed`: a spool that was opened is done with."""
        self._body = body
        self._iterator = aiter(body)
        self._length = length
        self.above = above
        self._limit = limit_bytes
        self._open = spool
        self._keep = keep
        self._closed = closed
        self._early: list[bytes] = []
        self._seen = 0
        self._spool: Spool | None = spool(length) if length is not None and above < length <= limit_bytes else None
        self._given_up = False

    def kept(self) -> bool:
        """Whether what has come so far is being stored."""
        return self._spool is not None and not self._spool.broken

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._iterator)
        except StopAsyncIteration:
            if self._spool is not None and self.kept():
                await self._keep(self._spool)
            raise
        self._seen += len(chunk)
        await self._save(chunk)
        return chunk

    async def close(self) -> None:
        if self._spool is not None:
            spool, self._spool = self._spool, None
            self._closed()
            await spool.abort()
        await self._body.close()

    async def _save(self, chunk: bytes) -> None:
        if self._given_up:
            return
        if self._seen > self._limit:
            self._given_up = True
            self._early.clear()
            if self._spool is not None:
                await self._spool.abort()
            return
        if self._spool is not None:
            await self._spool.write(chunk)
            return
        if self._length is not None:
            return
        self._early.append(chunk)
        if self._seen > self.above:
            early, self._early = self._early, []
            self._spool = self._open(None)
            self._given_up = self._spool is None
            if self._spool is not None:
                for piece in early:
                    await self._spool.write(piece)
