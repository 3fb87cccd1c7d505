"""Clients behind load balancers that speak the PROXY protocol, on real sockets: with and without TLS, trusted and not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from edgecache.config import Address, load
from edgecache.policy.access import AccessRule
from edgecache.serve.accepting.certificates import Certificates
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.settings import ServeSettings
from edgecache.sites import Site
from edgecache.yamlform import FormError
from tests.integration.h2_support import NAME, Authority, Client
from tests.integration.proxy_support import Edge, edge_for, origin_of, until

LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\n"
BINARY = b"\r\n\r\n\x00\r\nQUIT\n\x21\x21" + struct.pack("!H", 36) + socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(20)
GET = f"GET /a HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def proxied(
    directory: Path | None = None, networks: tuple[str, ...] = ("127.0.0.0/8",), settings: ServeSettings | None = None
) -> AsyncIterator[tuple[Edge, Listener, tuple[str, int], Authority | None]]:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text=request.headers["X-Forwarded-For"], headers={"Cache-Control": "no-store"})

    async with origin_of(answer) as origin, edge_for(origin.url, settings=settings) as edge:
        authority = Authority(directory) if directory else None
        listener = Listener(edge.pipeline, Certificates([authority.files]) if authority else None, networks)
        address = await listener.start()
        try:
            yield edge, listener, address, authority
        finally:
            await listener.close()


async def said_to(address: tuple[str, int], *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(10):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)
            return await reader.read(-1)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("header", "client"), [(LINE, "192.0.2.7"), (BINARY, "2001:db8::7"), (b"PROXY UNKNOWN\r\n", "127.0.0.1")]
)
@pytest.mark.parametrize("how", ["together", "apart", "byte by byte"])
async def test_the_client_is_whom_the_header_names(header: bytes, client: str, how: str) -> None:
    async with proxied() as (edge, _, address, _authority):
        pieces = {"together": [header + GET], "apart": [header, GET], "byte by byte": [bytes([b]) for b in header + GET]}[how]
        said = await said_to(address, *pieces)
        assert said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(client.encode())
        assert [record.client for record in edge.records] == [client]


async def test_access_and_hits_go_by_that_client() -> None:
    async with proxied() as (edge, _, address, _authority):
        (site,) = edge.sites.snapshot.sites
        edge.sites.replace([Site(name="site", hosts=("*",), origins=site.origins, access=AccessRule(deny=("192.0.2.0/24",)))])
        assert b"403 Forbidden" in await said_to(address, LINE + GET)
        assert b"200 OK" in await said_to(address, BINARY + GET)
        assert [(record.client, record.status) for record in edge.records] == [("192.0.2.7", 403), ("2001:db8::7", 200)]


async def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (edge, _, address, authority):
        assert authority is not None
        for protocol in ("http/1.1", "h2"):
            sock = socket.create_connection(address)
            sock.sendall(LINE)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=authority.client(protocol), server_hostname=NAME)
            if protocol == "h2":
                client = Client(reader, writer)
                assert (await client.fetch("/a")).got.body == b"192.0.2.7"
                await client.close()
            else:
                writer.write(GET)
                async with asyncio.timeout(10):
                    assert (await reader.read(-1)).endswith(b"192.0.2.7")
                writer.transport.abort()
        assert [(record.client, record.protocol) for record in edge.records] == [("192.0.2.7", "http/1.1"), ("192.0.2.7", "h2")]


@pytest.mark.parametrize("networks", [("192.0.2.0/24",), ("::1",)])
async def test_others_may_not_connect(networks: tuple[str, ...]) -> None:
    async with proxied(networks=networks) as (edge, _, address, _authority):
        assert await said_to(address, LINE + GET) == b""
        assert await said_to(address, GET) == b""
        assert not edge.records


async def test_what_is_no_header_or_none_in_time_is_closed() -> None:
    async with proxied(settings=ServeSettings(head_timeout=0.2)) as (edge, listener, address, _authority):
        for sent in (
            GET,
            b"PROXY TCP4 x\r\n" + GET,
            b"PROXY " + b"a" * 200,
            BINARY[:20],
            LINE[:10],
            b"",
            BINARY[:14] + b"\xff\xff",
        ):
            assert await said_to(address, sent) == b"", sent
        _, writer = await asyncio.open_connection(*address)
        writer.write(LINE[:5])
        writer.close()
        assert b"200 OK" in await said_to(address, LINE + GET)
        assert len(edge.records) == 1
        await until(lambda: listener.connections == 0)


async def test_draining_ends_those_whose_header_has_not_come() -> None:
    async with proxied() as (_, listener, address, _authority):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(LINE[:5])
        await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            await listener.close()
            assert await reader.read(-1) == b""
        writer.transport.abort()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*address)


def test_on_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for header, client in ((LINE, "192.0.2.7"), (BINARY, "2001:db8::7")):
            runner.run(test_the_client_is_whom_the_header_names(header, client, "together"))
        runner.run(test_the_header_comes_before_tls(tmp_path))
        runner.run(test_draining_ends_those_whose_header_has_not_come())


def test_the_configuration_names_the_networks(tmp_path: Path) -> None:
    written = tmp_path / "edge.yaml"
    written.write_text("listen: {address: '127.0.0.1:0', proxy_protocol: [192.0.2.0/24, '2001:db8::1']}\n")
    config = load(written)
    assert (config.listen, config.proxies) == (Address("127.0.0.1", 0), ("192.0.2.0/24", "2001:db8::1"))
    assert load_text(written, "listen: 127.0.0.1:0") == ()
    for text, wrong in (
        ("listen: {address: '127.0.0.1:0', proxy_protocol: []}", "must hold"),
        ("listen: {address: '127.0.0.1:0', proxy_protocol: [everybody]}", "must be an address or a CIDR prefix"),
        ("listen: {proxy_protocol: [192.0.2.1]}", "address"),
        ("listen: {address: '127.0.0.1:0', proxy: [192.0.2.1]}", "proxy"),
    ):
        with pytest.raises(FormError, match=wrong):
            load_text(written, text)


def load_text(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(text + "\n")
    return load(path).proxies
