"""A response body coded on its way: no decisions, `policy.coding` makes them.

`asking` wraps what sources send in it, `assembling` its pages. Large pieces are coded in a thread: the libraries release the GIL
meanwhile.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final, Protocol, assert_never

import brotli
import zstandard

from edgecache.policy.coding import Coding
from edgecache.source import Body

_INLINE_BYTES: Final = 8 << 10
"""Up to here a piece is coded in under a millisecond, which is what a thread's turn costs on a busy machine."""
_PIECE_BYTES: Final = 256 << 10
"""Larger chunks, such as a generator's whole page, are coded in pieces, so that back-pressure counts."""
_GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_BR_QUALITY: Final = 5
_BR_WINDOW_BITS: Final = 16
"""A stream of the library's own 22 takes up to 8 MiB for as long as its client reads, of this one below 1; pages up to 100 KiB
come out the same, large ones 5 % longer."""
_ZSTD: Final = zstandard.ZstdCompressionParameters.from_level(3, window_log=18)
"""The level's own window of 2 MiB costs twice as much memory, and makes large pages 2 % shorter."""


class Coder(Protocol):
    """Makes one coded stream. Empty results are normal: what comes out depends on what went in before."""

    def feed(self, data: bytes | memoryview) -> bytes: ...

    def flush(self) -> bytes:
        """All that went in so far, decodable without what follows."""

    def finish(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def feed(self, data: bytes | memoryview) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush(zlib.Z_FINISH)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Compressor(quality=_BR_QUALITY, lgwin=_BR_WINDOW_BITS)

    def feed(self, data: bytes | memoryview) -> bytes:
        return bytes(self._stream.process(data))

    def flush(self) -> bytes:
        return bytes(self._stream.flush())

    def finish(self) -> bytes:
        return bytes(self._stream.finish())


class _Zstd:
    def __init__(self) -> None:
        self._stream = zstandard.ZstdCompressor(compression_params=_ZSTD).compressobj()

    def feed(self, data: bytes | memoryview) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


def coder(coding: Coding) -> Coder:
    """A fresh stream of `coding`."""
    match coding:
        case Coding.GZIP:
            return _Gzip()
        case Coding.BR:
            return _Brotli()
        case Coding.ZSTD:
            return _Zstd()
        case other:
            assert_never(other)


class CodedBody:
    """`body`, coded. An early end of `body` is an early end of this: the coded stream is finished only after the last byte.

    `prompt`: each chunk can be decoded as soon as it has come, at the price of some bytes; for sources that do not know their
    length, which are those that produce while they send.
    """

    def __init__(self, body: Body, coding: Coding, *, prompt: bool) -> None:
        self._body = body
        self._chunks = aiter(body)
        self._coder = coder(coding)
        self._prompt = prompt
        self._rest = memoryview(b"")
        self._small = True
        self._finished = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Never an empty chunk: in chunked framing that is the end."""
        while not self._finished:
            coded = await self._step()
            if coded:
                return coded
        raise StopAsyncIteration

    async def close(self) -> None:
        await self._body.close()

    async def _step(self) -> bytes:
        if not self._rest:
            try:
                self._rest = memoryview(await anext(self._chunks))
            except StopAsyncIteration:
                self._finished = True
                return self._coder.finish() if self._small else await asyncio.to_thread(self._coder.finish)
        piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
        flush = self._prompt and not self._rest
        if len(piece) <= _INLINE_BYTES:
            return self._fed(piece, flush=flush)
        self._small = False
        return await asyncio.to_thread(self._fed, piece, flush=flush)

    def _fed(self, piece: memoryview, *, flush: bool) -> bytes:
        coded = self._coder.feed(piece)
        return coded + self._coder.flush() if flush else coded
