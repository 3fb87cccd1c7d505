"""Connections to origins that switch to another protocol (RFC 9110 section 7.8): asked for as requests, then bytes both ways.

They come from a pool of their own: however long they stay open, requests never wait for them. `serve.upgrading` opens and joins
them with clients.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from edgecache.policy.message import Request, Response
from edgecache.policy.upgrading import Upgradable, switches
from edgecache.sites import Site
from edgecache.source import Culprit, Reply, SourceError
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.http1.origin_protocol import OriginProtocol
from edgecache.upstream.http1.trust import Trust
from edgecache.upstream.http1.whole import WholeResponse
from edgecache.upstream.origins import Answered
from edgecache.upstream.settings import UpstreamSettings
from edgecache.upstream.upstreams import Upstreams


class Tunnel:
    """A connection after its 101. Whoever holds it closes it."""

    def __init__(self, answered: Answered, head: Response) -> None:
        """Takes the connection of `answered`."""
        self._answered = answered
        self.head = head
        """Of the 101."""
        response = answered.response
        connection = None if isinstance(response, WholeResponse) else response.connection
        if connection is None or connection.protocol is None:
            raise SourceError(Culprit.ORIGIN, "reset", "the connection is closed already", status=502)
        self.protocol = cast(OriginProtocol, connection.protocol)
        """What the transport calls until somebody sets another protocol; it wants to hear of the connection's end."""
        self.transport, self.first = self.protocol.detach()
        """The connection, and what the origin has sent after the 101."""

    def close(self) -> None:
        """Idempotent."""
        self.transport.close()
        self._answered.drop()


class TunnelClient:
    """The pool behind all tunnels. Make it inside the event loop, close it at the end."""

    def __init__(self, settings: UpstreamSettings, limit: int, upstreams: Upstreams) -> None:
        """`limit`: tunnels at once. `upstreams`: what is known of the sites' origins."""
        self._upstreams = upstreams
        self._client = OriginClient(_unshared(settings, limit))

    def change(self, settings: UpstreamSettings, limit: int) -> OriginClient | None:
        """Open tunnels by these from here on. Returns the client that has those that are open, for the caller to retire; None: it
        goes on as it was."""
        own, before = _unshared(settings, limit), self._client
        if own == before.settings:
            return None
        self._client = OriginClient(own)
        return before

    @property
    def trust(self) -> Trust:
        """Of the client that opens them now."""
        return self._client.trust

    async def open(self, site: Site, request: Request, protocol: Upgradable) -> Tunnel | Reply:
        """Ask the site's origins; `request` says what for. A Reply where none switches. Raises SourceError."""
        answered = await self._upstreams.through(self._client, site).switch(request)
        if isinstance(answered, Reply):
            return answered
        response = answered.response
        try:
            return Tunnel(answered, _checked(Response(101, response.reason or "", response.headers), protocol))
        except BaseException:
            answered.drop()
            raise

    async def close(self) -> None:
        await self._client.close()


def _unshared(settings: UpstreamSettings, limit: int) -> UpstreamSettings:
    return dataclasses.replace(settings, max_connections=limit, max_connections_per_origin=limit)


def _checked(head: Response, protocol: Upgradable) -> Response:
    if not switches(head, protocol):
        raise SourceError(Culprit.ORIGIN, "protocol", f"a 101 that does not switch to {protocol}")
    return head
