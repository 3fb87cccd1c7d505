"""Connections that a connector keeps between exchanges: taken and given back as aiohttp does it, in one compiled step.

The connector's own books are kept: its limits, its clean-up of idle connections and all other ways to it stay as they are.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

    from edgecache.upstream.http1.origin_protocol import OriginConnector, OriginProtocol


class KeptConnections:
    """One connector's."""

    __slots__ = ("_connector",)

    def __init__(self, connector: OriginConnector) -> None:
        # Any: these are attributes of aiohttp's that its types do not know.
        self._connector: Any = connector

    def any(self, key: ConnectionKey) -> bool:
        """Whether there is one; it may turn out to be closed."""
        return key in self._connector._conns

    def take(self, key: ConnectionKey) -> OriginProtocol | None:
        """A kept connection, for one exchange: to be given back. As aiohttp's `connect`, which needs two coroutines for it."""
        connector = self._connector
        kept = connector._conns.get(key)
        if kept is None:
            return None
        now = monotonic()
        while kept:
            protocol, since = kept.popleft()
            transport = protocol.transport
            limit = connector._keepalive_timeout
            if transport is not None and not transport.is_closing() and (limit is None or now - since <= limit):
                if not kept:
                    del connector._conns[key]
                connector._acquired.add(protocol)
                if connector._limit_per_host:
                    connector._acquired_per_host[key].add(protocol)
                taken: OriginProtocol = protocol
                return taken
            protocol.close()
        del connector._conns[key]
        return None

    def give_back(self, key: ConnectionKey, protocol: OriginProtocol, *, close: bool = False) -> None:
        """Keep the connection for the next exchange, unless it cannot have one, or `close`."""
        connector = self._connector
        if close or connector._closed or connector._waiters or connector._cleanup_handle is None or connector._force_close:
            connector._release(key, protocol, should_close=close)
            return
        if protocol.should_close:
            connector._release(key, protocol)
            return
        # A kept connection keeps nothing else: who listens knows a request, and its client's connection.
        protocol.on_interim = None
        connector._acquired.discard(protocol)
        if connector._limit_per_host:
            acquired = connector._acquired_per_host.get(key)
            if acquired is not None:
                acquired.discard(protocol)
                if not acquired:
                    del connector._acquired_per_host[key]
        connector._conns[key].append((protocol, monotonic()))
