"""The PROXY protocol to origins: raw sockets that read the header, and what follows it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from edgecache.policy.upstream import HealthRule, Origin, TlsRule, UpstreamRule
from tests.integration.proxy_support import edge_for, raw_origin, read_head, until

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: no-store\r\n\r\nok"


@dataclass
class Introduced:
    """What each connection began with, and how many requests came on it."""

    headers: list[bytes] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)


@contextlib.asynccontextmanager
async def introduced_origin(version: int) -> AsyncIterator[tuple[str, Introduced]]:
    """An origin that wants a header first, then requests until the connection ends."""
    found = Introduced()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await (reader.readuntil(b"\r\n") if version == 1 else reader.readexactly(16))
        if version == 2:
            header += await reader.readexactly(int.from_bytes(header[14:16], "big"))
        number = len(found.headers)
        found.headers.append(header)
        found.requests.append(0)
        while True:
            await read_head(reader)
            found.requests[number] += 1
            writer.write(ANSWER)
            await writer.drain()

    async with raw_origin(serve) as url:
        yield url, found


def rule(url: str, version: int, **said: object) -> UpstreamRule:
    return UpstreamRule(origins=(Origin(url, proxy_protocol=version),), **said)  # type: ignore[arg-type]


async def test_each_request_has_a_connection_that_begins_with_its_client() -> None:
    async with introduced_origin(1) as (url, found), edge_for(url, upstream_rule=rule(url, 1)) as edge:
        for number in range(3):
            assert (await edge.fetch(f"/{number}")).body == b"ok"
        port = url.rpartition(":")[2].encode()
        assert found.headers == [b"PROXY TCP4 127.0.0.1 127.0.0.1 0 " + port + b"\r\n"] * 3
        assert found.requests == [1, 1, 1]


async def test_what_a_client_says_of_itself_is_not_believed() -> None:
    async with introduced_origin(1) as (url, found), edge_for(url, upstream_rule=rule(url, 1)) as edge:
        await edge.fetch("/", headers={"X-Forwarded-For": "192.0.2.66"})
        assert b"192.0.2.66" not in found.headers[0]
        assert found.headers[0].startswith(b"PROXY TCP4 127.0.0.1 ")


def greet_then_tls(listening: socket.socket, context: ssl.SSLContext) -> tuple[bytes, bool]:
    """Accept one connection: its first 28 bytes, and whether a request could be answered over TLS after them."""
    connection, _ = listening.accept()
    with connection:
        header = b""
        while len(header) < 28:
            header += connection.recv(28 - len(header))
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                while b"\r\n\r\n" not in secure.recv(65536):
                    pass
                secure.sendall(ANSWER)
                return header, True
        except OSError:
            return header, False


async def test_version_2_comes_before_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        url = f"https://127.0.0.1:{port}"
        for tls, well in ((TlsRule(ca=str(tmp_path / "ca.pem")), True), (TlsRule(), False)):
            served = asyncio.create_task(asyncio.to_thread(greet_then_tls, listening, context))
            async with edge_for(url, upstream_rule=rule(url, 2, tls=tls)) as edge:
                got = await edge.fetch("/")
                assert (got.status == 200) == well
                assert well or "tls" in got.cache
                header, answered = await served
                assert header == SIGNATURE + bytes.fromhex("2111000c 7f000001 7f000001 0000") + port.to_bytes(2, "big")
                assert answered == well


async def test_an_origin_with_and_one_without_share_no_connection() -> None:
    plain_heads: list[bytes] = []

    async def without(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            plain_heads.append(await read_head(reader))
            writer.write(ANSWER)
            await writer.drain()

    async with introduced_origin(2) as (url, found), raw_origin(without) as other:
        said = UpstreamRule(origins=(Origin(url, weight=1, proxy_protocol=2),))
        async with edge_for(url, other, upstream_rule=said) as edge:
            for number in range(4):
                assert (await edge.fetch(f"/{number}")).body == b"ok"
    assert len(found.headers) == len(plain_heads) == 2
    assert all(head.startswith(b"GET ") for head in plain_heads)


async def test_the_origin_asked_next_hears_no_header_that_was_for_the_first() -> None:
    plain_heads: list[bytes] = []

    async def without(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain_heads.append(await read_head(reader))
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
        said = UpstreamRule(origins=(Origin(refusing, proxy_protocol=1),))
        async with raw_origin(without) as other, edge_for(refusing, other, upstream_rule=said) as edge:
            assert (await edge.fetch("/")).body == b"ok"
    assert [head[:4] for head in plain_heads] == [b"GET "]


async def test_health_checks_say_that_nobody_is_behind_them() -> None:
    health = HealthRule(path="/", interval=5.0, rise=1, fall=1)
    async with introduced_origin(2) as (url, found), edge_for(url, upstream_rule=rule(url, 2, health=health)) as edge:
        await until(lambda: edge.ticks.waiting == 1)
        edge.ticks.advance(10.0)
        await until(lambda: edge.ticks.waiting == 0)
        await until(lambda: edge.ticks.waiting == 1)
        assert found.headers == [SIGNATURE + bytes.fromhex("20000000")]
        assert (await edge.fetch("/")).body == b"ok"


async def test_one_that_refuses_connections_fails_as_others_do() -> None:
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{port.getsockname()[1]}"
    async with edge_for(url, upstream_rule=rule(url, 1)) as edge:
        got = await edge.fetch("/")
        assert got.status == 502
        assert "connect" in got.cache
    port.close()
