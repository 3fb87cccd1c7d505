"""The path of a request in one process: log, store, origins, pipeline and listeners, joined, and ended in order.

The one process of an edge has one of these beside monitor and control API (`one_process`); each serving process has nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Coroutine, Mapping
from socket import socket
from typing import Any, Final, Protocol, TypeVar

from edgecache.generate.bridge import GeneratorSource, GuestLog, GuestRunner
from edgecache.generate.edge_calls import MAX_FETCH_BYTES, FetchThrough
from edgecache.observe.access_log import AccessLog
from edgecache.observe.figures import Clients
from edgecache.observe.otlp import Exporter
from edgecache.observe.recorder import Recorder
from edgecache.observe.tracing import Tracer
from edgecache.policy.fields import freeze
from edgecache.policy.message import Request, Response
from edgecache.processes.messages import Report
from edgecache.processes.settings import PathSettings
from edgecache.serve.accepting.certificates import Certificates
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.call import Call
from edgecache.serve.elsewhere import Elsewhere
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.purging.forgetting import Siblings
from edgecache.serve.upgrading import Upgrades
from edgecache.sites import SiteTable
from edgecache.source import Source
from edgecache.store import MemoryStore, TieredStore
from edgecache.store.disk import DiskTier
from edgecache.upstream.http1.body import BytesBody
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.tunnel import TunnelClient
from edgecache.upstream.upstreams import Upstreams
from sandbox import End, Usage

_log: Final = logging.getLogger(__name__)
_RETIRE_SECONDS: Final = 600.0
"""How long exchanges with origins that began under earlier settings may go on."""
_BACKGROUND_SECONDS: Final = 5.0
"""What background revalidations and flights without clients get, once all connections are closed."""
Calls = TypeVar("Calls")
"""The edge calls that guests' runner asks for."""


class Guests(Protocol[Calls]):
    """What runs generators for this process: the monitor beside it, or the leader's."""

    def runner(self, request_id: str) -> GuestRunner[Calls]:
        """What has the VMs, for the request with this ID."""

    def edge_calls(self, call: Call, fetch_through: FetchThrough) -> Calls:
        """What a guest may ask of the edge while it answers `call`."""

    def log_of(self, site: str, generator: str) -> GuestLog: ...

    async def ready(self, key: str) -> None:
        """Have the runner know the version with this key. Raises SourceError where it cannot."""

    def known(self, key: str) -> bool:
        """Whether `ready` has nothing to do."""


class RequestPath:
    """Make it on the loop that runs it; `start`, listen, `drain`, `close`."""

    def __init__(
        self,
        settings: PathSettings,
        table: SiteTable,
        guests: Guests[Calls],
        siblings: Siblings | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Raises OSError: the access log cannot be opened; PackagesMissing. Keys are read later, by `accept_at`."""
        self.settings = settings
        self._guests: Guests[Any] = guests
        self.log = AccessLog(settings.log, shared=settings.shared_log) if settings.log.access is not None else None
        self._logged = settings.log
        """The settings that `log` was last given."""
        traces = settings.observe.traces
        self.exporter = None if traces is None else Exporter(traces)
        tracer = None if traces is None or self.exporter is None else Tracer(traces, self.exporter, query=settings.log.query)
        self.recorder = Recorder(self.log, tracer)
        self._client = OriginClient(settings.upstream)
        self.upstreams = Upstreams(self._client)
        table.followers.append(self.upstreams.follow)
        self.upstreams.follow(table.snapshot)
        self._tunnels = TunnelClient(settings.upstream, settings.serve.max_connections, self.upstreams)
        self._upgrades = Upgrades(self._tunnels, settings.serve)
        self._retiring: set[asyncio.Task[object]] = set()
        cache = settings.cache
        self.memory = MemoryStore(
            cache.memory_bytes,
            max_variants=cache.max_variants,
            max_entry_share=cache.max_entry_share,
            admission=cache.admission,
        )
        self.disk = None if cache.disk is None else DiskTier(cache.disk, max_variants=cache.max_variants)
        self.pipeline = Pipeline(
            sites=table,
            store=self.memory if self.disk is None else TieredStore(self.memory, self.disk),
            origins=self.upstreams.of,
            generators=self._generator_source,
            observer=self.recorder,
            tracer=tracer,
            settings=settings.serve,
            upstream=settings.upstream,
            siblings=siblings,
            upgrades=self._upgrades,
            elsewhere=elsewhere,
        )
        self.certificates: Certificates | None = None
        self.plain = Listener(self.pipeline, proxies=settings.proxies)
        self.secure: Listener | None = None

    async def start(self) -> None:
        """Before anything else is asked of it. Raises OSError: the disk tier cannot be opened."""
        if self.disk is not None:
            await self.disk.start()

    async def accept_at(self, plain: Mapping[int, socket], secure: Mapping[int, socket]) -> None:
        """Accept connections at these listening sockets and at no other. Raises OSError, CertificateError."""
        self.read_keys()
        await self.plain.accept_at(plain)
        if self.secure is not None:
            await self.secure.accept_at(secure)

    def read_keys(self) -> None:
        """Read the certificates and their keys, once. Raises CertificateError."""
        if self.secure is None and self.settings.certificates:
            self.certificates = Certificates(self.settings.certificates, http2=self.settings.http2)
            self.secure = Listener(self.pipeline, self.certificates, self.settings.secure_proxies)

    def reopen(self) -> None:
        """Open the log again, after rotation, and read the certificates again, after renewal. Raises CertificateError."""
        for trust in (self._client.trust, self._tunnels.trust):
            trust.forget()
        if self.log is not None:
            self.log.reopen()
        if self.certificates is not None:
            self.certificates.reload()

    def change(self, settings: PathSettings) -> None:
        """Go on with these. Raises OSError (the log), CertificateError; what was changed before that stays changed.

        What was not is tried again at the next change, also where that brings nothing new.
        """
        before, self.settings = self.settings, settings
        self.pipeline.change(settings.serve, settings.upstream)
        self.plain.change()
        if self.secure is not None:
            self.secure.change()
        cache = settings.cache
        self.memory.change(cache.memory_bytes, max_variants=cache.max_variants, max_entry_share=cache.max_entry_share)
        if settings.upstream != before.upstream:
            client, self._client = self._client, OriginClient(settings.upstream)
            self.upstreams.use(self._client)
            self._retire(client.retire(_RETIRE_SECONDS))
        self._upgrades.settings = settings.serve
        if (tunnels := self._tunnels.change(settings.upstream, settings.serve.max_connections)) is not None:
            self._retire(tunnels.retire(None))
        if self.certificates is not None and settings.certificates:
            self.certificates.change(settings.certificates)
        if settings.log != self._logged:
            self._change_log(settings)
            self._logged = settings.log

    def clients(self) -> Clients:
        """Who is connected now."""
        connections = self.plain.connections + (self.secure.connections if self.secure is not None else 0)
        return Clients(connections, self._upgrades.open_by_site)

    def report(self) -> Report:
        figures, clients = self.recorder.figures, self.clients()
        return Report(
            sites=figures.sites,
            generators=figures.generators,
            durations=figures.durations,
            log_lines_dropped=self.recorder.log_lines_dropped,
            store=dataclasses.replace(self.memory.stats()),
            fast_hits=self.pipeline.fast_hits,
            connections=clients.connections,
            tunnels=dict(clients.tunnels),
            cpu_seconds=time.process_time(),
            origins=self.upstreams.figures(),
            disk=None if self.disk is None else self.disk.stats(),
            spans_sent=self.exporter.sent if self.exporter is not None else 0,
            spans_dropped=self.exporter.dropped if self.exporter is not None else 0,
        )

    async def fade(self, grace_seconds: float) -> None:
        """Stop accepting, as others go on, and answer each connection once more; no request begins after this."""
        listeners = [listener for listener in (self.plain, self.secure) if listener is not None]
        await asyncio.gather(*(listener.fade(grace_seconds) for listener in listeners))
        for listener in listeners:
            listener.cut_off()

    async def drain(self) -> None:
        """Stop accepting, and let requests in flight finish, within their bounds. Harmless on what did not start."""
        await asyncio.gather(*(listener.close() for listener in (self.plain, self.secure) if listener is not None))
        await self.pipeline.close(_BACKGROUND_SECONDS)

    async def close(self) -> None:
        """After `drain`. Origins are left, and the last lines of the log are written."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._upgrades.close()
        await self.upstreams.close()
        if self.disk is not None:
            await self.disk.close()
        await self._client.close()
        if self.log is not None and not await asyncio.to_thread(self.log.close):
            _log.warning("the access log did not take its last lines in time")
        if self.exporter is not None and not await asyncio.to_thread(self.exporter.close):
            _log.warning("the collector did not take the last traces in time")

    def _generator_source(self, call: Call) -> Source:
        """The source of one request that a generator answers."""
        guests, site, generator = self._guests, call.route.site, call.route.generator
        if generator is None:
            raise TypeError("a route without a generator")

        async def fetch_through(request: Request, body: bytes) -> tuple[Response, bytes]:
            return await self._fetch_through(call, request, body)

        def used(key: str, end: End, usage: Usage) -> None:
            call.meter.cpu_ns += usage.cpu_ns
            self.recorder.on_usage(key, end, usage)

        return GeneratorSource(
            runner=guests.runner(call.request_id),
            generator=generator,
            edge_calls=guests.edge_calls(call, fetch_through),
            log=guests.log_of(site.name, generator.name),
            client_ip=call.client_ip,
            point=random.random() * 100,  # noqa: S311 - a split of traffic, not a secret
            now=time.time,
            on_usage=used,
            ready=guests.ready,
            known=guests.known,
        )

    async def _fetch_through(self, call: Call, request: Request, body: bytes) -> tuple[Response, bytes]:
        """A guest's sub-request, answered through the cache from its site's own origins. Raises SourceError."""
        content = BytesBody(body) if body else None
        answer = await self.pipeline.fetch_through(
            call.route.site, request, content, request_id=call.request_id, trace=call.trace
        )
        response = answer.response
        fields = freeze([*response.headers.items(), *answer.extra])
        return Response(response.status, response.reason, fields), await answer.read(MAX_FETCH_BYTES)

    def _change_log(self, settings: PathSettings) -> None:
        if self.log is not None and settings.log.access is not None:
            self.log.change(settings.log)
            return
        before = self.log
        self.log = AccessLog(settings.log, shared=settings.shared_log) if settings.log.access is not None else None
        self.recorder.log = self.log
        if before is not None:
            self._retire(asyncio.to_thread(before.close))

    def _retire(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
