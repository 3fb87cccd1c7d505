"""What the pipeline answers: a head, a body, and what the record of it will say. Values and body adapters; no decisions.

The pipeline makes them, the connection writes them, guests' sub-requests read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from edgecache.policy.message import Response
from edgecache.source import Body, Culprit, SourceError, Trailers
from edgecache.upstream.flights.shared_body import SharedReader
from edgecache.upstream.http1.body import BytesBody


@dataclass(slots=True)
class Meter:
    """What answering one request has cost its generator so far; complete once the body has ended."""

    cpu_ns: int = 0


class Opened(Protocol):
    """A tunnel that an origin has agreed to (RFC 9110 section 7.8). Whoever holds it joins or closes it."""

    fields: tuple[tuple[str, str], ...]
    """What tells the client of it, in its 101."""

    def close(self) -> None:
        """Idempotent."""

    async def join(
        self, client: asyncio.Transport, before: asyncio.BaseProtocol, first: bytes, idle_seconds: float
    ) -> tuple[int, int]:
        """Pass bytes both ways until it is over; how many went to the client, and came from it.

        `before`: the protocol of `client`, which hears of its end; `first`: what has come from it already.
        """
        ...

    async def join_stream(
        self, client: AsyncIterator[bytes], send: Callable[[bytes], Awaitable[None]], idle_seconds: float
    ) -> tuple[int, int, SourceError | None]:
        """As `join`, where the client has one stream of a connection: what comes from it, and what sends to it.

        With what ended it other than the origin's orderly end.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response ready to be framed. Whoever holds it reads the body to its end or calls `close`."""

    response: Response
    body: bytes | Body
    length: int | None = None
    """Of the body; for HEAD and 304 of the body that is not sent. None: unknown until its end."""
    extra: tuple[tuple[str, str], ...] = ()
    """Fields of this answer alone, after those of `response`: Age, Cache-Status, X-Request-Id."""
    head: bytes = b""
    """`response` already encoded with its Content-Length, where it was stored so."""
    cache: str = "none"
    """A word of `observe.record.CACHE_WORDS`."""
    reason: str = ""
    site: str = ""
    generator: str | None = None
    collapsed: bool = False
    template: bool = False
    """To be assembled before it is sent (`serve.assembling`): `response` and `body` are as the source sent them."""
    meter: Meter = field(default_factory=Meter)
    trailers: Trailers | None = None
    """Of the body, for clients that want them."""
    tunnel: Opened | None = None
    """What the connection is for after this answer, a 101."""

    async def close(self) -> None:
        """Stop what produces the body; idempotent."""
        if self.tunnel is not None:
            self.tunnel.close()
        if not isinstance(self.body, bytes):
            await self.body.close()

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. SourceError when it ends early or is longer than `limit_bytes`."""
        if isinstance(self.body, bytes):
            if len(self.body) > limit_bytes:
                raise _too_large(limit_bytes)
            return self.body
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in self.body:
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                chunks.append(chunk)
        finally:
            await self.close()
        return b"".join(chunks)


def _too_large(limit_bytes: int) -> SourceError:
    return SourceError(Culprit.ORIGIN, "too-large", f"more than {limit_bytes} bytes")


class HeldBody:
    """A body whose end releases something: a seat on a flight."""

    def __init__(self, body: Body, release: Callable[[], Awaitable[None]]) -> None:
        self._body = body
        self._iterator = aiter(body)
        self._release = release

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._iterator)

    def at_hand(self) -> bytes:
        """The beginning of it, if that can be known without waiting."""
        return self._body.at_hand() if isinstance(self._body, SharedReader) else b""

    async def close(self) -> None:
        await self._body.close()
        await self._release()


class SliceBody:
    """The bytes from `first` to `last`, inclusive, of a body on its way."""

    def __init__(self, body: Body, first: int, last: int) -> None:
        self._body = body
        self._iterator = aiter(body)
        self._skip = first
        self._left = last - first + 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._left > 0:
            chunk = await anext(self._iterator)
            if self._skip >= len(chunk):
                self._skip -= len(chunk)
                continue
            piece = chunk[self._skip : self._skip + self._left]
            self._skip = 0
            self._left -= len(piece)
            return piece
        raise StopAsyncIteration

    async def close(self) -> None:
        await self._body.close()


def instead(content: bytes, unused: Body) -> Body:
    """`content` sent in the place of a body that is only to be closed."""
    return HeldBody(BytesBody(content), unused.close)
