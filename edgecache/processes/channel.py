"""One end of the stream between the leading process and a serving one: frames out, messages in, and word of the other's end.

Both ends run the same program and trust each other; sizes are bounded all the same. What is said is `messages`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from edgecache.processes.messages import ENCODER
from sandbox.channel.frames import Frames
from sandbox.channel.wire import WireError

_log: Final = logging.getLogger(__name__)
_HEAD: Final = struct.Struct("<I")


class Channel(asyncio.Protocol):
    """Make it with `connected`. `send` never waits: what may wait for the other side is bounded by who sends (credit)."""

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Any],
        limit_bytes: int,
        on_message: Callable[[Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._frames: Frames[Any] = Frames(decoder, limit_bytes)
        self._on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self.lost = False
        self._ended = asyncio.Event()

    async def connected(self, sock: socket.socket) -> None:
        """Take over `sock`, a connected Unix stream."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self._on_message(message)
        except WireError:
            _log.exception("the other process broke the protocol")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._ended.set()
            self._on_lost()

    def send(self, message: msgspec.Struct) -> None:
        """Harmless once the other side is gone."""
        if self._transport is None or self._transport.is_closing():
            return
        buffer = bytearray(_HEAD.size)
        ENCODER.encode_into(message, buffer, _HEAD.size)
        _HEAD.pack_into(buffer, 0, len(buffer) - _HEAD.size)
        self._transport.write(buffer)

    def close(self) -> None:
        """What was sent still goes out; `on_lost` is called."""
        if self._transport is not None:
            self._transport.close()

    async def ended(self, within_seconds: float) -> None:
        """After `close`: wait until what was sent has gone out."""
        if self._transport is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._ended.wait()
