"""Connections to origins that switch to another protocol (RFC 9110 section 7.8): asked for as requests, then bytes both ways.

They come from a pool of their own: however long they stay open, requests never wait for them. `serve.upgrading` opens and joins
them with clients.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import aiohttp

from edgecache.policy.message import Request, Response
from edgecache.policy.upgrading import Upgradable, switches
from edgecache.source import Culprit, Reply, SourceError
from edgecache.upstream.origin import OriginClient, unusable_field
from edgecache.upstream.origin_protocol import OriginProtocol
from edgecache.upstream.settings import UpstreamSettings


class Tunnel:
    """A connection after its 101. Whoever holds it closes it."""

    def __init__(self, response: aiohttp.ClientResponse, head: Response) -> None:
        """Takes the connection of `response`."""
        self._response = response
        self.head = head
        """Of the 101."""
        connection = response.connection
        if connection is None or connection.protocol is None:
            raise SourceError(Culprit.ORIGIN, "reset", "the connection is closed already", status=502)
        self.protocol = cast(OriginProtocol, connection.protocol)
        """What the transport calls until somebody sets another protocol; it wants to hear of the connection's end."""
        self.transport, self.first = self.protocol.detach()
        """The connection, and what the origin has sent after the 101."""

    def close(self) -> None:
        """Idempotent."""
        self.transport.close()
        self._response.close()


class TunnelClient:
    """The pool behind all tunnels. Make it inside the event loop, close it at the end."""

    def __init__(self, settings: UpstreamSettings, limit: int) -> None:
        """`limit`: tunnels at once."""
        own = dataclasses.replace(settings, max_connections=limit, max_connections_per_origin=limit)
        self._client = OriginClient(own)

    async def open(self, base_urls: tuple[str, ...], request: Request, protocol: Upgradable) -> Tunnel | Reply:
        """Ask the first origin that answers; `request` says what for. A Reply where it does not switch. Raises SourceError."""
        origins = self._client.origins(base_urls)
        response = await origins.answer(request, None)
        if response.status != 101:
            return origins.reply(request, response)
        try:
            return Tunnel(response, _checked(Response(101, response.reason or "", response.headers), protocol))
        except BaseException:
            response.close()
            raise

    async def close(self) -> None:
        await self._client.close()


def _checked(head: Response, protocol: Upgradable) -> Response:
    bad = unusable_field(head)
    if bad is not None or not switches(head, protocol):
        what = f"unusable field {bad}" if bad else f"a 101 that does not switch to {protocol}"
        raise SourceError(Culprit.ORIGIN, "protocol", what)
    return head
