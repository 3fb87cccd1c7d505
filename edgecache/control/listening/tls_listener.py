"""The control API's listening sockets where it speaks TLS: handshakes that are under way are bounded in number and in time.

`service` gives them to its runner in place of aiohttp's, which would let them take all descriptors of the edge.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from aiohttp import web

from edgecache.serve.accepting.arriving import ArrivingSockets, listening_sockets

_HANDSHAKE_SECONDS: Final = 10.0
_BACKLOG: Final = 128


class TlsListener(web.BaseSite):
    """One address, or one socket that is bound to one."""

    def __init__(
        self,
        runner: web.AppRunner,
        context: ssl.SSLContext,
        *,
        host: str = "",
        port: int = 0,
        sock: socket.socket | None = None,
        most: int,
    ) -> None:
        """`most`: handshakes at once."""
        super().__init__(runner, ssl_context=context, backlog=_BACKLOG)
        self._context = context
        self._host, self._port, self._sock = host, port, sock
        self._most = most
        self._sockets: ArrivingSockets | None = None

    @property
    def name(self) -> str:
        return f"https://{self._host}:{self._port}"

    async def start(self) -> None:
        """Raises OSError."""
        await super().start()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")
        if self._sock is not None:
            self._sock.setblocking(False)
            self._sock.listen(_BACKLOG)
        sockets = [self._sock] if self._sock is not None else await listening_sockets(self._host, self._port, _BACKLOG)
        loop = asyncio.get_running_loop()

        async def serve(accepted: socket.socket, _client: str) -> None:
            await loop.connect_accepted_socket(server, accepted, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE_SECONDS)

        self._sockets = ArrivingSockets(sockets, serve, lambda: self._most)
        self._server = self._sockets  # type: ignore[assignment] # all that aiohttp asks of it: its sockets, and to close

    async def stop(self) -> None:
        await super().stop()
        if self._sockets is not None:
            await self._sockets.wait_closed()
