"""What leaves a connection: bytes in order, files by the kernel, back-pressure, an end that nobody takes for completeness.

`connection` is made of it, `writer` and `exchange` write through it. Nothing here knows what is sent.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edgecache.serve.body_pace import BodyPace
from edgecache.serve.http1.sendfile import send_file

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close send RST: a client must not take an aborted body for a complete one."""


class Sending(RequestHandler):
    """A part of a connection; implements `writer.Wire`."""

    __slots__ = ("_last_look", "_last_sent", "_taking", "_write_timeout", "_written")

    def __init__(self, server: web.Server, *, write_timeout: float, write_rate: int, **options: Any) -> None:
        """`write_timeout`: seconds for which a client may take nothing; `write_rate`: bytes a second. `options`: aiohttp's."""
        super().__init__(server, **options)
        self._write_timeout = write_timeout
        self._taking = BodyPace(write_timeout, write_rate)
        self._written = 0
        """Bytes given to the transport."""
        self._last_sent = 0
        self._last_look: float | None = None

    def send(self, *parts: bytes | memoryview) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._written += len(data)
        transport.write(data)

    async def room(self) -> None:
        if self._paused:
            await self._drain_helper()

    @property
    def takes_files(self) -> bool:
        transport = self.transport
        return transport is not None and transport.get_extra_info("sslcontext") is None

    async def send_file(self, file: int, offset: int, count: int) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        # What is queued comes first: a limit of 0 makes the transport say when it has written all.
        transport.set_write_buffer_limits(high=0)
        try:
            while transport.get_write_buffer_size() > 0 and not transport.is_closing():
                await self._drain_helper() if self._paused else await asyncio.sleep(0)
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits()
        sock = transport.get_extra_info("socket")
        if sock is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        try:
            await send_file(sock.fileno(), file, offset, count, stall_seconds=self._write_timeout)
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client takes nothing") from None

    def reset(self) -> None:
        """Close so that the client cannot take what it has for all there is."""
        transport = self.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def check_progress(self, now: float) -> None:
        """Abort where the client has taken nothing, or too little, of what waits for too long."""
        transport = self.transport
        if transport is None:
            return
        waiting = transport.get_write_buffer_size()
        gone_out = self._written - waiting
        if waiting == 0 or self._last_look is None:
            self._taking.rest()
        elif self._taking.left:
            self._taking.waited(now - self._last_look, gone_out - self._last_sent)
        else:
            transport.abort()
        self._last_sent, self._last_look = gone_out, now
