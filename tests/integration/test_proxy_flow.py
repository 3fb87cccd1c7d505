"""Bodies in both directions, and what happens when one side stops, lies, breaks off or goes away."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web

from edgecache.policy.dates import format_date
from edgecache.policy.fields import freeze
from edgecache.policy.message import Request, Response
from edgecache.policy.rule import CacheRule
from edgecache.serve.settings import ServeSettings
from edgecache.sites import ActiveVersion, GeneratorRoutes, OnError
from edgecache.source import Body, Culprit, Interim, Reply, SourceError
from edgecache.upstream.http1.body import EmptyBody
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import Saying, edge_for, origin_of, plain, raw_origin, read_head, until

BIG = 256 << 20
GROWTH = 96 << 20
"""Edge, origin and client live in one process; each holds a few hundred KiB of a body on its way."""


def rss() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def pieces(total: int) -> AsyncIterator[bytes]:
    chunk = bytes(256 << 10)
    for _ in range(total // len(chunk)):
        yield chunk


@pytest.mark.parametrize("known_length", [True, False])
async def test_a_large_response_passes_in_constant_memory(known_length: bool) -> None:
    async def big(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=60"})
        if known_length:
            response.content_length = BIG
        await response.prepare(request)
        async for piece in pieces(BIG):
            await response.write(piece)
        return response

    rule = CacheRule(max_object_bytes=8 << 20)
    async with origin_of(big) as origin, edge_for(origin.url, rule=rule) as edge:
        before, peak, size = rss(), 0, 0
        async with edge.client.get(edge.url("/big")) as response:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                peak = max(peak, rss())
        assert size == BIG
        assert peak - before < GROWTH
        assert edge.store.stats().entries == 0


@pytest.mark.parametrize("known_length", [True, False])
async def test_a_large_request_passes_in_constant_memory(known_length: bool) -> None:
    peak = 0

    async def sink(request: web.BaseRequest) -> web.Response:
        nonlocal peak
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            peak = max(peak, rss())
        return web.Response(text=str(size))

    async with origin_of(sink) as origin, edge_for(origin.url) as edge:
        before = rss()
        headers = {"Content-Length": str(BIG)} if known_length else {}
        got = await edge.fetch("/up", "POST", data=pieces(BIG), headers=headers)
        assert got.body == str(BIG).encode()
        assert peak - before < GROWTH
        assert ("Content-Length" in origin.seen[0].headers) is known_length


async def test_both_directions_at_once() -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response

    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        got = await edge.fetch("/echo", "POST", data=pieces(16 << 20))
        assert len(got.body) == 16 << 20


async def test_a_client_that_stops_reading_holds_the_origin_back() -> None:
    written = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        await response.prepare(request)
        while written < 1 << 30:
            await response.write(bytes(64 << 10))
            written += 64 << 10
        return response

    settings = ServeSettings(write_timeout=0.5)
    async with origin_of(endless) as origin, edge_for(origin.url, settings=settings) as edge:
        _, writer = await edge.connect()
        writer.transport.pause_reading()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(edge.records) == 1)
        assert written < 64 << 20
        assert edge.records[0].truncated
        writer.close()


TRUNCATED = {
    "short of Content-Length": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nonly this",
    "chunk cut": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this",
    "no last chunk": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\nZZ\r\n",
}


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("cacheable", [True, False])
async def test_a_truncated_response_never_looks_complete(name: str, version: str, cacheable: bool) -> None:
    data = TRUNCATED[name] if cacheable else TRUNCATED[name].replace(b"max-age=60", b"no-store")

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        head, end, body = data.partition(b"\r\n\r\n")
        writer.write(head + end)
        await asyncio.sleep(0.02)
        writer.write(body)
        await writer.drain()

    async with raw_origin(broken) as url, edge_for(url) as edge:
        reader, writer = await edge.connect()
        writer.write(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        try:
            got = await asyncio.wait_for(reader.read(-1), 10)
        except ConnectionResetError:
            got = b""
        writer.close()
        if version == "1.0" and b"Content-Length" not in got:
            # Only the reset itself tells an HTTP/1.0 client.
            assert got == b""
        assert b"\r\n0\r\n\r\n" not in got
        assert not got.endswith(b"only this" + b"x" * 91)
        await until(lambda: len(edge.records) == 1)
        assert edge.records[0].truncated
        assert edge.records[0].reason == "reset"
        assert edge.store.stats().entries == 0


BROKEN_HEADS = {
    "nothing": b"",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
    "huge field": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "status 99": b"HTTP/1.1 099 Odd\r\n\r\n",
    "status 700": b"HTTP/1.1 700 Odd\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_HEADS)
async def test_a_broken_head_is_a_bad_gateway(name: str) -> None:
    async with raw_origin(Saying(BROKEN_HEADS[name])) as url, edge_for(url) as edge:
        got = await edge.fetch("/")
        assert got.status == 502
        assert edge.records[0].reason in ("reset", "protocol")
        assert (await edge.fetch("/")).status == 502, "the edge goes on serving"


async def test_slow_origins_time_out_before_and_within_the_body() -> None:
    upstream = UpstreamSettings(first_byte_timeout=0.2, connect_timeout=0.2, between_bytes_timeout=0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if b"/body" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await asyncio.Event().wait()

    async with raw_origin(silent) as url, edge_for(url, upstream=upstream) as edge:
        got = await edge.fetch("/head")
        assert got.status == 504
        with pytest.raises(aiohttp.ClientPayloadError):
            await edge.fetch("/body")
        assert [r.reason for r in edge.records] == ["timeout", "timeout"]


async def test_a_truncated_request_body_does_not_look_complete_to_the_origin() -> None:
    ended: list[bool] = []

    async def sink(request: web.BaseRequest) -> web.Response:
        try:
            await request.read()
        except (asyncio.CancelledError, Exception):
            ended.append(False)
            raise
        ended.append(True)
        return web.Response()

    for framing in (b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        ended.clear()
        async with origin_of(sink) as origin, edge_for(origin.url) as edge:
            _, writer = await edge.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
            await until(lambda: origin.count == 1)
            writer.close()
            await until(lambda: len(ended) == 1)
            assert ended == [False]


async def test_drain_finishes_requests_in_flight_and_closes_idle_connections() -> None:
    gate = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        if request.path == "/slow":
            await gate.wait()
        return web.Response(body=b"done")

    async with origin_of(slow) as origin, edge_for(origin.url) as edge:
        idle_reader, idle_writer = await edge.connect()
        idle_writer.write(b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in await idle_reader.readuntil(b"\r\n\r\n")
        await idle_reader.readexactly(4)
        busy_reader, busy_writer = await edge.connect()
        busy_writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: origin.count == 2)
        closing = asyncio.create_task(edge.listener.close())
        assert await asyncio.wait_for(idle_reader.read(), 5) == b""
        with pytest.raises(OSError):
            await edge.connect()
        assert not closing.done()
        gate.set()
        answer = await asyncio.wait_for(busy_reader.read(), 5)
        assert answer.endswith(b"done")
        assert b"Connection: close" in answer
        await asyncio.wait_for(closing, 5)
        for writer in (idle_writer, busy_writer):
            writer.close()


async def test_drain_gives_up_after_its_timeout() -> None:
    async def never(_request: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    settings = ServeSettings(drain_timeout=0.2)
    async with origin_of(never) as origin, edge_for(origin.url, settings=settings) as edge:
        reader, writer = await edge.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: origin.count == 1)
        await asyncio.wait_for(edge.listener.close(), 5)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


class Generator:
    """A source that fails when told to."""

    def __init__(self) -> None:
        self.failing = False
        self.count = 0

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> None:
        return None

    async def fetch(self, request: Request, body: Body | None, request_id: str) -> Reply:
        self.count += 1
        if body is not None:
            async for _ in body:
                pass
        if self.failing:
            raise SourceError(Culprit.GENERATOR, "cpu-limit", status=503)
        fields = freeze([("Cache-Control", "max-age=10"), ("Content-Length", "0")])
        return Reply(Response(200, "OK", fields), EmptyBody(), "cold")


def routes(*on_error: OnError) -> tuple[GeneratorRoutes, ...]:
    active = (ActiveVersion(1, 100, "k"),)
    return (GeneratorRoutes(name="gen", routes=("/gen/*",), active=active, rule=CacheRule(), on_error=on_error),)


async def test_a_failed_generator_falls_back_in_the_route_s_order() -> None:
    generator = Generator()
    async with origin_of(plain(b"origin", Cache_Control="no-store")) as origin:
        for order, first, later in (
            ((OnError.STALE, OnError.ORIGIN, OnError.ERROR), b"origin", b""),
            ((OnError.ORIGIN, OnError.STALE), b"origin", b"origin"),
            ((OnError.STALE, OnError.ERROR), None, b""),
            ((OnError.ERROR,), None, None),
        ):
            generator.failing = False
            async with edge_for(origin.url, generators={"gen": generator}, routes=routes(*order)) as edge:
                got = await edge.fetch("/gen/x")
                assert (got.status, got.body, edge.records[-1].generator) == (200, b"", "gen")
                edge.clock.advance(100)
                generator.failing = True
                got = await edge.fetch("/gen/x")
                assert (got.body if later is not None else None) == later
                assert got.status == (503 if later is None else 200)
                if later is None:
                    assert edge.records[-1].reason == "cpu-limit"
                got = await edge.fetch("/gen/new")
                assert got.status == (503 if first is None else 200)
                if first is not None:
                    assert got.body == first
                    assert "generator-cpu-limit" in got.cache
                got = await edge.fetch("/gen/post", "POST", data=b"body")
                assert got.status == (503 if first is None else 200)


@pytest.mark.parametrize(
    "fields",
    [
        {"Cache_Control": "max-age=3600"},
        {"Cache_Control": "no-store", "CDN_Cache_Control": "max-age=3600"},
        {"Expires": "tomorrow"},
    ],
)
async def test_what_an_origin_says_in_a_generators_place_does_not_outlast_the_failure(fields: dict[str, str]) -> None:
    """Else who can make it fail once has the origin's page shown for as long as the origin likes."""
    generator = Generator()
    fields = {name: format_date(time.time() + 86_400) if value == "tomorrow" else value for name, value in fields.items()}
    async with (
        origin_of(plain(b"origin", **fields)) as origin,
        edge_for(origin.url, generators={"gen": generator}, routes=routes(OnError.STALE, OnError.ORIGIN)) as edge,
    ):
        generator.failing = True
        first = await edge.fetch("/gen/x")
        assert first.body == b"origin"
        assert first.headers.get("Cache-Control") == "max-age=10"
        assert "Expires" not in first.headers
        assert "hit" in (await edge.fetch("/gen/x")).cache, "a crowd is kept from the origin all the same"
        generator.failing = False
        edge.clock.advance(11)
        assert (await edge.fetch("/gen/x")).body == b""


async def test_a_sub_request_is_bounded_whether_its_answer_is_stored_or_not() -> None:
    """What is stored is handed over in one piece: a guest would have the loop copy it whole."""
    async with origin_of(plain(b"x" * 100_000, Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        site = edge.sites.snapshot.sites[0]
        request = Request("GET", "http", "a", "/big", freeze([("Host", "a")]))
        for limit in (99_999, 100_000, 99_999):
            answer = await edge.pipeline.fetch_through(site, request)
            if limit < 100_000:
                with pytest.raises(SourceError, match="too-large"):
                    await answer.read(limit)
            else:
                assert len(await answer.read(limit)) == limit
        assert edge.store.stats().entries == 1


async def test_an_idle_connection_is_ended_before_its_origin_ends_it() -> None:
    ended = asyncio.Event()

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok")
        assert await reader.read(1) == b""
        ended.set()

    async with raw_origin(origin) as url, edge_for(url) as edge:
        assert (await edge.fetch("/a")).body == b"ok"
        async with asyncio.timeout(10):
            await ended.wait()
