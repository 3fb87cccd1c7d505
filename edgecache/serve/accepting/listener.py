"""The edge's client-facing listener: binds, watches over its connections' deadlines, and drains. No HTTP is decided here.

The wiring creates one per address; `close` is what SIGTERM leads to.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import NoReturn, Protocol, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edgecache.serve.accepting.arriving import ArrivingSockets, listening_sockets
from edgecache.serve.accepting.certificates import ALPN_HTTP_2, Certificates
from edgecache.serve.accepting.prior_knowledge import Undecided
from edgecache.serve.accepting.proxied import ProxiedSockets
from edgecache.serve.guard import HeadReader
from edgecache.serve.http1.connection import Connection
from edgecache.serve.http2.connection import Http2Connection
from edgecache.serve.http2.fields import FieldReader
from edgecache.serve.pipeline import Pipeline

_log = logging.getLogger(__name__)
_MAX_WATCH_SECONDS = 0.5
_ACCEPTED_SECONDS = 0.1
_COMPLAIN_SECONDS = 10.0
_OWN = -1
"""The place number of the socket that it bound itself."""


ClientConnection = Connection | Http2Connection | Undecided


class _Server(web.Server):
    """aiohttp's server, making our connections; those of HTTP/2 are kept beside its own."""

    def __init__(self, pipeline: Pipeline, scheme: str) -> None:
        super().__init__(_unused, handler_cancellation=True)
        self._pipeline = pipeline
        self._scheme = scheme
        self.change()
        self._http2: set[Http2Connection] = set()
        self._undecided: set[Undecided] = set()
        self.closing = False
        self.fading = False
        self._open = 0
        self._refused = 0
        self._complain_at = 0.0
        self._none_open = asyncio.Event()
        self._none_open.set()

    def change(self) -> None:
        """Connections from here on keep to the pipeline's settings."""
        self._heads = HeadReader(self._pipeline.settings, scheme=self._scheme)
        self._fields = FieldReader(self._pipeline.settings, self._scheme)

    def __call__(self) -> RequestHandler:
        return Connection(self, self._pipeline, self._heads, loop=self._loop)

    def plain(self, client: str = "") -> ClientConnection:
        """A connection without TLS, for which nothing has been agreed on."""
        settings = self._pipeline.settings
        return Undecided(self, settings, self._loop.time(), client) if settings.h2c else self.agreed(None, client)

    def agreed(self, protocol: str | None, client: str = "") -> Connection | Http2Connection:
        """A connection that speaks what ALPN has agreed on; `client`: its address, where that is not the peer's."""
        if protocol == ALPN_HTTP_2:
            return Http2Connection(self, self._pipeline, self._fields, self._loop, client)
        return Connection(self, self._pipeline, self._heads, loop=self._loop, client=client)

    def room(self) -> int:
        """How many more connections may be opened."""
        return self._pipeline.settings.max_connections - self._open

    @property
    def all_connections(self) -> list[ClientConnection]:
        first = [connection for connection in self.connections if isinstance(connection, Connection)]
        return [*first, *self._http2, *self._undecided]

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if isinstance(handler, Connection):
            self._opened(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._lost()

    def joined(self, connection: Http2Connection, transport: asyncio.Transport) -> None:
        self._http2.add(connection)
        self._opened(connection, transport)

    def left(self, connection: Http2Connection) -> None:
        self._http2.discard(connection)
        self._lost()

    def undecided(self, connection: Undecided, transport: asyncio.Transport) -> None:
        self._undecided.add(connection)
        self._opened(connection, transport)

    def decided(self, connection: Undecided) -> None:
        self._undecided.discard(connection)
        # Whoever waits for the last connection's end goes on waiting.
        self._open -= 1

    def never_decided(self, connection: Undecided) -> None:
        self._undecided.discard(connection)
        self._lost()

    def _opened(self, connection: ClientConnection, transport: asyncio.Transport) -> None:
        self._open += 1
        self._none_open.clear()
        if self.closing:
            transport.abort()
        elif self.fading:
            connection.fade()
        elif self._open > self._pipeline.settings.max_connections:
            transport.abort()
            self._refused += 1
            self._complain()

    def _complain(self) -> None:
        """A flood of connections must not be one of the log."""
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_SECONDS
            most = self._pipeline.settings.max_connections
            _log.warning("more than %d connections (serve.max_connections): %d were closed", most, self._refused)
            self._refused = 0

    def _lost(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._none_open.set()

    async def emptied(self) -> None:
        """Wait until every connection is closed."""
        await self._none_open.wait()


class _Handshaken(asyncio.Protocol):
    """Stands for a connection over TLS until the handshake has told what it speaks."""

    def __init__(self, server: _Server, client: str = "") -> None:
        self._server = server
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        session = transport.get_extra_info("ssl_object")
        connection = self._server.agreed(session.selected_alpn_protocol() if session is not None else None, self._client)
        cast(asyncio.Transport, transport).set_protocol(connection)
        connection.connection_made(transport)


class Acceptor(Protocol):
    """What accepts connections: an `asyncio.Server`, or sockets on which load balancers announce their clients."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]: ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class Listener:
    """Serves `pipeline` on one address; with `certificates`, over TLS; with `proxies`, only for load balancers in these networks,
    which say by the PROXY protocol who their clients are."""

    def __init__(self, pipeline: Pipeline, certificates: Certificates | None = None, proxies: tuple[str, ...] = ()) -> None:
        self._pipeline = pipeline
        self._certificates = certificates
        self._proxies = proxies
        self._settings = pipeline.settings
        self._server: _Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._bound: dict[int, Acceptor] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen on `host`:`port` (0: any) or on `sock`. Returns the address. OSError when it is taken."""
        bound = await self._accept(host, port, sock)
        self._bound[_OWN] = bound
        name = bound.sockets[0].getsockname()
        return (name[0], name[1]) if isinstance(name, tuple) else (str(name), 0)

    async def accept_at(self, places: Mapping[int, socket.socket]) -> None:
        """Accept connections at these listening sockets, which stay the caller's, and at no other. Raises OSError."""
        for place in places.keys() - self._bound.keys():
            self._bound[place] = await self._accept("", 0, places[place].dup())
        for place in self._bound.keys() - places.keys():
            self._bound.pop(place).close()

    def change(self) -> None:
        """The pipeline has other settings: new connections keep to them, those that are open go on as they began."""
        self._settings = self._pipeline.settings
        if self._server is not None:
            self._server.change()

    @property
    def connections(self) -> int:
        return len(self._connections())

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

    def _opened(self) -> _Server:
        """What makes connections that are this listener's."""
        if self._server is None:
            self._tls = self._certificates.context if self._certificates else None
            self._server = _Server(self._pipeline, "http" if self._tls is None else "https")
            self._watch = asyncio.get_running_loop().create_task(self._watch_connections())
        return self._server

    async def _accept(self, host: str, port: int, sock: socket.socket | None) -> Acceptor:
        """Accept at `sock`, or at an address. Raises OSError."""
        loop, server, tls = asyncio.get_running_loop(), self._opened(), self._tls
        settings = self._settings
        if tls is None and not self._proxies:
            create = partial(loop.create_server, server.plain, backlog=settings.backlog)
            return cast(Acceptor, await (create(sock=sock) if sock is not None else create(host, port, reuse_address=True)))
        # A handshake may take as long as a request head.
        within = None if tls is None else settings.head_timeout

        async def serve(accepted: socket.socket, client: str) -> None:
            factory = partial(server.plain, client) if tls is None else partial(_Handshaken, server, client)
            await loop.connect_accepted_socket(factory, accepted, ssl=tls, ssl_handshake_timeout=within)

        if sock is not None:
            sock.listen(settings.backlog)
            sock.setblocking(False)
        sockets = [sock] if sock is not None else await listening_sockets(host, port, settings.backlog)
        if not self._proxies:
            return ArrivingSockets(sockets, serve, server.room)
        return ProxiedSockets(sockets, serve, server.room, networks=self._proxies, header_seconds=settings.head_timeout)

    def _connections(self) -> list[ClientConnection]:
        return self._server.all_connections if self._server else []

    async def _watch_connections(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        pause = min(_MAX_WATCH_SECONDS, self._settings.head_timeout / 2, self._settings.write_timeout / 2)
        while True:
            await asyncio.sleep(pause)
            self._look(loop.time())

    def _look(self, now: float) -> None:
        # Not in the task itself: its loop variable would keep the last connection alive, buffers and all, after its end.
        for connection in self._connections():
            connection.watch(now)


async def _unused(_request: web.BaseRequest) -> web.StreamResponse:
    raise RuntimeError("connections answer their requests themselves")
