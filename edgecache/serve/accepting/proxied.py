"""Connections from load balancers that speak the PROXY protocol: their header is read, then they are served like any other.

The header comes before TLS, so its bytes are read from the socket, not one more, before a transport has it. `listener` uses this
where the operator has named whom to trust.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from edgecache.policy.access import AccessRule, permits
from edgecache.serve.accepting.arriving import ArrivingSockets, Serve, Unwelcome
from edgecache.serve.accepting.proxy_protocol import MAX_BYTES, NotProxied, decode, measure


class ProxiedSockets(ArrivingSockets):
    """Listening sockets whose peers must be in `networks`."""

    def __init__(
        self,
        sockets: list[socket.socket],
        serve: Serve,
        room: Callable[[], int],
        *,
        networks: tuple[str, ...],
        header_seconds: float,
    ) -> None:
        self._trusted = AccessRule(allow=networks)
        self._header_seconds = header_seconds
        super().__init__(sockets, serve, room)

    def admits(self, peer: str) -> bool:
        return permits(self._trusted, peer)

    async def client_of(self, sock: socket.socket) -> str:
        """Whom the header names."""
        async with asyncio.timeout(self._header_seconds):
            header = await _read_header(sock)
        try:
            return decode(header).client or ""
        except NotProxied as error:
            raise Unwelcome(str(error)) from error


async def _read_header(sock: socket.socket) -> bytes:
    """The header's bytes and no more. Raises Unwelcome, OSError."""
    held = b""
    while True:
        await _readable(sock)
        ahead = sock.recv(MAX_BYTES, socket.MSG_PEEK)
        if not ahead:
            raise Unwelcome("the connection was closed within its PROXY header")
        try:
            length = measure(held + ahead)
        except NotProxied as error:
            raise Unwelcome(str(error)) from error
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
