"""Answers that break HTTP on purpose, written to the transport past aiohttp's writer. `server` returns them like any response."""

from __future__ import annotations

import asyncio
import socket
import struct
from abc import abstractmethod
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from origin_sim.faults import Breakage

STALL_SECONDS: Final = 3600.0
ENDLESS_LINES: Final = 1_000_000

_OK: Final = b"HTTP/1.1 200 OK\r\n"
_BROKEN: Final[dict[Breakage, bytes]] = {
    Breakage.GARBAGE: b"\x16\x03\x01 this is no status line\r\n\r\n",
    Breakage.BARE_LF: b"HTTP/1.1 200 OK\nContent-Length: 2\nCache-Control: max-age=60\n\nok",
    Breakage.OBS_FOLD: _OK + b"Content-Length: 2\r\nX-Folded: one\r\n two\r\nCache-Control: max-age=60\r\n\r\nok",
    Breakage.LENGTH_AND_CHUNKED: _OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    Breakage.TWO_LENGTHS: _OK + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\nok",
    Breakage.BAD_CHUNK: _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\nmore\r\n0\r\n\r\n",
    Breakage.HUGE_HEAD: _OK + b"X-Huge: " + b"a" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\nok",
    Breakage.ENDLESS_HEAD: _OK,
    Breakage.CLOSE_IN_HEAD: _OK + b"Content-Length: 2\r\nX-Cut",
    Breakage.NO_ANSWER: b"",
}


class _Raw(web.StreamResponse):
    """A response that writes its own bytes and ends the connection."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self.force_close()
        writer = _Writer(request)
        try:
            await self._write(writer)
        finally:
            writer.close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        del data

    @abstractmethod
    async def _write(self, writer: _Writer) -> None:
        """All that is sent."""


class Broken(_Raw):
    """The fixed bytes of one breakage."""

    def __init__(self, breakage: Breakage) -> None:
        super().__init__()
        self._breakage = breakage

    async def _write(self, writer: _Writer) -> None:
        await writer.write(_BROKEN[self._breakage])
        if self._breakage is Breakage.ENDLESS_HEAD:
            for number in range(ENDLESS_LINES):
                await writer.write(b"X-Line-%d: more\r\n" % number)


class Lying(_Raw):
    """A head whose Content-Length is not the body's, then the body, then the end of the connection."""

    def __init__(self, status: int, fields: list[tuple[str, str]], pieces: AsyncIterator[bytes]) -> None:
        super().__init__(status=status)
        self._fields, self._pieces = fields, pieces

    async def _write(self, writer: _Writer) -> None:
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in self._fields)]
        await writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        async for piece in self._pieces:
            await writer.write(piece)


class _Writer:
    """Bytes to a connection past aiohttp, with back-pressure; stops quietly when the reader has left."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._protocol, self._transport = request.protocol, request.transport

    async def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the reader has left")
        self._transport.write(data)
        async with asyncio.timeout(STALL_SECONDS):
            await self._protocol._drain_helper()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def reset(request: web.BaseRequest) -> None:
    """End the connection with RST instead of FIN (socket(7), SO_LINGER with a time of 0)."""
    if (transport := request.transport) is None:
        return
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
