"""One running edge: monitor, control API and whoever serves, joined, and stopped in order.

`lifetime` runs it. Requests flow through `processes.path`: in this process where it is the only one (`processes.one_process`),
else in serving processes, which this one leads (`processes.fleet`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from aiohttp import web

from edgecache.config import Address, Config
from edgecache.control.api.services import Rooms
from edgecache.control.bundle.bundles import BundleError
from edgecache.control.listening.binding import check_bind
from edgecache.control.service import Control
from edgecache.control.state import StateError
from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.status import StatusBoard
from edgecache.policy.purging import Purge
from edgecache.processes import sockets
from edgecache.processes.fleet import Fleet
from edgecache.processes.guests import GuestHost
from edgecache.processes.one_process import OneProcess
from edgecache.processes.reload import reloaded
from edgecache.processes.takeover import Inherit, Predecessor, taken
from edgecache.sites import SiteTable
from edgecache.yamlform import FormError
from sandbox import End, GuestFailed, Monitor, Outcome, Usage

_log: Final = logging.getLogger(__name__)
_FADE_SECONDS: Final = 2.0
"""For clients to ask once more on the connections that they have, and hear that these end."""


class Servers(Protocol):
    """Who answers clients: this process itself, or the serving processes that it leads. `start`, `drain`, `close`.

    What `publish`, `purge` and `apply` return from is in force for every request that begins after it.
    """

    async def start(self, plain: Sequence[socket.socket], secure: Sequence[socket.socket]) -> None:
        """Returns when connections are accepted at these, which stay the caller's. Raises StartFailed, OSError,
        CertificateError; drain and close it also then."""

    async def publish(self) -> None:
        """The table of sites has changed."""

    async def purge(self, purge: Purge) -> int:
        """Returns how many entries it concerns. Raises SourceError: it is not on record on disk."""

    async def apply(self, config: Config) -> tuple[str, ...]:
        """Go on with this configuration. Returns what failed, each thing once; that is tried again at the next.

        A `publish` must follow, for what was answered before to be forgotten where it was remembered by request.
        """

    async def reopen(self) -> tuple[str, ...]:
        """Open logs again, after rotation, and read certificates again, after renewal. Returns what could not be read."""

    async def gather(self) -> None:
        """Have `sources` and `status_parts` tell of now."""

    def sources(self) -> Sources:
        """Their figures, without the monitor's."""

    def status_parts(self) -> Mapping[str, Mapping[str, object]]:
        """For `/v1/status`, beside what is made of `sources`."""

    async def fade(self, grace_seconds: float) -> None:
        """Stop accepting, as others go on at the same sockets; no request begins after this."""

    async def drain(self) -> None:
        """Stop accepting, and let requests in flight finish, within their bounds. Harmless where nothing was started."""

    async def close(self) -> None:
        """After `drain`, when no guest runs any more."""


class Edge:
    """Make it on the loop that runs it; `start`, then `close`."""

    def __init__(self, config: Config) -> None:
        """Raises OSError: the access log cannot be opened; CertificateError; PackagesMissing: traces cannot be sent."""
        self._config = config
        self._monitor = Monitor(config.sandbox)
        self._table = table = SiteTable()
        self._control = Control(
            config.control,
            table=table,
            sandbox=self._monitor,
            purge=self._purge,
            config_sites=config.sites,
            config_clusters=config.clusters,
            published=self._publish,
            rooms=Rooms(gather=self._gather, parts=self._status_parts, metrics=self._render_metrics),
        )
        self._plain: tuple[socket.socket, ...] = ()
        self._secure: tuple[socket.socket, ...] = ()
        self._control_socks: tuple[socket.socket, ...] = ()
        host = GuestHost(self._monitor, self._control.values, self._control.logs, self._ready, self._control.knows)
        self._servers: Servers = OneProcess(config, table, host) if config.serve.processes == 1 else Fleet(config, table, host)
        sources = dataclasses.replace(self._servers.sources(), monitor=self._monitor.status)
        self._metrics = Metrics(sources)
        self._board = StatusBoard(sources, time.monotonic())
        self.secure: Address | None = None
        """Where it serves over TLS, once it has started."""

    async def start(self, predecessor: Predecessor | None = None) -> tuple[Address, Address]:
        """Where it serves, and where the control API listens; sockets and state are taken over from a predecessor.

        The monitor is first: its zygote is forked before this process holds a token or a key. Raises SandboxError, BindRefused,
        StateError, StartFailed, OSError; close it also then.
        """
        check_bind(self._config.control)
        await self._monitor.start()
        self._bind(predecessor.inherit if predecessor is not None else None)
        if predecessor is not None:
            await predecessor.yield_state()
        await self._control.load()
        await self._servers.start(self._plain, self._secure)
        if self._secure:
            self.secure = _address(self._secure[0])
        if predecessor is not None:
            await predecessor.fade()
        await self._control.listen(self._control_socks)
        return _address(self._plain[0]), Address(*self._control.address)

    @property
    def has_sites(self) -> bool:
        return bool(self._table.snapshot.sites)

    def inherit(self) -> Inherit:
        """What a successor gets."""
        config = self._config
        plain, secure, control = (
            tuple(sock.fileno() for sock in socks) for socks in (self._plain, self._secure, self._control_socks)
        )
        return Inherit(
            pid=os.getpid(),
            listen=(config.listen.host, config.listen.port),
            plain=plain,
            tls_listen=None if config.tls is None else (config.tls.listen.host, config.tls.listen.port),
            secure=secure,
            control_listen=(config.control.host, config.control.port),
            control=control,
        )

    async def give_away(self) -> None:
        """Answer the API no more, and let a successor have the state; requests are served as before. Raises StateError."""
        await self._control.give_away()

    async def take_back(self) -> None:
        """After `give_away`: there is no successor. Raises StateError, OSError."""
        await self._control.take_back(self._control_socks)

    async def fade(self) -> None:
        """Stop accepting, for a successor does; no request begins here after this. `close` follows."""
        await self._servers.fade(_FADE_SECONDS)

    async def reload(self, read: Callable[[], Config] | None) -> None:
        """Open the log and read the certificates again; then the configuration, where `read` does that.

        What is wrong is said, and what was in force stays.
        """
        for failure in await self._servers.reopen():
            _log.error("the certificates in use stay: %s", failure)
        if read is None:
            return
        try:
            config = await asyncio.to_thread(read)
        except FormError as error:
            mistakes = "".join(f"\n  {problem}" for problem in error.problems)
            _log.error("the configuration in use stays, for the new one cannot be used:%s", mistakes)
            return
        await self._apply(config)

    async def _apply(self, read: Config) -> None:
        config, kept = reloaded(self._config, read)
        if kept:
            _log.warning(
                "not changed while running: %s; for these, restart the edge, or upgrade it in place (SIGUSR2)", ", ".join(kept)
            )
        self._config = config
        failures = await self._servers.apply(config)
        try:
            await self._control.redeclare(config.sites, config.clusters)
        except StateError as error:
            failures = (*failures, f"sites and clusters stay as they were: {error}")
        for failure in failures:
            _log.error("the configuration is in force but for this: %s", failure)
        if not failures:
            print(f"edgecache: the configuration {config.source} is in force", flush=True)

    async def close(self) -> None:
        """Let requests in flight finish, within their bounds, then end everything. Harmless on what did not start."""
        sockets.close_all((*self._plain, *self._secure))
        await self._servers.drain()
        await self._control.close()
        sockets.close_all(self._control_socks)
        await self._monitor.close()
        await self._servers.close()

    def _bind(self, inherit: Inherit | None) -> None:
        """The sockets to listen on: a predecessor's where they are for the addresses configured. Raises OSError."""
        config = self._config
        count, tls = config.serve.processes, config.tls
        listen, control = (config.listen.host, config.listen.port), (config.control.host, config.control.port)
        if inherit is not None:
            self._plain = sockets.inherited(taken(listen, inherit.listen, inherit.plain))
            self._control_socks = sockets.inherited(taken(control, inherit.control_listen, inherit.control))
            if tls is not None:
                self._secure = sockets.inherited(taken((tls.listen.host, tls.listen.port), inherit.tls_listen, inherit.secure))
        self._plain = sockets.grown(self._plain, count) or sockets.bind(*listen, count)
        self._control_socks = self._control_socks or sockets.bind(*control, 1)
        if tls is not None:
            self._secure = sockets.grown(self._secure, count) or sockets.bind(tls.listen.host, tls.listen.port, count)

    async def _publish(self) -> None:
        await self._servers.publish()

    async def _gather(self) -> None:
        await self._servers.gather()

    async def _purge(self, purge: Purge) -> int:
        return await self._servers.purge(purge)

    def _status_parts(self) -> dict[str, Mapping[str, object]]:
        return {**self._board.snapshot(time.monotonic()).parts(), **self._servers.status_parts()}

    async def _ready(self, key: str) -> None:
        try:
            await self._control.ensure(key)
        except (BundleError, StateError, OSError) as error:
            _log.error("the version %s cannot run: %s", key, error)
            raise GuestFailed(Outcome(End.UNKNOWN_GENERATOR, Usage(), str(error))) from error

    async def _render_metrics(self, request: web.Request) -> web.StreamResponse:
        await self._gather()
        body, content_type = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def _address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(str(host), int(port))
