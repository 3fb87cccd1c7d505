"""Connections without TLS on which either protocol may be spoken: HTTP/2 where the client begins with its preface, called prior
knowledge (RFC 9113 section 3.3), else HTTP/1.1.

`listener` makes one for each where `serve.h2c` says so, and keeps it among its connections until the first bytes have told.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from edgecache.serve.accepting.certificates import ALPN_HTTP_2
from edgecache.serve.http2.frames import PREFACE
from edgecache.serve.settings import ServeSettings


class NegotiatingListener(Protocol):
    """The listener, as these connections see it."""

    def undecided(self, connection: Undecided, transport: asyncio.Transport) -> None: ...

    def decided(self, connection: Undecided) -> None:
        """Another takes its place at once."""

    def never_decided(self, connection: Undecided) -> None:
        """The client has gone."""

    def agreed(self, protocol: str | None, client: str = "") -> asyncio.Protocol:
        """A connection that speaks this protocol, as ALPN names it; None: HTTP/1.1."""


class Undecided(asyncio.Protocol):
    """See the module. Holds less than the preface's 24 bytes."""

    def __init__(self, servers: NegotiatingListener, settings: ServeSettings, now: float, client: str = "") -> None:
        """`client`: its address, where that is not the peer's. `now` on the loop's clock."""
        self._servers = servers
        self._settings = settings
        self._since = now
        self._client = client
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._servers.undecided(self, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._servers.never_decided(self)

    def data_received(self, data: bytes) -> None:
        transport, held = self._transport, self._held + data
        if transport is None or transport.is_closing():
            return
        if len(held) < len(PREFACE) and PREFACE.startswith(held):
            self._held = held
            return
        connection = self._servers.agreed(ALPN_HTTP_2 if held.startswith(PREFACE) else None, self._client)
        self._transport = None
        transport.set_protocol(connection)
        self._servers.decided(self)
        connection.connection_made(transport)
        connection.data_received(held)

    def watch(self, now: float) -> None:
        """Called every second or so with the loop's time."""
        allowed = self._settings.head_timeout if self._held else self._settings.keepalive_timeout
        if now - self._since > allowed:
            self.reset()

    def fade(self) -> None:
        """Nothing has been asked here."""
        self.drain()

    def drain(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None:
            self._transport.abort()
