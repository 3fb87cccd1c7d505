"""One running edge: the place that knows every room's concrete parts, joins them, and stops them in order.

`cli.serve` calls `run`. Requests flow through `serve.pipeline`; of this module they meet only the making of a generator's source.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from contextlib import suppress
from typing import Final

from aiohttp import web

from edgecache.config import Address, Config
from edgecache.control.bundles import BundleError
from edgecache.control.service import Control
from edgecache.control.state import StateError
from edgecache.generate.bridge import GeneratorSource
from edgecache.generate.edge_calls import MAX_FETCH_BYTES, GeneratorEdgeCalls
from edgecache.observe.access_log import AccessLog
from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.recorder import Recorder
from edgecache.observe.status import StatusBoard
from edgecache.policy.fields import freeze
from edgecache.policy.message import Request, Response
from edgecache.serve.certificates import CertificateError, Certificates
from edgecache.serve.fetching import Call
from edgecache.serve.listener import Listener
from edgecache.serve.pipeline import Pipeline
from edgecache.sites import SiteTable
from edgecache.source import Culprit, Source, SourceError
from edgecache.store import MemoryStore, Store, TieredStore
from edgecache.store.disk import DiskTier
from edgecache.upstream.body import BytesBody
from edgecache.upstream.origin import OriginClient
from sandbox import End, Monitor, Usage

_log: Final = logging.getLogger(__name__)
_SWITCH_SECONDS: Final = 0.0005
"""How long the access log's thread may keep the event loop from running; Python's default of 5 ms shows in p99 of hits."""
_BACKGROUND_SECONDS: Final = 5.0
"""For background revalidations and flights without clients, once all connections are closed."""
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Edge:
    """Make it on the loop that runs it; `start`, then `close`."""

    def __init__(self, config: Config) -> None:
        """Raises OSError: the access log cannot be opened."""
        self._config = config
        self._log = AccessLog(config.log) if config.log.access is not None else None
        self._recorder = Recorder(self._log)
        self._monitor = Monitor(config.sandbox)
        self._client = OriginClient(config.upstream)
        table = SiteTable()
        cache = config.cache
        memory = MemoryStore(
            cache.memory_bytes,
            max_variants=cache.max_variants,
            max_entry_share=cache.max_entry_share,
            admission=cache.admission,
        )
        self._disk = None if cache.disk is None else DiskTier(cache.disk, max_variants=cache.max_variants)
        store: Store = memory if self._disk is None else TieredStore(memory, self._disk)
        self._pipeline = Pipeline(
            sites=table,
            store=store,
            origins=lambda site: self._client.origins(site.origins),
            generators=self._generator,
            observer=self._recorder,
            settings=config.serve,
            upstream=config.upstream,
        )
        sources = Sources(
            recorder=self._recorder,
            store=memory.stats,
            disk=None if self._disk is None else self._disk.stats,
            monitor=self._monitor.status,
            fast_hits=lambda: self._pipeline.fast_hits,
        )
        self._metrics = Metrics(sources)
        board = StatusBoard(sources, time.monotonic())
        self._control = Control(
            config.control,
            table=table,
            sandbox=self._monitor,
            purge=self._pipeline.purge,
            config_sites=config.sites,
            config_clusters=config.clusters,
            status_parts=lambda: board.snapshot(time.monotonic()).parts(),
            metrics=self._render_metrics,
        )
        self._listener = Listener(self._pipeline)
        self._tls_listener: Listener | None = None
        self._certificates: Certificates | None = None
        self.secure: Address | None = None
        """Where it serves over TLS, once it has started."""

    async def start(self) -> tuple[Address, Address]:
        """Where it serves, and where the control API listens.

        The monitor is first: its zygote is forked before this process holds a token or a key. Raises SandboxError, BindRefused,
        StateError, CertificateError, OSError; close it also then.
        """
        await self._monitor.start()
        if self._disk is not None:
            await self._disk.start()
        await self._control.start()
        served = await self._listener.start(self._config.listen.host, self._config.listen.port)
        if (tls := self._config.tls) is not None:
            self._certificates = Certificates(tls.certificates)
            self._tls_listener = Listener(self._pipeline, self._certificates)
            self.secure = Address(*await self._tls_listener.start(tls.listen.host, tls.listen.port))
        return Address(*served), Address(*self._control.address)

    def reload(self) -> None:
        """Open the log again, after rotation, and read the certificates again, after renewal."""
        if self._log is not None:
            self._log.reopen()
        if self._certificates is not None:
            try:
                self._certificates.reload()
            except CertificateError as error:
                _log.error("the certificates in use stay: %s", error)

    async def close(self) -> None:
        """Let requests in flight finish, within their bounds, then end everything. Harmless on what did not start."""
        listeners = (self._listener, self._tls_listener)
        await asyncio.gather(*(listener.close() for listener in listeners if listener is not None))
        await self._pipeline.close(_BACKGROUND_SECONDS)
        await self._control.close()
        if self._disk is not None:
            await self._disk.close()
        await self._client.close()
        await self._monitor.close()
        if self._log is not None and not await asyncio.to_thread(self._log.close):
            _log.warning("the access log did not take its last lines in time")

    def _generator(self, call: Call) -> Source:
        """The source of one request that a generator answers."""
        site, generator = call.route.site, call.route.generator
        if generator is None:
            raise TypeError("a route without a generator")

        async def fetch_through(request: Request, body: bytes) -> tuple[Response, bytes]:
            content = BytesBody(body) if body else None
            answer = await self._pipeline.fetch_through(site, request, content, request_id=call.request_id)
            response = answer.response
            fields = freeze([*response.headers.items(), *answer.extra])
            return Response(response.status, response.reason, fields), await answer.read(MAX_FETCH_BYTES)

        def used(key: str, end: End, usage: Usage) -> None:
            call.meter.cpu_ns += usage.cpu_ns
            self._recorder.on_usage(key, end, usage)

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
            await self._control.ensure(key)
        except (BundleError, StateError, OSError) as error:
            _log.error("the version %s cannot run: %s", key, error)
            raise SourceError(Culprit.GENERATOR, End.UNKNOWN_GENERATOR, str(error), status=503) from error

    async def _render_metrics(self, request: web.Request) -> web.StreamResponse:
        body, content_type = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


async def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. A second signal does not wait for requests in flight.

    Raises what `Edge.start` raises.
    """
    level = logging.DEBUG if os.environ.get("EDGECACHE_DEBUG") else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(_SWITCH_SECONDS)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    edge = Edge(config)
    loop.add_signal_handler(signal.SIGHUP, edge.reload)
    try:
        starting = asyncio.ensure_future(edge.start())
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            served, control = starting.result()
            scheme = "http" if config.control.tls_certificate is None else "https"
            also = f" and https://{edge.secure}" if edge.secure else ""
            print(f"edgecache: serving on http://{served}{also}, control on {scheme}://{control}", flush=True)
            await stop.wait()
        starting.cancel()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
        await edge.close()
    return 0
