"""WebSocket through the edge, on real sockets: aiohttp's client and server at the ends, raw ones where they must misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from edgecache.config import load
from edgecache.policy.fields import freeze
from edgecache.policy.message import Request, Response
from edgecache.policy.rule import CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.serve.settings import ServeSettings
from edgecache.serve.stream_tunnel import say_end
from edgecache.sites import ActiveVersion, GeneratorRoutes
from edgecache.source import Body, Interim, Reply
from edgecache.upstream.http1.body import BytesBody
from edgecache.yamlform import FormError
from tests.integration.h2_support import Authority, secure
from tests.integration.proxy_support import Edge, Origin, edge_for, origin_of, raw_origin, read_head, until

WEBSOCKET = (Upgradable.WEBSOCKET,)
HEAD = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    if "Upgrade" not in request.headers:
        return web.Response(text="plain", headers={"Cache-Control": "max-age=600"})
    socket = web.WebSocketResponse(max_msg_size=1 << 25)
    await socket.prepare(request)  # type: ignore[arg-type]
    async for message in socket:
        if message.data == "end":
            await socket.close()
        elif message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
        else:
            await socket.send_bytes(message.data)
    return socket


@contextlib.asynccontextmanager
async def chatting(
    settings: ServeSettings | None = None, upgrade: tuple[Upgradable, ...] = WEBSOCKET
) -> AsyncIterator[tuple[Edge, Origin]]:
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings, upgrade=upgrade) as edge:
        yield edge, origin


async def test_messages_pass_both_ways_and_are_counted() -> None:
    async with chatting() as (edge, origin):
        async with edge.client.ws_connect(edge.url("/chat?x=1"), headers={"X-Mine": "1"}, max_msg_size=1 << 25) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "HELLO"
            big = os.urandom(8 << 20)
            await socket.send_bytes(big)
            assert (await socket.receive(20)).data == big
            await socket.send_str("end")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        await until(lambda: len(edge.records) == 1)
        record = edge.records[0]
        assert (record.status, record.cache, record.reason, record.site) == (101, "bypass", "upgrade", "site")
        assert record.bytes_sent > 8 << 20 and record.bytes_received > 8 << 20
        seen = origin.seen[0]
        assert seen.path_qs == "/chat?x=1" and seen.headers["X-Mine"] == "1" and seen.headers["Via"] == "1.1 edgecache"
        assert seen.headers["X-Forwarded-For"] == "127.0.0.1"
        await until(lambda: edge.listener.connections == 0)


async def test_what_is_stored_does_not_answer_it_and_it_is_not_stored() -> None:
    async with chatting() as (edge, origin):
        for expected in (1, 1):
            assert (await edge.fetch("/chat")).body == b"plain"
            assert origin.count == expected
        async with edge.client.ws_connect(edge.url("/chat")) as socket:
            await socket.send_str("a")
            assert await socket.receive_str() == "A"
        assert (await edge.fetch("/chat")).body == b"plain"
        assert origin.count == 2


async def test_sites_that_do_not_allow_it_pass_an_ordinary_request() -> None:
    async with chatting(upgrade=()) as (edge, origin):
        said = await edge.raw(HEAD.replace(b"Connection: upgrade", b"Connection: upgrade, close"))
        assert said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(b"plain")
        assert "Upgrade" not in origin.seen[0].headers


ORDINARY = {
    "another protocol": HEAD.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    "two protocols": HEAD.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
    "two fields": HEAD.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: websocket"),
    "not in Connection": HEAD.replace(b"Connection: upgrade", b"X: y"),
    "another method": HEAD.replace(b"GET", b"POST"),
    "a body": HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\ndata"),
    "a length": HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
    "no key": HEAD.replace(b"Sec-WebSocket-Key", b"X-Key"),
    "a key that is none": HEAD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhl"),
    "another version": HEAD.replace(b"Version: 13", b"Version: 12"),
    "HTTP/1.0": HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("what", ORDINARY)
async def test_only_exact_requests_are_tunnels(what: str) -> None:
    async with chatting() as (edge, origin):
        head = ORDINARY[what].replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n")
        said = await edge.raw(head)
        assert said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(b"plain"), said
        assert "Upgrade" not in origin.seen[0].headers


async def test_generators_get_ordinary_requests() -> None:
    routes = (GeneratorRoutes(name="g", routes=("/chat",), active=(ActiveVersion(1, 100, "g@1"),), rule=CacheRule()),)
    made = Made()
    async with edge_for("http://127.0.0.1:1", upgrade=WEBSOCKET, routes=routes, generators={"g": made}) as edge:
        said = await edge.raw(HEAD.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        assert said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(b"made")
        assert [("Upgrade" in request.headers, "Connection" in request.headers) for request in made.seen] == [(False, False)]


class Made:
    """Stands for a generator."""

    def __init__(self) -> None:
        self.seen: list[Request] = []

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> None:
        return None

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        del body, request_id, on_interim
        self.seen.append(request)
        return Reply(Response(200, "OK", freeze((("Content-Length", "4"),))), BytesBody(b"made"))


@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"426 Upgrade Required"])
async def test_another_answer_is_an_ordinary_one_and_is_not_stored(status: bytes) -> None:
    asked = 0

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            head = await read_head(reader)
            asked += 1
            assert b"Upgrade: websocket" in head
            writer.write(b"HTTP/1.1 " + status + b"\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nno")

    async with raw_origin(origin) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        reader, writer = await edge.connect()
        for _ in range(2):
            # The connection goes on as HTTP.
            writer.write(HEAD)
            async with asyncio.timeout(10):
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 " + status) and b"fwd=bypass" in answer
                assert await reader.readexactly(2) == b"no"
        assert asked == 2


@pytest.mark.parametrize(
    "head",
    [
        SWITCHED.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        SWITCHED.replace(b"Upgrade: websocket\r\n", b""),
        SWITCHED.replace(b"Connection: Upgrade\r\n", b""),
        SWITCHED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
        SWITCHED.replace(b"\r\n\r\n", b"\r\nX: a\x01b\r\n\r\n"),
        b"",
    ],
)
async def test_an_origin_that_switches_to_something_else_is_at_fault(head: bytes) -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(head)

    async with raw_origin(origin) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        said = await edge.raw(HEAD.replace(b"Connection: upgrade", b"Connection: upgrade, close"))
        assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_a_101_that_was_not_asked_for_is_at_fault() -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(SWITCHED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with raw_origin(origin) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        said = await edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_bytes_that_come_with_the_heads_are_the_tunnel_s_and_a_closed_direction_leaves_the_other() -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(SWITCHED + b"first from origin\n")
        said = await reader.read(-1)
        writer.write(b"heard " + said)
        await writer.drain()
        writer.close()

    async with raw_origin(origin) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        reader, writer = await edge.connect()
        writer.write(HEAD + b"first from client\n")
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            lines = head.decode().split("\r\n")
            assert "Upgrade: websocket" in lines and "Connection: Upgrade" in lines
            assert b"Content-Length" not in head and b"Transfer-Encoding" not in head
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            writer.write_eof()
            assert await reader.read(-1) == b"first from origin\nheard first from client\nGET / HTTP/1.1\r\n\r\n"
        await until(lambda: len(edge.records) == 1)
        assert edge.records[0].bytes_received == 36 and edge.records[0].bytes_sent == 60


async def test_a_side_that_does_not_read_holds_the_other_back() -> None:
    written = 0

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_head(reader)
        writer.write(SWITCHED)
        while True:
            writer.write(bytes(1 << 16))
            written += 1 << 16
            await writer.drain()

    async with raw_origin(origin) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        reader, writer = await edge.connect()
        writer.write(HEAD)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        before = -1
        async with asyncio.timeout(20):
            while before != written:
                before = written
                await asyncio.sleep(0.3)
        assert written < 64 << 20
        writer.transport.abort()
        await until(lambda: len(edge.records) == 1)


async def test_tunnels_end_when_nothing_moves_when_too_many_are_open_and_on_draining() -> None:
    settings = ServeSettings(tunnel_idle_timeout=0.4, tunnels_per_site=2)
    async with chatting(settings) as (edge, _origin):
        first = await edge.client.ws_connect(edge.url("/a"))
        second = await edge.client.ws_connect(edge.url("/b"))
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await edge.client.ws_connect(edge.url("/c"))
        assert caught.value.status == 503
        assert (await first.receive(10)).type is aiohttp.WSMsgType.CLOSED
        assert (await second.receive(10)).type is aiohttp.WSMsgType.CLOSED
        await until(lambda: [record.status for record in edge.records] == [503, 101, 101])
        await edge.client.ws_connect(edge.url("/d"))
    async with chatting(ServeSettings(drain_timeout=30)) as (edge, _origin):
        third = await edge.client.ws_connect(edge.url("/e"))
        async with asyncio.timeout(10):
            await edge.listener.close()
        assert (await third.receive(10)).type is aiohttp.WSMsgType.CLOSED
        assert [record.status for record in edge.records] == [101]


async def test_a_client_that_vanishes_frees_the_origin() -> None:
    gone = asyncio.Event()

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(SWITCHED)
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        gone.set()

    async with raw_origin(origin) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        reader, writer = await edge.connect()
        writer.write(HEAD)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        async with asyncio.timeout(10):
            await gone.wait()
        await until(lambda: edge.listener.connections == 0)


async def tls_scenario(directory: Path) -> None:
    async with chatting() as (edge, _origin), secure(edge, Authority(directory)) as serving:
        url = f"https://{serving.address[0]}:{serving.address[1]}/chat"
        context = serving.authority.client("http/1.1")
        async with edge.client.ws_connect(url, ssl=context, server_hostname="shop.test") as socket:  # type: ignore[call-arg]
            big = os.urandom(1 << 20)
            await socket.send_bytes(big)
            assert (await socket.receive(20)).data == big
            await socket.send_str("end")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        await until(lambda: len(edge.records) == 1)
        assert edge.records[0].status == 101


async def test_over_tls(tmp_path: Path) -> None:
    await tls_scenario(tmp_path)


def test_on_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(tls_scenario(tmp_path))
        runner.run(test_messages_pass_both_ways_and_are_counted())
        runner.run(test_bytes_that_come_with_the_heads_are_the_tunnel_s_and_a_closed_direction_leaves_the_other())
        runner.run(test_tunnels_end_when_nothing_moves_when_too_many_are_open_and_on_draining())


def test_the_configuration_allows_it(tmp_path: Path) -> None:
    written = tmp_path / "edge.yaml"
    site = "sites: [{name: a, hosts: [a.test], origins: ['http://127.0.0.1:1'], upgrade: %s}]\n"
    written.write_text(site % "[websocket]")
    assert load(written).sites[0].upgrade == WEBSOCKET
    written.write_text(site % "[]")
    assert load(written).sites[0].upgrade == ()
    written.write_text(site % "[h2c]")
    with pytest.raises(FormError, match="websocket"):
        load(written)


async def test_a_client_that_reset_its_connection_does_not_cost_the_origin_what_it_had_said() -> None:
    """The origin ends its side while the edge has not noticed: it holds more than the origin takes, so it does not read."""
    got, resume = bytearray(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(SWITCHED)
        await writer.drain()
        await resume.wait()
        writer.write_eof()
        await asyncio.sleep(0.1)
        while data := await reader.read(1 << 16):
            got.extend(data)

    async with raw_origin(slow) as url, edge_for(url, upgrade=WEBSOCKET) as edge:
        reader, writer = await edge.connect()
        writer.write(HEAD)
        assert (await read_head(reader)).startswith(b"HTTP/1.1 101")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    writer.write(bytes(1 << 16))
                    await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await asyncio.sleep(0.05)
        resume.set()
        await until(lambda: len(edge.records) == 1 and len(got) == edge.records[0].bytes_received)
        await until(lambda: edge.listener.connections == 0)


async def test_a_stream_that_ends_when_its_origin_has_just_reset_ends_quietly() -> None:
    here, there = socket.socket(), socket.socket()
    there.bind(("127.0.0.1", 0))
    there.listen()
    here.connect(there.getsockname())
    origin, _ = there.accept()
    loop = asyncio.get_running_loop()
    transport, _protocol = await loop.create_connection(asyncio.Protocol, sock=here)
    origin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    origin.close()
    say_end(transport)
    await asyncio.sleep(0)
    assert transport.is_closing()
    there.close()
    await asyncio.sleep(0)
