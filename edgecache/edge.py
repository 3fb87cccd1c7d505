"""One running edge: the place that knows every room's concrete parts, joins them, and stops them in order.

`lifetime` runs it. Requests flow through `processes.path`: in this process where it is the only one, else in serving
processes, which this one leads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from edgecache.config import Address, Config
from edgecache.control.bundles import BundleError
from edgecache.control.listener import check_bind
from edgecache.control.service import Control
from edgecache.control.state import StateError
from edgecache.generate.edge_calls import FetchThrough, GeneratorEdgeCalls
from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.status import StatusBoard
from edgecache.policy.purging import Purge
from edgecache.processes import sockets
from edgecache.processes.fleet import Fleet
from edgecache.processes.guests import GuestHost
from edgecache.processes.path import RequestPath
from edgecache.processes.reload import reloaded
from edgecache.processes.settings import part, whole
from edgecache.processes.takeover import Inherit, Predecessor, taken
from edgecache.serve.call import Call
from edgecache.serve.certificates import CertificateError
from edgecache.sites import SiteTable
from edgecache.source import Culprit, Source, SourceError
from edgecache.yamlform import FormError
from sandbox import End, GuestFailed, Monitor, Outcome, Usage

_log: Final = logging.getLogger(__name__)
_FADE_SECONDS: Final = 2.0
"""For clients to ask once more on the connections that they have, and hear that these end."""


class Edge:
    """Make it on the loop that runs it; `start`, then `close`."""

    def __init__(self, config: Config) -> None:
        """Raises OSError: the access log cannot be opened; CertificateError; PackagesMissing: traces cannot be sent."""
        self._config = config
        self._monitor = Monitor(config.sandbox)
        table = SiteTable()
        self._control = Control(
            config.control,
            table=table,
            sandbox=self._monitor,
            purge=self._purge,
            config_sites=config.sites,
            config_clusters=config.clusters,
            status_parts=self._status_parts,
            metrics=self._render_metrics,
            published=self._publish,
            before_status=self._gather,
        )
        self._path: RequestPath | None = None
        self._fleet: Fleet | None = None
        self._plain: tuple[socket.socket, ...] = ()
        self._secure: tuple[socket.socket, ...] = ()
        self._control_socks: tuple[socket.socket, ...] = ()
        count = config.serve.processes
        if count == 1:
            self._path = path = RequestPath(whole(config), table, self._generator)
            sources = Sources(
                recorder=path.recorder,
                store=path.memory.stats,
                disk=None if path.disk is None else path.disk.stats,
                monitor=self._monitor.status,
                fast_hits=lambda: path.pipeline.fast_hits,
                clients=path.clients,
                origins=path.upstreams.figures,
                traces=path.exporter,
            )
        else:
            host = GuestHost(self._monitor, self._control.values, self._control.logs, self._ready_for_guest)
            self._fleet = Fleet(count, part(config), table, host)
            reports = self._fleet.reports
            sources = Sources(
                recorder=reports,
                store=reports.store,
                disk=None if config.cache.disk is None else reports.disk,
                monitor=self._monitor.status,
                fast_hits=reports.fast_hits,
                clients=reports.clients,
                processes=self._fleet.states,
                origins=reports.origins,
                traces=None if config.observe.traces is None else reports.traces,
            )
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
        if self._fleet is not None:
            await self._fleet.start(self._plain, self._secure)
        elif self._path is not None:
            await self._path.start()
            await self._path.accept_at(dict(enumerate(self._plain)), dict(enumerate(self._secure)))
        if self._secure:
            self.secure = _address(self._secure[0])
        if predecessor is not None:
            await predecessor.fade()
        await self._control.listen(self._control_socks)
        return _address(self._plain[0]), Address(*self._control.address)

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
        if self._path is not None:
            await self._path.fade(_FADE_SECONDS)
        if self._fleet is not None:
            await self._fleet.fade(_FADE_SECONDS)

    async def reload(self, read: Callable[[], Config] | None) -> None:
        """Open the log and read the certificates again; then the configuration, where `read` does that.

        What is wrong is said, and what was in force stays.
        """
        await self._reopen()
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
        failures: tuple[str, ...] = ()
        try:
            if self._path is not None:
                self._path.change(whole(config))
        except (CertificateError, OSError) as error:
            failures = (str(error),)
        if self._fleet is not None:
            failures = await self._fleet.apply(part(config))
        try:
            await self._control.redeclare(config.sites, config.clusters)
        except StateError as error:
            failures = (*failures, f"sites and clusters stay as they were: {error}")
        for failure in failures:
            _log.error("the configuration is in force but for this: %s", failure)
        if not failures:
            print(f"edgecache: the configuration {config.source} is in force", flush=True)

    async def _reopen(self) -> None:
        try:
            if self._path is not None:
                self._path.reopen()
            elif self._fleet is not None:
                for failure in await self._fleet.reopen():
                    _log.error("the certificates in use stay: %s", failure)
        except CertificateError as error:
            _log.error("the certificates in use stay: %s", error)

    async def close(self) -> None:
        """Let requests in flight finish, within their bounds, then end everything. Harmless on what did not start."""
        sockets.close_all((*self._plain, *self._secure))
        if self._path is not None:
            await self._path.drain()
        if self._fleet is not None:
            await self._fleet.close()
        await self._control.close()
        sockets.close_all(self._control_socks)
        await self._monitor.close()
        if self._path is not None:
            await self._path.close()

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
        if self._fleet is not None:
            await self._fleet.publish()

    async def _gather(self) -> None:
        if self._fleet is not None:
            await self._fleet.gather()

    async def _purge(self, purge: Purge) -> int:
        if self._fleet is not None:
            return await self._fleet.purge(purge)
        return 0 if self._path is None else await self._path.pipeline.purge(purge)

    def _status_parts(self) -> dict[str, dict[str, object]]:
        parts = self._board.snapshot(time.monotonic()).parts()
        return parts if self._fleet is None else {**parts, "processes": self._fleet.part()}

    def _generator(self, call: Call) -> Source:
        """The source of one request that a generator answers, in the one process of this edge."""
        if self._path is None:
            raise TypeError("a request in a process that does not serve")
        control = self._control
        return self._path.generator_source(
            call,
            runner=self._monitor,
            edge_calls=self._edge_calls,
            log_of=control.logs.of,
            ready=self._ready,
            known=control.knows,
        )

    def _edge_calls(self, call: Call, fetch_through: FetchThrough) -> GeneratorEdgeCalls:
        request, route = call.request, call.route
        return GeneratorEdgeCalls(
            scheme=request.scheme,
            authority=request.authority,
            fetch_through=fetch_through,
            site=route.site.name,
            generator=route.generator.name if route.generator else "",
            store=self._control.values,
        )

    async def _ready(self, key: str) -> None:
        try:
            await self._ready_for_guest(key)
        except GuestFailed as failed:
            raise SourceError(Culprit.GENERATOR, End.UNKNOWN_GENERATOR, failed.outcome.detail, status=503) from failed

    async def _ready_for_guest(self, key: str) -> None:
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
