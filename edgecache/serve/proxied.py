"""Connections from load balancers that speak the PROXY protocol: accepted here, their header read, then served like any other.

The header comes before TLS, so its bytes are read from the socket, not one more, before a transport has it. `listener` uses this
in place of the event loop's server, where the operator has named whom to trust.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from edgecache.policy.access import AccessRule, permits
from edgecache.serve.proxy_protocol import MAX_BYTES, NotProxied, decode, measure

_log: Final = logging.getLogger(__name__)
_NO_DESCRIPTORS_SECONDS: Final = 1.0
_MAX_ADDRESSES: Final = 16

Serve = Callable[[socket.socket, str], Awaitable[object]]
"""Takes over a socket, and the client's address."""


class ProxiedSockets:
    """Listening sockets whose peers must be in `networks`. As much of an `asyncio.Server` as `listener` uses."""

    def __init__(
        self, sockets: list[socket.socket], networks: tuple[str, ...], serve: Serve, *, header_seconds: float, limit: int
    ) -> None:
        """`limit`: headers that are waited for at once."""
        self.sockets = tuple(sockets)
        self._trusted = AccessRule(allow=networks)
        self._serve = serve
        self._header_seconds = header_seconds
        self._limit = limit
        self._arriving: set[asyncio.Task[None]] = set()
        self._accepting = [asyncio.get_running_loop().create_task(self._accept(sock)) for sock in sockets]
        for task, sock in zip(self._accepting, sockets, strict=True):
            task.add_done_callback(partial(_end, sock))

    def close(self) -> None:
        """Accept no more, and end those whose header has not come."""
        for task in (*self._accepting, *self._arriving):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._accepting, *self._arriving, return_exceptions=True)

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
            if not permits(self._trusted, peer) or len(self._arriving) >= self._limit:
                _log.info("%s may not connect here, or too many do", peer)
                sock.close()
                continue
            task = loop.create_task(self._arrive(sock, peer))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setblocking(False)
            async with asyncio.timeout(self._header_seconds):
                client = decode(await _read_header(sock)).client
        except (NotProxied, TimeoutError, OSError) as error:
            _log.info("%s: %s", peer, error or "no PROXY header in time")
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        # From here on the transport has the socket; what breaks there is the client's.
        with suppress(OSError, TimeoutError):
            await self._serve(sock, client or peer)


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


async def _read_header(sock: socket.socket) -> bytes:
    """The header's bytes and no more. Raises NotProxied, OSError."""
    held = b""
    while True:
        await _readable(sock)
        ahead = sock.recv(MAX_BYTES, socket.MSG_PEEK)
        if not ahead:
            raise NotProxied("the connection was closed within its PROXY header")
        length = measure(held + ahead)
        part = sock.recv(len(ahead) if length is None else min(len(ahead), length - len(held)))
        held += part
        if length is not None and len(held) == length:
            return held


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock.fileno(), _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
