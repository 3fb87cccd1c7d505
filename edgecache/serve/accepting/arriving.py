"""Connections on their way: accepted, and not the listener's yet: a TLS handshake comes first, or a header of `proxied`.

They count as the others do, where the event loop's own server would take as many as there are descriptors. Of too many, the one
that has been on its way longest goes: an honest client takes a moment, and who only begins holds nobody up.
`listener` uses this in its place wherever something comes before HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

_log: Final = logging.getLogger(__name__)
_NO_DESCRIPTORS_SECONDS: Final = 1.0
_MAX_ADDRESSES: Final = 16

Serve = Callable[[socket.socket, str], Awaitable[object]]
"""Takes over a socket, and the client's address where that is not the peer's."""


class ArrivingSockets:
    """Listening sockets. As much of an `asyncio.Server` as `listener` uses."""

    def __init__(self, sockets: list[socket.socket], serve: Serve, room: Callable[[], int]) -> None:
        """`serve` returns once the listener has the connection. `room`: how many may be on their way now."""
        self.sockets = tuple(sockets)
        self._serve = serve
        self._room = room
        self._arriving: dict[asyncio.Task[None], None] = {}
        """Oldest first."""
        self._accepting = [asyncio.get_running_loop().create_task(self._accept(sock)) for sock in sockets]
        for task, sock in zip(self._accepting, sockets, strict=True):
            task.add_done_callback(partial(_end, sock))

    def close(self) -> None:
        """Accept no more."""
        for task in self._accepting:
            task.cancel()

    async def wait_closed(self) -> None:
        """End those that are still on their way."""
        for task in self._arriving:
            task.cancel()
        await asyncio.gather(*self._accepting, *self._arriving, return_exceptions=True)

    def admits(self, peer: str) -> bool:
        """Whether this address may connect at all."""
        del peer
        return True

    async def client_of(self, sock: socket.socket) -> str:
        """The client's address where the peer is not the client. Raises OSError, TimeoutError, or `Unwelcome`."""
        del sock
        return ""

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                # Out of descriptors, most likely; the event loop's own server waits likewise.
                _log.error("cannot accept: %s", error)
                await asyncio.sleep(_NO_DESCRIPTORS_SECONDS)
                continue
            peer = str(address[0]) if isinstance(address, tuple) else ""
            room = self._room()
            if room <= 0 or not self.admits(peer):
                _log.info("%s may not connect here, or too many do", peer)
                sock.close()
                continue
            while len(self._arriving) >= room:
                oldest = next(iter(self._arriving))
                del self._arriving[oldest]
                oldest.cancel()
            task = loop.create_task(self._arrive(sock, peer))
            self._arriving[task] = None
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)

    async def _arrive(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setblocking(False)
            client = await self.client_of(sock)
        except (Unwelcome, TimeoutError, OSError) as error:
            _log.info("%s: %s", peer, error or "nothing in time")
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        # From here on the transport has the socket; what breaks there is the client's.
        with suppress(OSError, TimeoutError):
            await self._serve(sock, client)


class Unwelcome(Exception):
    """What a connection begins with is not what it must. The message says why."""


def _end(listening: socket.socket, task: asyncio.Task[None]) -> None:
    del task
    listening.close()


async def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """A socket for each address of `host`. OSError when one cannot be taken."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found[:_MAX_ADDRESSES]):
            sock = socket.create_server(address[:2], family=family, backlog=backlog)
            sock.setblocking(False)
            sockets.append(sock)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
