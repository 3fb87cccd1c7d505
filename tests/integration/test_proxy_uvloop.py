"""The same edge on uvloop, whose transports and sockets are not asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from edgecache.serve.settings import ServeSettings
from tests.integration.h2_support import secure_edge
from tests.integration.proxy_support import edge_for, origin_of, plain, raw_origin, read_head, until

uvloop = pytest.importorskip("uvloop")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())  # type: ignore[arg-type]


def test_hits_and_pipelining() -> None:
    async def scenario() -> None:
        async with origin_of(plain(b"page", Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
            await edge.fetch("/a", headers={"Host": "a"})
            one = b"GET /a HTTP/1.1\r\nHost: a\r\n"
            answer = await edge.raw((one + b"\r\n") * 20 + one + b"Connection: close\r\n\r\n")
            assert answer.count(b"edgecache; hit; ttl=60") == 21
            assert origin.count == 1
            assert (await edge.fetch("/up", "POST", data=bytes(1 << 20))).status == 200

    run(scenario)


def test_a_truncated_body_resets_an_http_10_client() -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with raw_origin(broken) as url, edge_for(url) as edge:
            reader, writer = await edge.connect()
            writer.write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(-1), 10)

    run(scenario)


def test_back_pressure_disconnect_and_drain() -> None:
    async def scenario() -> None:
        written = 0
        ended = asyncio.Event()

        async def endless(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal written
            response = web.StreamResponse(headers={"Cache-Control": "no-store"})
            await response.prepare(request)
            try:
                while True:
                    await response.write(bytes(64 << 10))
                    written += 64 << 10
            finally:
                ended.set()

        settings = ServeSettings(write_timeout=0.5, drain_timeout=1)
        async with origin_of(endless) as origin, edge_for(origin.url, settings=settings) as edge:
            _, writer = await edge.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.wait_for(ended.wait(), 10)
            await until(lambda: len(edge.records) == 1)
            assert written < 64 << 20

    run(scenario)


def test_http_2(tmp_path: Path) -> None:
    async def scenario() -> None:
        body = bytes(range(256)) * 8192
        async with origin_of(plain(body, Cache_Control="max-age=60")) as origin, secure_edge(tmp_path, origin.url) as serving:
            client = await serving.connect()
            got = await asyncio.gather(*(client.fetch("/a") for _ in range(20)))
            assert {bytes(exchange.body) for exchange in got} == {body}
            assert origin.count == 1
            assert (await client.fetch("/up", "POST", body=bytes(1 << 20))).status == 200
            reset = client.begin(client.head(path="/a"))
            client.h2.reset_stream(reset.stream_id)
            closing = asyncio.create_task(serving.listener.close())
            assert await client.ended() == 0
            await closing

    run(scenario)
