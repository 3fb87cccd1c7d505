"""A whole edge on a real socket in front of real origins, for the proxy's tests. The clock is the only fake."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from edgecache.observe.record import Record, Renewal, Repeated
from edgecache.policy.rule import CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.policy.upstream import DEFAULT_UPSTREAM, UpstreamRule
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.call import Call
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.settings import ServeSettings
from edgecache.serve.upgrading import Upgrades
from edgecache.sites import GeneratorRoutes, Site, SiteTable
from edgecache.source import Source
from edgecache.store import MemoryStore, Store, TieredStore
from edgecache.store.disk import DiskSettings, DiskTier
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.resolving import Lookup
from edgecache.upstream.settings import UpstreamSettings
from edgecache.upstream.tunnel import TunnelClient
from edgecache.upstream.upstreams import Upstreams

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clock:
    """Seconds since the epoch that move when told to. Starts at the real time, because origins send a real Date."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Ticks:
    """Seconds that pass when told to, for those who ask what time it is and for those who wait."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    @property
    def waiting(self) -> int:
        return sum(not future.done() for _, future in self._waiting)

    async def pause(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.now + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due, self._waiting = (
            [pair for pair in self._waiting if pair[0] <= self.now],
            [pair for pair in self._waiting if pair[0] > self.now and not pair[1].done()],
        )
        for _, future in due:
            if not future.done():
                future.set_result(None)


@dataclass
class Got:
    """A response as a client saw it."""

    status: int
    headers: aiohttp.typedefs.CIMultiDictProxy[str]
    body: bytes

    @property
    def cache(self) -> str:
        return self.headers.get("Cache-Status", "")


@dataclass
class Edge:
    """A running edge and its client."""

    address: tuple[str, int]
    pipeline: Pipeline
    store: MemoryStore
    tier: DiskTier | None
    listener: Listener
    clock: Clock
    sites: SiteTable
    client: aiohttp.ClientSession
    records: list[Record] = field(default_factory=list)
    renewals: list[tuple[str, Renewal, bool]] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    fast_hits: int = 0
    """How many of the records are the fast lane's."""
    upstreams: Upstreams = field(kw_only=True)
    ticks: Ticks = field(kw_only=True)
    """The time of pools and health checks."""

    def on_request(self, record: Record) -> None:
        self.records.append(record)

    def repeated(self, record: Record) -> Repeated:
        return _Repeated(self, record)

    def on_renewal(self, site: str, why: Renewal, *, done: bool) -> None:
        self.renewals.append((site, why, done))

    def url(self, path: str) -> URL:
        return URL(f"http://{self.address[0]}:{self.address[1]}{path}", encoded=True)

    def uri(self, path: str) -> str:
        return str(self.url(path))

    async def fetch(self, path: str, method: str = "GET", **kwargs: object) -> Got:
        async with self.client.request(method, self.url(path), allow_redirects=False, **kwargs) as response:  # type: ignore[arg-type]
            return Got(response.status, response.headers, await response.read())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        self.writers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        """Close every connection that `connect` made."""
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)

    async def raw(self, data: bytes) -> bytes:
        """Everything the edge says to `data` until it closes."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            async with asyncio.timeout(10):
                return await reader.read(-1)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@dataclass
class _Repeated:
    edge: Edge
    record: Record

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        changes = {"time": time, "request_id": request_id, "client": client, "duration": duration}
        self.edge.records.append(msgspec.structs.replace(self.record, **changes))
        self.edge.fast_hits += 1


@contextlib.asynccontextmanager
async def edge_for(
    *origins: str,
    rule: CacheRule | None = None,
    settings: ServeSettings | None = None,
    upstream: UpstreamSettings | None = None,
    capacity_bytes: int = 64 << 20,
    generators: dict[str, Source] | None = None,
    routes: tuple[GeneratorRoutes, ...] = (),
    hosts: tuple[str, ...] = ("*",),
    purge_at_once: int = 500,
    upstream_rule: UpstreamRule = DEFAULT_UPSTREAM,
    disk: DiskSettings | None = None,
    lookup: Lookup | None = None,
    upgrade: tuple[Upgradable, ...] = (),
) -> AsyncIterator[Edge]:
    """An edge for one site with these origins."""
    site = Site(
        name="site",
        hosts=hosts,
        origins=origins,
        upstream=upstream_rule,
        rule=rule or CacheRule(),
        generators=routes,
        upgrade=upgrade,
    )
    upstream = upstream or UpstreamSettings()
    clock = Clock()
    memory = MemoryStore(capacity_bytes, purge_at_once=purge_at_once)
    tier = None if disk is None else DiskTier(disk)
    store: Store = memory if tier is None else TieredStore(memory, tier)
    if tier is not None:
        await tier.start()
    ticks = Ticks()
    client = OriginClient(upstream, clock=ticks, lookup=lookup)
    upstreams = Upstreams(client, clock=ticks, pause=ticks.pause)
    table = SiteTable(followers=[upstreams.follow])
    table.replace([site])
    settings = settings or ServeSettings()
    upgrades = Upgrades(TunnelClient(upstream, 100, upstreams), settings)

    def generator_of(call: Call) -> Source:
        assert call.route.generator is not None and generators is not None
        return generators[call.route.generator.name]

    pipeline = Pipeline(
        sites=table,
        store=store,
        origins=upstreams.of,
        generators=generator_of,
        clock=clock,
        settings=settings,
        upstream=upstream,
        upgrades=upgrades,
    )
    listener = Listener(pipeline)
    address = await listener.start("127.0.0.1", 0)
    session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
    edge = Edge(address, pipeline, memory, tier, listener, clock, table, session, upstreams=upstreams, ticks=ticks)
    pipeline.observer = edge
    try:
        yield edge
    finally:
        await session.close()
        await edge.hang_up()
        await listener.close()
        await pipeline.close(0.0)
        await upstreams.close()
        if tier is not None:
            await tier.close()
        await client.close()
        await upgrades.close()


class Origin:
    """An origin made of a function, which counts and keeps what it was asked."""

    def __init__(self, answer: Handler) -> None:
        self._answer = answer
        self.url = ""
        self.seen: list[web.BaseRequest] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        return await self._answer(request)

    @property
    def count(self) -> int:
        return len(self.seen)


@contextlib.asynccontextmanager
async def origin_of(answer: Handler) -> AsyncIterator[Origin]:
    """A real aiohttp server around `answer`."""
    origin = Origin(answer)
    async with listening(web.Server(origin.handle, access_log=None, handler_cancellation=True)) as port:
        origin.url = f"http://127.0.0.1:{port}"
        yield origin


@contextlib.asynccontextmanager
async def listening(server: web.Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yields the port on loopback where `server` answers."""
    accepting = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls)
    try:
        port: int = accepting.sockets[0].getsockname()[1]
        yield port
    finally:
        accepting.close()
        await server.shutdown(0.1)
        await accepting.wait_closed()


@contextlib.asynccontextmanager
async def raw_origin(handler: RawHandler) -> AsyncIterator[str]:
    """A TCP server around `handler`, for origins that break HTTP. Yields its base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@dataclass
class Saying:
    """A handler for `raw_origin`: these bytes for every request, whatever it says; then it hangs up, unless it `stays`."""

    answer: bytes
    stays: bool = False
    heads: list[bytes] = field(default_factory=list)
    """What it was sent."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.heads.append(await read_head(reader))
            writer.write(self.answer)
            await writer.drain()
            if not self.stays:
                return


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def plain(body: bytes = b"hello", status: int = 200, **fields: str) -> Handler:
    """An origin that always answers the same; `cache_control=` becomes Cache-Control."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, status=status, headers=headers)

    return answer


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll `condition` with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def replace_rule(rule: CacheRule, **changes: object) -> CacheRule:
    return dataclasses.replace(rule, **changes)  # type: ignore[arg-type]
