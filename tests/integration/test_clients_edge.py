"""What clients may speak, as a configuration file says it and a whole edge does it: HTTP/2, the PROXY protocol, WebSockets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from demo.processes import started
from tests.integration.h2_support import NAME, Authority, Client
from tests.integration.proxy_support import origin_of

READY = r"serving on http://127.0.0.1:(\d+) and https://127.0.0.1:(\d+), control on"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\n"


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    if "Upgrade" not in request.headers:
        return web.Response(text="page", headers={"Cache-Control": "max-age=60"})
    socket_ = web.WebSocketResponse()
    await socket_.prepare(request)  # type: ignore[arg-type]
    async for message in socket_:
        await socket_.send_str(message.data.upper())
    return socket_


@contextmanager
def edge(
    directory: Path, origin: str, authority: Authority, *, tls: str = "", listen: str = "127.0.0.1:0"
) -> Iterator[tuple[int, int]]:
    """Its ports for HTTP and HTTPS."""
    certificate = f"{{hosts: ['*'], chain: {authority.files.chain}, key: {authority.files.key}}}"
    written = directory / "edge.yaml"
    written.write_text(
        f"listen: {listen}\nstate: state\ncontrol: {{listen: '127.0.0.1:0'}}\nlog: {{access: access.log}}\n"
        f"tls: {{certificates: [{certificate}], {tls or 'listen: 127.0.0.1:0'}}}\n"
        f"sites: [{{name: shop, hosts: ['*'], origins: ['{origin}'], upgrade: [websocket]}}]\n"
    )
    with started("the edge", ["-m", "edgecache", "serve", str(written)], READY, directory / "output") as running:
        yield int(running.ready[1]), int(running.ready[2])
    assert "Traceback" not in (directory / "output").read_text()


def logged(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "access.log").read_text().splitlines()]


@asynccontextmanager
async def secured(
    port: int, context: ssl.SSLContext, before: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(before)
    reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=NAME)
    try:
        yield reader, writer
    finally:
        # Waited for, since whoever stops the edge next may hold up this loop; the edge would wait for the farewell of TLS.
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def test_http_2_and_websockets(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with origin_of(answer) as origin:
        with edge(tmp_path, origin.url, authority) as (plain, secure):
            async with secured(secure, authority.client()) as (reader, writer):
                client = Client(reader, writer)
                for _ in range(3):
                    assert (await client.fetch("/")).got.body == b"page"
                await client.close()
            async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{plain}/chat") as chat:
                await chat.send_str("hello")
                assert await chat.receive_str() == "HELLO"
    lines = logged(tmp_path)
    assert [(line["protocol"], line["cache"], line["client"]) for line in lines[:3]] == [
        ("h2", "miss", "127.0.0.1"),
        ("h2", "hit", "127.0.0.1"),
        ("h2", "hit", "127.0.0.1"),
    ]
    (chatted,) = lines[3:]
    assert (chatted["protocol"], chatted["status"], chatted["reason"]) == ("http/1.1", 101, "upgrade")
    assert isinstance(chatted["received"], int) and chatted["received"] > 5


@pytest.mark.parametrize("tls", ["listen: 127.0.0.1:0, http2: false", "listen: 127.0.0.1:0, http2: true"])
async def test_http_2_can_be_turned_off(tmp_path: Path, tls: str) -> None:
    authority = Authority(tmp_path)
    with edge(tmp_path, "http://127.0.0.1:1", authority, tls=tls) as (_, secure):
        async with secured(secure, authority.client()) as (_reader, writer):
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert chosen == ("h2" if "true" in tls else "http/1.1")


async def test_load_balancers_announce_clients_on_both_listeners(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    address = "{address: '127.0.0.1:0', proxy_protocol: [127.0.0.1]}"
    async with origin_of(answer) as origin:
        with edge(tmp_path, origin.url, authority, tls=f"listen: {address}", listen=address) as (plain, secure):
            async with secured(secure, authority.client(), LINE) as (reader, writer):
                client = Client(reader, writer)
                assert (await client.fetch("/")).got.body == b"page"
                await client.close()
            request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
            for before, expected in ((LINE, rb"HTTP/1\.1 200 OK\r\n"), (b"", b"")):
                reader, writer = await asyncio.open_connection("127.0.0.1", plain)
                writer.write(before + request)
                async with asyncio.timeout(10):
                    try:
                        said = await reader.read(-1)
                    except ConnectionError:
                        said = b""
                assert re.match(expected, said) and bool(said) is bool(expected)
                writer.transport.abort()
            with pytest.raises((ConnectionError, ssl.SSLError)):
                async with secured(secure, authority.client()):
                    pass
    assert [(line["client"], line["protocol"]) for line in logged(tmp_path)] == [("192.0.2.7", "h2"), ("192.0.2.7", "http/1.1")]
