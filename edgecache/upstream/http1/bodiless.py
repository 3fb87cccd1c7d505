"""GET and HEAD without a body, which is what misses are: written to a connection of aiohttp's connector as they are, and the head
read from `origin_protocol`. aiohttp's own request and response objects take several times as long.

`origin` calls it, and makes `SourceError`s of what it raises. Bodies, upgrades and PROXY headers go through aiohttp's session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from edgecache.policy.message import Request
from edgecache.source import Interim
from edgecache.upstream.deadlines import Deadline, Deadlines
from edgecache.upstream.endpoint import Endpoint
from edgecache.upstream.http1.beginning import Kit
from edgecache.upstream.http1.begun import REQUEST_TIMEOUT, SentRequest
from edgecache.upstream.http1.kept import KeptConnections
from edgecache.upstream.http1.origin_protocol import OriginConnector, OriginProtocol
from edgecache.upstream.http1.request_head import encode_request
from edgecache.upstream.http1.trailers import TrailerReader
from edgecache.upstream.http1.way import Way
from edgecache.upstream.http1.whole import WholeResponse
from edgecache.upstream.settings import UpstreamSettings

_SWITCHING_PROTOCOLS: Final = 101
_STALE: Final = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)


class BodilessResponse:
    """A `response.OriginResponse`."""

    __slots__ = ("connection", "content", "headers", "reason", "status")

    def __init__(
        self, status: int, reason: str | None, headers: CIMultiDictProxy[str], content: StreamReader, connection: Connection
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.content = content
        self.connection: Connection | None = connection
        content.on_eof(self._ended)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            if self.content.exception() is None:
                self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))
            connection.close()

    def release(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.release()

    def _ended(self) -> None:
        connection = self.connection
        if connection is not None and not (connection.protocol is not None and connection.protocol.upgraded):
            self.release()


class BodilessExchanges:
    """Over one connector, whose limits and kept connections they share with the session's."""

    def __init__(self, connector: OriginConnector, settings: UpstreamSettings) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._kept = KeptConnections(connector)
        self._deadlines = Deadlines(self._loop)
        self._expecting: dict[str, Any] = {
            "read_until_eof": True,
            "auto_decompress": False,
            "read_bufsize": settings.read_buffer_bytes,
            "max_line_size": settings.max_head_line_bytes,
            "max_field_size": settings.max_head_line_bytes,
            "max_headers": settings.max_head_fields,
        }

    def kit(self, way: Callable[[Endpoint], Way]) -> Kit:
        """What `beginning` needs to begin requests here that no task waits for."""
        return Kit(self._kept, self._deadlines, self._expecting, way)

    async def exchange(
        self,
        way: Way,
        request: Request,
        connecting: aiohttp.ClientTimeout,
        first_byte: float,
        *,
        on_interim: Interim | None = None,
        trailers: TrailerReader | None = None,
        begun: SentRequest | None = None,
    ) -> BodilessResponse | WholeResponse:
        """Up to the response head, or all of it where it has come. `begun`: it has been sent already.

        Raises as aiohttp's session does, and HttpProcessingError where what came is no HTTP.
        """
        head = encode_request(request, way.host)
        key = way.connection_key
        again = True
        taken = None if begun is None else begun.taken()
        while True:
            kept = self._kept.take(key) if taken is None else taken[0]
            # Not by its truth: aiohttp's protocol is a queue too, and empty.
            protocol = await self._connected(way, connecting) if kept is None else kept
            protocol.on_interim = on_interim
            protocol.trailers = trailers
            try:
                if taken is not None:
                    deadline, taken = taken[1], None
                    answer = await self._response(key, protocol, deadline)
                else:
                    answer = await self._ask(key, protocol, request.method, head, first_byte)
                if answer.status != REQUEST_TIMEOUT or kept is None or not again:
                    return answer
                # RFC 9110 section 15.5.9: it was on its way when the connection was used again, and answers no request.
                answer.close()
                again = False
            except _STALE:
                # RFC 9112 section 9.3.1: a kept connection may be closed just when a request is sent on it.
                self._kept.give_back(key, protocol, close=True)
                if not again:
                    raise
                again = False
            except BaseException:
                self._kept.give_back(key, protocol, close=True)
                raise

    async def _connected(self, way: Way, connecting: aiohttp.ClientTimeout) -> OriginProtocol:
        """A connection, new or kept, once there may be one more."""
        try:
            connection = await self._connector.connect(cast(ClientRequest, way), [], connecting)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {way.url}") from error
        # It is given back by its protocol: aiohttp's object for that is made where a body is still to come.
        protocol, connection._protocol = cast(OriginProtocol, connection._protocol), None
        return protocol

    async def _ask(
        self, key: ConnectionKey, protocol: OriginProtocol, method: str, head: bytes, first_byte: float
    ) -> BodilessResponse | WholeResponse:
        if method == "HEAD":
            protocol.set_response_params(skip_payload=True, **self._expecting)
        else:
            protocol.expect(self._expecting)
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        transport.write(head)
        # asyncio.timeout takes several times as long.
        return await self._response(key, protocol, self._deadlines.begin(first_byte, protocol.give_up))

    async def _response(
        self, key: ConnectionKey, protocol: OriginProtocol, deadline: Deadline
    ) -> BodilessResponse | WholeResponse:
        try:
            while True:
                # Any: aiohttp's two parsers each have a message of their own.
                message, content = await cast(Any, protocol).read()
                if isinstance(message, WholeResponse):
                    self._kept.give_back(key, protocol)
                    return message
                if not 100 <= message.code < 200 or message.code == _SWITCHING_PROTOCOLS:
                    connection = Connection(self._connector, key, protocol, self._loop)
                    return BodilessResponse(message.code, message.reason, message.headers, content, connection)
        finally:
            deadline.cancel()
