"""A request body that comes in DATA frames, as a `source.Body`. What it buffers is bounded by the windows that the client has.

`connection` feeds it; windows open again as the source reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from edgecache.policy.fields import freeze
from edgecache.policy.message import Response
from edgecache.policy.trailing import MAX_TRAILERS
from edgecache.serve.body_pace import BodyPace
from edgecache.serve.client_body import CLIENT_GONE
from edgecache.serve.guard import STATUS, Head, RequestFault
from edgecache.source import Culprit, SourceError

_CONTINUE = Response(100, "Continue", freeze())


class StreamBody:
    """The body of one stream's request; the first read says 100 Continue where that was asked for."""

    def __init__(
        self,
        head: Head,
        *,
        hint: Callable[[Response], None],
        consumed: Callable[[int], None],
        pace: BodyPace | None,
        max_bytes: int,
    ) -> None:
        """`consumed` hears of flow-controlled bytes (RFC 9113, 6.9.1) buffered no longer. Without `pace` there is no hurry."""
        self._hint = hint
        self._consumed = consumed
        self._pace = pace
        self._left = max_bytes
        self._due = head.content_length if "Content-Length" in head.request.headers else None
        self._expects_continue = head.expect_continue
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._ended = False
        self._trailers: tuple[tuple[str, str], ...] = ()
        self._closed = False
        self._failure: SourceError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes, size: int) -> bool:
        """A DATA frame's content, and what it takes of the windows. False: it is more than Content-Length says."""
        if self._due is not None:
            self._due -= len(data)
            if self._due < 0:
                self._consumed(size)
                return False
        self._left -= len(data)
        if self._left < 0:
            self.fail(SourceError(Culprit.CLIENT, RequestFault.BODY_TOO_LARGE, status=STATUS[RequestFault.BODY_TOO_LARGE]))
        if self._closed or self._failure is not None or not data:
            self._consumed(size)
        else:
            self._chunks.append((data, size))
            self._wake()
        return True

    def trailers(self) -> tuple[tuple[str, str], ...]:
        """The fields after the body, once it has ended."""
        return self._trailers

    def trail(self, fields: Sequence[tuple[str, str]]) -> None:
        """What follows the body, which ends now. Too many are not kept."""
        self._trailers = tuple(fields) if len(fields) <= MAX_TRAILERS else ()

    def end(self) -> bool:
        """The client has sent all. False: that is less than Content-Length says."""
        self._ended = True
        self._wake()
        return not self._due

    def fail(self, failure: SourceError) -> None:
        """Nothing more comes: whoever reads is told, after what has come."""
        if self._failure is None and not self._ended:
            self._failure = failure
        self._wake()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._expects_continue:
            self._expects_continue = False
            try:
                self._hint(_CONTINUE)
            except ConnectionError as error:
                raise SourceError(Culprit.CLIENT, "disconnected", status=CLIENT_GONE) from error
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._ended or self._closed:
                raise StopAsyncIteration
            await self._more()
        data, size = self._chunks.popleft()
        self._consumed(size)
        return data

    async def close(self) -> None:
        """Drop what is buffered, and what still comes."""
        self.discard()

    def discard(self) -> None:
        """As `close`, for those who cannot wait."""
        self._closed = True
        while self._chunks:
            self._consumed(self._chunks.popleft()[1])
        self._wake()

    async def _more(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        began = loop.time()
        try:
            async with asyncio.timeout(None if self._pace is None else self._pace.left):
                await self._waiter
            if self._pace is not None:
                self._pace.waited(loop.time() - began, sum(len(data) for data, _ in self._chunks))
        except TimeoutError:
            raise SourceError(Culprit.CLIENT, "body-timeout", status=408) from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
