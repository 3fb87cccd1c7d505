"""One running edge: the place that knows every room's concrete parts, joins them, and stops them in order.

`cli.serve` calls `run`. Requests flow through `processes.path`: in this process where it is the only one, else in serving
processes, which this one leads.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from edgecache.config import Address, Config
from edgecache.control.bundles import BundleError
from edgecache.control.listener import check_bind
from edgecache.control.service import Control
from edgecache.control.state import StateError
from edgecache.generate.bridge import GeneratorSource
from edgecache.generate.edge_calls import MAX_FETCH_BYTES, GeneratorEdgeCalls
from edgecache.heap import Heap
from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.status import StatusBoard
from edgecache.policy.message import Request, Response
from edgecache.policy.purging import Purge
from edgecache.processes import sockets
from edgecache.processes.entry import prepare
from edgecache.processes.fleet import Fleet
from edgecache.processes.guests import GuestHost
from edgecache.processes.path import RequestPath
from edgecache.processes.reload import reloaded
from edgecache.processes.settings import part, whole
from edgecache.serve.certificates import CertificateError
from edgecache.serve.fetching import Call
from edgecache.sites import SiteTable
from edgecache.source import Culprit, Source, SourceError
from edgecache.yamlform import FormError
from sandbox import End, GuestFailed, Monitor, Outcome, Usage

_log: Final = logging.getLogger(__name__)
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


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
        count = config.serve.processes
        if count == 1:
            self._path = path = RequestPath(whole(config), table, self._generator)
            sources = Sources(
                recorder=path.recorder,
                store=path.memory.stats,
                disk=None if path.disk is None else path.disk.stats,
                monitor=self._monitor.status,
                fast_hits=lambda: path.pipeline.fast_hits,
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
                processes=self._fleet.states,
                origins=reports.origins,
                traces=None if config.observe.traces is None else reports.traces,
            )
        self._metrics = Metrics(sources)
        self._board = StatusBoard(sources, time.monotonic())
        self.secure: Address | None = None
        """Where it serves over TLS, once it has started."""

    async def start(self) -> tuple[Address, Address]:
        """Where it serves, and where the control API listens.

        The monitor is first: its zygote is forked before this process holds a token or a key. Raises SandboxError, BindRefused,
        StateError, StartFailed, OSError; close it also then.
        """
        check_bind(self._config.control)
        await self._monitor.start()
        await self._control.load()
        served = await (self._start_fleet(self._fleet) if self._fleet is not None else self._start_path())
        await self._control.listen()
        return served, Address(*self._control.address)

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
        if self._path is not None:
            await self._path.drain()
        if self._fleet is not None:
            await self._fleet.close()
        sockets.close_all((*self._plain, *self._secure))
        await self._control.close()
        await self._monitor.close()
        if self._path is not None:
            await self._path.close()

    async def _start_path(self) -> Address:
        if self._path is None:
            raise TypeError("an edge without serving processes has the path of a request itself")
        config, path = self._config, self._path
        await path.start()
        served = Address(*await path.plain.start(config.listen.host, config.listen.port))
        if config.tls is not None and path.secure is not None:
            self.secure = Address(*await path.secure.start(config.tls.listen.host, config.tls.listen.port))
        return served

    async def _start_fleet(self, fleet: Fleet) -> Address:
        config = self._config
        count = config.serve.processes
        self._plain = sockets.bind(config.listen.host, config.listen.port, count)
        if config.tls is not None:
            self._secure = sockets.bind(config.tls.listen.host, config.tls.listen.port, count)
        await fleet.start(self._plain, self._secure)
        if self._secure:
            self.secure = _address(self._secure[0])
        return _address(self._plain[0])

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
        site, generator, path = call.route.site, call.route.generator, self._path
        if generator is None or path is None:
            raise TypeError("a route without a generator, or in a process that does not serve")

        async def fetch_through(request: Request, body: bytes) -> tuple[Response, bytes]:
            return await path.fetch_through(call, request, body, MAX_FETCH_BYTES)

        def used(key: str, end: End, usage: Usage) -> None:
            call.meter.cpu_ns += usage.cpu_ns
            path.recorder.on_usage(key, end, usage)

        return GeneratorSource(
            runner=self._monitor,
            generator=generator,
            edge_calls=GeneratorEdgeCalls(
                site=site.name,
                generator=generator.name,
                scheme=call.request.scheme,
                authority=call.request.authority,
                store=self._control.values,
                fetch_through=fetch_through,
            ),
            log=self._control.logs.of(site.name, generator.name),
            client_ip=call.client_ip,
            point=random.random() * 100,  # noqa: S311 - a split of traffic, not a secret
            now=time.time,
            on_usage=used,
            ready=self._ready,
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


async def _reload(edge: Edge, read: Callable[[], Config] | None, again: asyncio.Event) -> None:
    """One reload after another, for ever."""
    while True:
        await again.wait()
        again.clear()
        try:
            await edge.reload(read)
        except Exception:
            _log.exception("the configuration was not read again")


async def run(config: Config, read: Callable[[], Config] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. A second signal does not wait for requests in flight.

    On SIGHUP `read` gives the configuration as it is then; it raises FormError. Raises what `Edge.start` raises.
    """
    prepare()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    edge = Edge(config)
    again = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, again.set)
    try:
        starting = asyncio.ensure_future(edge.start())
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            served, control = starting.result()
            scheme = "http" if config.control.tls_certificate is None else "https"
            also = f" and https://{edge.secure}" if edge.secure else ""
            keeping = asyncio.ensure_future(Heap().keep())
            print(f"edgecache: serving on http://{served}{also}, control on {scheme}://{control}", flush=True)
            reloading = loop.create_task(_reload(edge, read, again))
            await stop.wait()
            for task in (reloading, keeping):
                task.cancel()
            await asyncio.gather(reloading, keeping, return_exceptions=True)
        starting.cancel()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
        await edge.close()
    return 0
