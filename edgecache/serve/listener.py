"""The edge's client-facing listener: binds, watches over its connections' deadlines, and drains. No HTTP is decided here.

The wiring creates one per address; `close` is what SIGTERM leads to.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NoReturn

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edgecache.serve.certificates import Certificates
from edgecache.serve.connection import Connection, Exchange
from edgecache.serve.guard import HeadReader
from edgecache.serve.pipeline import Pipeline

_log = logging.getLogger(__name__)
_MAX_WATCH_SECONDS = 0.5
_ACCEPTED_SECONDS = 0.1
_OWN = -1
"""The place of what it bound itself."""


class _Server(web.Server):
    """aiohttp's server, making our connections."""

    def __init__(self, pipeline: Pipeline, scheme: str) -> None:
        super().__init__(_unused, request_factory=Exchange, handler_cancellation=True)  # type: ignore[arg-type]
        self._pipeline = pipeline
        self._scheme = scheme
        self._heads = HeadReader(pipeline.settings, scheme=scheme)
        self.closing = False
        self.fading = False
        self._open = 0
        self._none_open = asyncio.Event()
        self._none_open.set()

    def change(self) -> None:
        self._heads = HeadReader(self._pipeline.settings, scheme=self._scheme)

    def __call__(self) -> RequestHandler:
        return Connection(self, self._pipeline, self._heads, loop=self._loop)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open += 1
        self._none_open.clear()
        if self.closing:
            transport.abort()
        elif self.fading and isinstance(handler, Connection):
            handler.fade()
        elif len(self._connections) > self._pipeline.settings.max_connections:
            _log.warning("more than %d connections: closing one", self._pipeline.settings.max_connections)
            transport.abort()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open -= 1
        if self._open == 0:
            self._none_open.set()

    async def emptied(self) -> None:
        """Wait until every connection is closed."""
        await self._none_open.wait()


class Listener:
    """Serves `pipeline` on one address; with `certificates`, over TLS."""

    def __init__(self, pipeline: Pipeline, certificates: Certificates | None = None) -> None:
        self._pipeline = pipeline
        self._certificates = certificates
        self._settings = pipeline.settings
        self._server: _Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._bound: dict[int, asyncio.Server] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen on `host`:`port` (0: any) or on `sock`. Returns the address. OSError when it is taken."""
        create = self._opened()
        if sock is not None:
            bound = await create(sock=sock)
        else:
            bound = await create(host, port, reuse_address=True)
        self._bound[_OWN] = bound
        name = bound.sockets[0].getsockname()
        return (name[0], name[1]) if isinstance(name, tuple) else (str(name), 0)

    async def accept_at(self, places: Mapping[int, socket.socket]) -> None:
        """Accept connections at these listening sockets, which stay the caller's, and at no other. Raises OSError."""
        create = self._opened()
        for place in places.keys() - self._bound.keys():
            self._bound[place] = await create(sock=places[place].dup())
        for place in self._bound.keys() - places.keys():
            self._bound.pop(place).close()

    def change(self) -> None:
        """The pipeline has other settings: new connections keep to them, those that are open go on as they began."""
        self._settings = self._pipeline.settings
        if self._server is not None:
            self._server.change()

    @property
    def connections(self) -> int:
        return len(self._server.connections) if self._server else 0

    async def fade(self, grace_seconds: float) -> None:
        """Stop accepting, as another process goes on at the same sockets, and let go of clients so that none is cut off: each
        connection is answered once more and told to close. Returns when none is left, or the grace is over; then `close`.
        """
        if self._server is None:
            return
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        self._server.fading = True
        for connection in self._connections():
            connection.fade()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                # What was accepted a moment ago has its connection made yet.
                await asyncio.sleep(_ACCEPTED_SECONDS)
                await self._server.emptied()

    def cut_off(self) -> None:
        """End idle connections, and begin no request any more."""
        if self._server is not None:
            self._server.closing = True
            for connection in self._connections():
                connection.drain()

    async def close(self) -> None:
        """Stop accepting, end idle connections, let requests in flight finish within `drain_timeout`, abort the rest."""
        if self._server is None or self._watch is None:
            return
        bound, self._bound = list(self._bound.values()), {}
        for each in bound:
            each.close()
        self.cut_off()
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                await self._server.emptied()
        except TimeoutError:
            left = self._connections()
            _log.warning("%d connections did not finish within %g s", len(left), self._settings.drain_timeout)
            for connection in left:
                connection.reset()
        await self._server.shutdown(1.0)
        await asyncio.gather(*(each.wait_closed() for each in bound))
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)

    def _opened(self) -> Callable[..., Awaitable[asyncio.Server]]:
        """What makes a server of a socket or an address, for connections that are this listener's."""
        loop = asyncio.get_running_loop()
        if self._server is None:
            self._tls = self._certificates.context if self._certificates else None
            self._server = _Server(self._pipeline, "http" if self._tls is None else "https")
            self._watch = loop.create_task(self._watch_connections())
        # A handshake may take as long as a request head.
        within = None if self._tls is None else self._settings.head_timeout
        return partial(
            loop.create_server, self._server, backlog=self._settings.backlog, ssl=self._tls, ssl_handshake_timeout=within
        )

    def _connections(self) -> list[Connection]:
        connections = self._server.connections if self._server else []
        return [connection for connection in connections if isinstance(connection, Connection)]

    async def _watch_connections(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        pause = min(_MAX_WATCH_SECONDS, self._settings.head_timeout / 2, self._settings.write_timeout / 2)
        while True:
            await asyncio.sleep(pause)
            now = loop.time()
            for connection in self._connections():
                connection.watch(now)


async def _unused(_request: web.BaseRequest) -> web.StreamResponse:
    raise RuntimeError("connections answer their requests themselves")
