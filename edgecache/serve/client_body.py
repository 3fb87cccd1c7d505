"""A request body on its way from a client, as a `source.Body`. Framing has been checked by `guard`; flow control is aiohttp's.

`connection` makes one for each request that has a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from edgecache.serve.body_pace import BodyPace
from edgecache.serve.guard import RequestFault, Violation
from edgecache.source import Culprit, SourceError, Trailers

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLIENT_GONE = 499
"""In records only: no client is left to see it."""


class Peer(Protocol):
    """The connection that the body comes from."""

    violation: Violation | None

    def send(self, *parts: bytes | memoryview) -> None: ...


class ClientBody:
    """A request body on its way from the client; the first read says 100 Continue where that was asked for."""

    def __init__(
        self, peer: Peer, payload: StreamReader, pace: BodyPace, *, expects_continue: bool, trailers: Trailers | None = None
    ) -> None:
        """`trailers`: of a body whose framing has a place for them."""
        self.trailers = trailers
        self._peer = peer
        self._payload = payload
        self._pace = pace
        self._expects_continue = expects_continue

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._expects_continue:
            self._expects_continue = False
            self._peer.send(_CONTINUE)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._pace.left):
                chunk = await self._payload.readany()
            self._pace.waited(loop.time() - began, len(chunk))
        except TimeoutError:
            raise SourceError(Culprit.CLIENT, "body-timeout", status=408) from None
        except RequestPayloadError as error:
            violation = self._peer.violation
            status = violation.status if violation else 400
            raise SourceError(Culprit.CLIENT, violation.fault if violation else RequestFault.CHUNK, status=status) from error
        except (ConnectionError, RuntimeError) as error:
            raise SourceError(Culprit.CLIENT, "disconnected", status=CLIENT_GONE) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def close(self) -> None:
        return
