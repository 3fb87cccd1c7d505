"""Upgrading in place: a new leader takes the address, the state and the control API over from an old one, and no request is lost.

`lifetime` drives it. The old one starts the new one, which inherits the listening sockets; they say in turn, over a Unix stream:
old `Inherit`, new `Able` (configuration read, monitor up), old `Yours` (the API is closed, the state is free), new `Accepting`,
old `Faded` (no request begins here any more); then the new one opens the API. Where one end breaks, the other goes on alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from edgecache.processes.channel import Channel

VARIABLE: Final = "EDGECACHE_TAKEOVER"
"""In the environment of a new leader: the descriptor of its end of the stream."""
UPGRADE_SECONDS: Final = 120.0
"""For a new leader to serve; then it is killed, and the old one goes on."""
_FRAME_BYTES: Final = 1 << 20


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Inherit(_Message, frozen=True):
    """Descriptors of listening sockets, and for what configured addresses they are."""

    pid: int
    listen: tuple[str, int]
    plain: tuple[int, ...]
    tls_listen: tuple[str, int] | None
    secure: tuple[int, ...]
    control_listen: tuple[str, int]
    control: tuple[int, ...]


class Able(_Message, frozen=True):
    """The new leader could serve, had it the state."""


class Yours(_Message, frozen=True):
    """The state is free."""


class Accepting(_Message, frozen=True):
    """The new leader serves."""


class Faded(_Message, frozen=True):
    """The old one begins no request any more."""


_MESSAGES: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Inherit | Able | Yours | Accepting | Faded)


class TakeoverFailed(Exception):
    """The other leader is gone, or said something else than it should. The message says which."""


class MessageStream:
    """One end. Messages come in the order of the protocol, each awaited."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[object] = asyncio.Queue()
        self._channel = Channel(_MESSAGES, _FRAME_BYTES, self._said.put_nowait, lambda: self._said.put_nowait(None))
        self.say = self._channel.send
        self.close = self._channel.close

    async def connected(self, sock: socket.socket) -> None:
        await self._channel.connected(sock)

    async def hear(self, kind: type[msgspec.Struct]) -> Any:
        """The next message, which must be of this kind. Raises TakeoverFailed."""
        message = await self._said.get()
        if not isinstance(message, kind):
            raise TakeoverFailed("it has ended" if message is None else f"it said {type(message).__name__}, not {kind.__name__}")
        return message


class Successor:
    """The old leader's view of the new one."""

    def __init__(self) -> None:
        self.stream = MessageStream()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, inherit: Inherit) -> None:
        """Start the program again, as this one was. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            passed = [theirs.fileno(), *inherit.plain, *inherit.secure, *inherit.control]
            try:
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program, as it was called
                    [sys.executable, *sys.orig_argv[1:]], pass_fds=passed, env={**os.environ, VARIABLE: str(theirs.fileno())}
                )
            except OSError:
                ours.close()
                raise
        await self.stream.connected(ours)
        self.stream.say(inherit)

    async def kill(self) -> None:
        """It is not to be: returns when it is gone."""
        self.stream.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


class Predecessor:
    """The new leader's view of the old one. Where the old one ends before its time, the new one goes on alone."""

    def __init__(self, stream: MessageStream, inherit: Inherit) -> None:
        self._stream = stream
        self.inherit: Final = inherit

    async def yield_state(self) -> None:
        """Returns when the state is free."""
        self._stream.say(Able())
        await self._heard(Yours)

    async def fade(self) -> None:
        """Have it stop accepting; returns when no request begins there any more."""
        self._stream.say(Accepting())
        await self._heard(Faded)

    def close(self) -> None:
        self._stream.close()

    async def _heard(self, kind: type[msgspec.Struct]) -> None:
        try:
            await self._stream.hear(kind)
        except TakeoverFailed:
            return


async def predecessor() -> Predecessor | None:
    """Who started this process to be taken over by it; None for a process that somebody else started. Raises TakeoverFailed."""
    descriptor = os.environ.pop(VARIABLE, None)
    if descriptor is None:
        return None
    stream = MessageStream()
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    await stream.connected(sock)
    return Predecessor(stream, await stream.hear(Inherit))


def taken(wanted: tuple[str, int], had: tuple[str, int] | None, descriptors: Sequence[int]) -> tuple[int, ...]:
    """The descriptors that are for the address wanted."""
    return tuple(descriptors) if wanted == had else ()
