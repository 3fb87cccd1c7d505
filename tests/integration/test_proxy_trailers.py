"""Trailer fields from raw origins to clients of both protocols, and what becomes of those of requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgecache.policy.coding import Coding
from edgecache.policy.rule import CacheRule
from tests.integration.h2_support import secure_edge
from tests.integration.proxy_support import edge_for, raw_origin, read_head

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close%b\r\n\r\n"
TE = b", TE\r\nTE: trailers"


class Trailing:
    """An origin whose answers end in trailers."""

    def __init__(self, cache: bytes = b"no-store", cut: int = 0) -> None:
        self.heads: list[bytes] = []
        self._head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: " + cache + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self._body = b"4\r\nbody\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nX-Sum: 2\r\n\r\n"
        self._cut = cut

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.heads.append(await read_head(reader))
            data = self._head + self._body
            step = self._cut or len(data)
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await writer.drain()


@pytest.mark.parametrize("cut", [0, 1, 7])
async def test_a_client_that_wants_trailers_gets_them(cut: int) -> None:
    origin = Trailing(cut=cut)
    async with raw_origin(origin) as url, edge_for(url) as edge:
        for _ in range(2):
            said = await edge.raw(GET % TE)
            assert said.endswith(b"0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"), said
            assert b"\r\nTE: trailers\r\n" in origin.heads[-1] and b"\r\nConnection: TE\r\n" in origin.heads[-1]


@pytest.mark.parametrize("asking", [b"", b", TE\r\nTE: gzip", b"\r\nX: trailers"])
async def test_others_do_not(asking: bytes) -> None:
    origin = Trailing()
    async with raw_origin(origin) as url, edge_for(url) as edge:
        said = await edge.raw(GET % asking)
        assert said.endswith(b"body\r\n0\r\n\r\n") and b"X-Sum" not in said
        assert b"TE:" not in origin.heads[-1]
        old = await edge.raw((GET % TE).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert old.endswith(b"\r\n\r\nbody")


async def test_over_http_2(tmp_path: Path) -> None:
    origin = Trailing()
    async with raw_origin(origin) as url, secure_edge(tmp_path, url) as serving:
        client = await serving.connect()
        wanted = await client.fetch("/", headers=(("te", "trailers"),))
        assert wanted.got.body == b"body" and wanted.ended
        assert wanted.trailers == [("x-sum", "1"), ("x-sum", "2")]
        other = await client.fetch("/")
        assert other.got.body == b"body" and other.ended and other.trailers is None


async def test_what_is_stored_is_stored_without_them() -> None:
    """RFC 9111 section 3.1: a cache may discard trailer fields; merged into the head they are never."""
    origin = Trailing(b"max-age=600")
    async with raw_origin(origin) as url, edge_for(url) as edge:
        for count in (1, 1):
            said = await edge.raw(GET % TE)
            assert b"body" in said and b"X-Sum" not in said
            assert len(origin.heads) == count


async def test_what_the_edge_codes_itself_loses_them() -> None:
    origin = Trailing()
    async with raw_origin(origin) as url, edge_for(url, rule=CacheRule(compress=(Coding.GZIP,))) as edge:
        said = await edge.raw(GET % (TE + b"\r\nAccept-Encoding: gzip"))
        assert b"Content-Encoding: gzip" in said and b"X-Sum" not in said


async def test_trailers_of_requests_are_checked_and_dropped(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_head(reader)
            got.append(await reader.readuntil(b"0\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with raw_origin(origin) as url, secure_edge(tmp_path, url) as serving:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n"
        assert (await serving.edge.raw(head + b"X-Sum: 1\r\n\r\n")).endswith(b"ok")
        assert b"400 Bad Request" in await serving.edge.raw(head + b"X Sum: 1\r\n\r\n")
        client = await serving.connect()
        for trailers, reset in (([("x-sum", "1")], None), ([("X-Sum", "1")], 1), ([(":path", "/")], 1)):
            exchange = client.begin(client.head("POST"), end=False)
            await client.send(exchange, b"data")
            client.h2.send_headers(exchange.stream_id, trailers, end_stream=True)
            client.flush()
            await client.finish(exchange)
            assert exchange.reset == reset
        assert got[0] == b"4\r\ndata\r\n0\r\n\r\n" and got[0] == got[1]
