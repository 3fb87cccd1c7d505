"""Bodies in both directions of an origin's connection: aiohttp's stream behind `source.Body`, and the replayable request body.

No decisions about HTTP. `origin` makes response bodies; `serve` wraps what clients send.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp

from edgecache.source import Body, Culprit, SourceError, TrailedBody
from edgecache.upstream.http1.response import OriginResponse


class OriginBody:
    """The body of one origin's response. A read that fails, stalls or ends early raises SourceError.

    `on_end` is called once it has ended or was closed, perhaps more than once.
    """

    def __init__(self, response: OriginResponse, between_bytes_timeout: float, on_end: Callable[[], None] = lambda: None) -> None:
        self._response = response
        self._timeout = between_bytes_timeout
        self._on_end = on_end

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        content = self._response.content
        try:
            # What has come already is taken without a timer.
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                async with asyncio.timeout(self._timeout):
                    chunk = await content.readany()
        except TimeoutError:
            await self.close()
            raise SourceError(Culprit.ORIGIN, "timeout", "between two reads of the body", status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            await self.close()
            raise SourceError(Culprit.ORIGIN, "reset", f"the body ended early: {error}") from error
        if not chunk:
            self._on_end()
            raise StopAsyncIteration
        return chunk

    async def close(self) -> None:
        """Drop the connection when bytes are still to come; a complete response has given it back already."""
        self._response.close()
        self._on_end()


class EmptyBody:
    """No bytes: a response to HEAD, a 204, a 304."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def close(self) -> None:
        return


class BytesBody:
    """A body that is there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._content:
            raise StopAsyncIteration
        content, self._content = self._content, b""
        return content

    async def close(self) -> None:
        self._content = b""


class ReplayableBody:
    """A request body that another source may be given again, as long as it was short or nobody has read it."""

    def __init__(self, body: Body, limit_bytes: int) -> None:
        self.trailers = body.trailers if isinstance(body, TrailedBody) else None
        self._source = body
        self._iterator = aiter(body)
        self._limit = limit_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._position = 0
        self._ended = False
        self._lost = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._position < len(self._kept):
            self._position += 1
            return self._kept[self._position - 1]
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._iterator)
        except StopAsyncIteration:
            self._ended = True
            raise
        self._keep(chunk)
        return chunk

    def rewind(self) -> bool:
        """Start again from the first byte. False: it is no longer known."""
        if self._lost:
            return False
        self._position = 0
        return True

    async def close(self) -> None:
        await self._source.close()

    def _keep(self, chunk: bytes) -> None:
        self._kept_bytes += len(chunk)
        if self._kept_bytes > self._limit:
            self._lost = True
            self._kept.clear()
            self._position = 0
        elif not self._lost:
            self._kept.append(chunk)
            self._position += 1
