"""The end of a request's chunked body, with the trailer section that aiohttp's writer does not write (RFC 9112 section 7.1.2).

`origin` puts it before aiohttp's writer where a request has promised trailers. What may follow is `policy.trailing`'s to say.
"""

from __future__ import annotations

from typing import Any

from aiohttp import ClientConnectionResetError
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from multidict import CIMultiDict

from edgecache.policy.fields import encode_lines
from edgecache.source import Trailers


class TrailedWriter(AbstractStreamWriter):
    """All but the end is `writer`'s."""

    def __init__(self, writer: StreamWriter, trailers: Trailers) -> None:
        """`trailers` is asked when the body has ended."""
        self._writer = writer
        self._trailers = trailers
        self._ended = False

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        await self._writer.write(chunk)

    async def write_eof(self, chunk: bytes = b"") -> None:
        fields = self._trailers()
        if not fields or self._ended:
            await self._writer.write_eof(chunk)
            return
        self._ended = True
        section = encode_lines([f"{name}: {value}" for name, value in fields])
        if chunk:
            await self._writer.write(chunk)
        self._writer.send_headers()
        transport = self._writer.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("Cannot write to closing transport")
        transport.write(b"0\r\n" + section + b"\r\n")
        await self._writer.drain()

    async def drain(self) -> None:
        await self._writer.drain()

    def send_headers(self) -> None:
        self._writer.send_headers()

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        await self._writer.write_headers(status_line, headers)

    def enable_chunking(self) -> None:
        self._writer.enable_chunking()

    def enable_compression(self, *args: Any, **kwargs: Any) -> None:
        self._writer.enable_compression(*args, **kwargs)
