"""Requests that become tunnels: who may, how many at once, and the bytes both ways until one side is done or nothing moves.

`pipeline` has them opened, `connection` runs them on its own transport. What is said through them is nobody's business here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol, cast

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.upgrading import Upgradable, accepted, asked, by_extended_connect, fields_of
from edgecache.serve.answer import Opened
from edgecache.serve.call import Call
from edgecache.serve.settings import ServeSettings
from edgecache.serve.stream_tunnel import join_stream, say_end
from edgecache.source import Culprit, Reply, SourceError
from edgecache.upstream.tunnel import Tunnel, TunnelClient


class Upgrades:
    """One edge's tunnels, counted by site. `settings` may be replaced."""

    def __init__(self, client: TunnelClient, settings: ServeSettings) -> None:
        self._client = client
        self.settings = settings
        self._open: dict[str, int] = {}

    @property
    def open_by_site(self) -> Mapping[str, int]:
        """Sites with tunnels, and how many."""
        return self._open

    def wanted(self, call: Call) -> Upgradable | None:
        """The protocol that a client's request asks for, where its route lets it."""
        route = call.route
        if not route.site.upgrade or route.generator is not None or call.body is not None or not call.prepared:
            return None
        return asked(call.request, route.site.upgrade)

    async def open(self, call: Call, sent: Request, protocol: Upgradable) -> Reply | OpenTunnel:
        """Ask the site's origins; `sent` is the request as they get it, without what asks for `protocol`. Raises SourceError.

        A client that asked by an extended CONNECT takes 2xx for an open tunnel, and cannot see what the origin has accepted: it
        gets neither a 2xx nor a tunnel to something else.
        """
        site = call.route.site
        limit = self.settings.tunnels_per_site
        if self._open.get(site.name, 0) >= limit:
            raise SourceError(Culprit.EDGE, "too-many-tunnels", f"{limit} are open", status=503)
        self._open[site.name] = self._open.get(site.name, 0) + 1
        opened: Reply | Tunnel | None = None
        try:
            fields = freeze([*sent.headers.items(), *fields_of(protocol)])
            asking = Request(sent.method, sent.scheme, sent.authority, sent.target, fields)
            opened = await self._client.open(site, asking, protocol)
        finally:
            if not isinstance(opened, Tunnel):
                self.closed(site.name)
        tunnel = OpenTunnel(self, site.name, opened, protocol) if isinstance(opened, Tunnel) else opened
        if by_extended_connect(call.request):
            await _check_answered(call.request, tunnel)
        return tunnel

    def closed(self, site: str) -> None:
        """A tunnel is over, or has not come about."""
        left = self._open.pop(site) - 1
        if left:
            self._open[site] = left

    async def close(self) -> None:
        await self._client.close()


class OpenTunnel(Opened):
    """A tunnel on its way to its client, who has not been told yet, or already in use."""

    def __init__(self, upgrades: Upgrades, site: str, tunnel: Tunnel, protocol: Upgradable) -> None:
        self._upgrades = upgrades
        self._site = site
        self._tunnel = tunnel
        self._closed = False
        self.head = tunnel.head
        self.fields = fields_of(protocol)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._tunnel.close()
            self._upgrades.closed(self._site)

    async def join(
        self, client: asyncio.Transport, before: asyncio.BaseProtocol, first: bytes, idle_seconds: float
    ) -> tuple[int, int]:
        tunnel = self._tunnel
        loop = asyncio.get_running_loop()
        down, up = _Side(client, before, loop), _Side(tunnel.transport, tunnel.protocol, loop)
        down.other, up.other = up, down
        try:
            up.begin(tunnel.first)
            down.begin(first)
            await _quiet_or_lost(down, up, idle_seconds)
        finally:
            down.leave()
            up.leave()
            self.close()
        return up.received, down.received

    async def join_stream(
        self, client: AsyncIterator[bytes], send: Callable[[bytes], Awaitable[None]], idle_seconds: float
    ) -> tuple[int, int, SourceError | None]:
        try:
            return await join_stream(self._tunnel, client, send, idle_seconds)
        finally:
            self.close()


class _Losing(Protocol):
    def connection_lost(self, exc: Exception | None) -> None: ...


class _Side(asyncio.Protocol):
    """One end's connection: what comes from it goes to the other."""

    other: _Side

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self._before = cast(_Losing, before)
        self._loop = loop
        self.received = 0
        self.last = loop.time()
        self.lost = loop.create_future()
        self._ended = False
        self._left = False
        self._told = False
        self._error: Exception | None = None

    def begin(self, first: bytes) -> None:
        """Take the transport over; `first` has come from it before."""
        self.transport.set_protocol(self)
        with suppress(RuntimeError):  # uvloop's word for: it was not paused
            self.transport.resume_reading()
        if first:
            self.data_received(first)

    def leave(self) -> None:
        """Close, and let the protocol that was there before hear of it."""
        self._left = True
        self.transport.close()
        self._tell()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.last = self._loop.time()
        if not self.other.transport.is_closing():
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Passed on, where the other connection has an end of its own for each direction; TLS has not."""
        self._ended = True
        other = self.other.transport
        if self.other._ended or not other.can_write_eof():
            other.close()
        elif not other.is_closing():
            say_end(other)
        return self.transport.can_write_eof() and not self.other._ended

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        if not self.lost.done():
            self.lost.set_result(None)
        # What it has said before is still delivered.
        self.other.transport.close()
        self._tell()

    def _tell(self) -> None:
        if self._left and self.lost.done() and not self._told:
            self._told = True
            self._loop.call_soon(self._before.connection_lost, self._error)


async def _quiet_or_lost(down: _Side, up: _Side, idle_seconds: float) -> None:
    """Until both connections are lost, or nothing has come from either for so long."""
    loop = asyncio.get_running_loop()
    while not (down.lost.done() and up.lost.done()):
        left = max(down.last, up.last) + idle_seconds - loop.time()
        if left <= 0:
            return
        waiting = [side.lost for side in (down, up) if not side.lost.done()]
        await asyncio.wait(waiting, timeout=left)


async def _check_answered(request: Request, opened: Reply | OpenTunnel) -> None:
    """Raises SourceError, with what is open closed: an origin's answer that would mislead a client of an extended CONNECT."""
    if isinstance(opened, Reply):
        if 200 <= opened.response.status < 300:
            await opened.body.close()
            raise SourceError(Culprit.ORIGIN, "protocol", f"status {opened.response.status} in answer to an upgrade")
    elif not accepted(request, opened.head):
        opened.close()
        raise SourceError(Culprit.ORIGIN, "protocol", "a 101 that accepts another request")
