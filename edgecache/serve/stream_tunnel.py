"""A tunnel between an origin's connection and one stream of a client's connection of HTTP/2 (RFC 8441 section 5).

`upgrading` joins them; where the client has a whole connection, it does so without this. What is said is nobody's business here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, cast

from edgecache.source import Culprit, SourceError
from edgecache.upstream.tunnel import Tunnel

_HELD_BYTES: Final = 64 << 10
"""Read ahead from the origin; above that its connection is not read."""


def say_end(transport: asyncio.Transport) -> bool:
    """End one direction. False: the peer has reset the connection, which the transport had not noticed; it is let go."""
    try:
        transport.write_eof()
    except OSError:
        transport.abort()
        return False
    return True


class _Losing(Protocol):
    def connection_lost(self, exc: Exception | None) -> None: ...


class _OriginEnd(asyncio.Protocol):
    """The origin's connection as something to read and to write, each at the other side's pace."""

    def __init__(self, tunnel: Tunnel) -> None:
        """The protocol that was there before hears of the connection's end."""
        self._transport = transport = tunnel.transport
        self._before = cast(_Losing, tunnel.protocol)
        self._loop = asyncio.get_running_loop()
        self._held = bytearray(tunnel.first)
        self._ended = False
        self.failure: SourceError | None = None
        """It has not ended, but broken off."""
        self._room = asyncio.Event()
        self._room.set()
        self._more = asyncio.Event()
        transport.set_protocol(self)
        with suppress(RuntimeError):  # uvloop's word for: it was not paused
            transport.resume_reading()

    async def read(self) -> bytes:
        """What has come; nothing: no more does."""
        while not self._held and not self._ended:
            self._more.clear()
            await self._more.wait()
        data = bytes(self._held)
        self._held.clear()
        if not self._ended and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Raises ConnectionResetError."""
        await self._room.wait()
        if self._transport.is_closing():
            raise ConnectionResetError("the origin has gone")
        self._transport.write(data)

    def write_eof(self) -> None:
        """TLS has no end of its own for each direction."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            if not say_end(self._transport):
                self._break_off("reset by the origin")
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._held += data
        self._more.set()
        if len(self._held) > _HELD_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        self._more.set()
        return self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._break_off(str(exc))
        self._ended = True
        self._more.set()
        self._room.set()
        self._loop.call_soon(self._before.connection_lost, exc)

    def _break_off(self, why: str) -> None:
        if not self._ended:
            self.failure = SourceError(Culprit.ORIGIN, "reset", f"the tunnel broke off: {why}")


class _Passed:
    """How much went either way, and when something last did, on the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.up = self.down = 0
        self.last = loop.time()
        self.unsent = False
        """What has come from the origin is not all with the client."""

    def moved(self) -> None:
        self.last = self._loop.time()


async def join_stream(
    tunnel: Tunnel, client: AsyncIterator[bytes], send: Callable[[bytes], Awaitable[None]], idle_seconds: float
) -> tuple[int, int, SourceError | None]:
    """Pass bytes both ways until the origin has ended or gone, or nothing moves.

    How many went to the client, how many came from it, and what has failed: then the client has not got all that was said.

    `tunnel` stays to be closed. Raises ConnectionError where the client has gone.
    """
    loop = asyncio.get_running_loop()
    origin, passed = _OriginEnd(tunnel), _Passed(loop)
    up, down = loop.create_task(_up(client, origin, passed)), loop.create_task(_down(origin, send, passed))
    try:
        while (left := passed.last + idle_seconds - loop.time()) > 0:
            done, _ = await asyncio.wait((down,), timeout=left)
            if done:
                down.result()
                break
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
    if passed.unsent and origin.failure is None:
        origin.failure = SourceError(Culprit.CLIENT, "timeout", "the client takes nothing of what waits for it")
    return passed.down, passed.up, origin.failure


async def _up(client: AsyncIterator[bytes], origin: _OriginEnd, passed: _Passed) -> None:
    try:
        async for data in client:
            await origin.write(data)
            passed.up += len(data)
            passed.moved()
    except (ConnectionError, SourceError):
        # Whichever has gone: then the other direction ends too.
        pass
    origin.write_eof()


async def _down(origin: _OriginEnd, send: Callable[[bytes], Awaitable[None]], passed: _Passed) -> None:
    while data := await origin.read():
        passed.unsent = True
        await send(data)
        passed.unsent = False
        passed.down += len(data)
        passed.moved()
