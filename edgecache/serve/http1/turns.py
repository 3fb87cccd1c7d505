"""The requests of one connection of HTTP/1.1, each in its turn, in the connection's own task. A subclass of aiohttp's
RequestHandler whose loop makes neither a task nor a request nor a writer for each of them.

What a turn is says `connection`. Parser, queue, flow control, keep-alive timer and shutdown stay aiohttp's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import PayloadAccessError, RequestHandler


class _InProgress:
    """All that aiohttp asks of the request in progress: that the reader of its body is told when the connection ends."""

    __slots__ = ("_payload",)

    def __init__(self, payload: StreamReader) -> None:
        self._payload = payload

    def _cancel(self, error: BaseException) -> None:
        self._payload.set_exception(error)


class Turns(RequestHandler, ABC):
    """See the module."""

    __slots__ = ()

    @abstractmethod
    async def take_turn(self, payload: StreamReader) -> bool:
        """Answer the next request, whose body is `payload`. False: it was the last. Raises ConnectionError: client gone."""

    def waits(self) -> None:
        """Called when there is nothing to be answered, and `_waiter` is waited for."""

    async def start(self) -> None:
        """In place of aiohttp's: runs while the connection does."""
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                self.waits()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            payload = self._messages.popleft()[1]
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if not await self._turn(payload) or self._close or self._force_close:
                break
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _turn(self, payload: StreamReader) -> bool:
        self._request_in_progress = True
        self._current_request = _InProgress(payload)  # type: ignore[assignment]
        try:
            self._keepalive = await self.take_turn(payload)
            if payload is not EMPTY_PAYLOAD:
                await self._drop(payload)
        except ConnectionError:
            return False
        except Exception as error:
            self.log_exception("Unhandled exception", exc_info=error)
            self.force_close()
            return False
        except BaseException:
            self.force_close()
            raise
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        return self._keepalive

    async def _drop(self, payload: StreamReader) -> None:
        """Read what still comes of a body that nobody wants, for a while, and let nobody read it any more."""
        if self._keepalive and not (payload.is_eof() or self._force_close):
            try:
                async with asyncio.timeout(self._lingering_time):
                    while not payload.is_eof():
                        await payload.readany()
            except TimeoutError:
                self.close()
        payload.set_exception(PayloadAccessError())
