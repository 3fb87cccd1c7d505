"""Trailer fields from raw origins to clients of both protocols, and those of requests on their way up."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from edgecache.policy.coding import Coding
from edgecache.policy.rule import CacheRule
from edgecache.policy.trailing import MAX_TRAILERS
from edgecache.policy.upstream import RetryRule, UpstreamRule
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


class Receiving:
    """An origin that keeps what it is sent."""

    def __init__(self, refusing: int = 0) -> None:
        """`refusing`: so many requests are read to their end, and answered by closing."""
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self._refusing = refusing

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            length = re.search(rb"\r\nContent-Length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else await chunked(reader)
            self.heads.append(head)
            self.bodies.append(body)
            if len(self.heads) <= self._refusing:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def chunked(reader: asyncio.StreamReader) -> bytes:
    """A chunked body and its trailer section as they came."""
    came = b""
    while (line := await reader.readuntil(b"\r\n")) != b"0\r\n":
        came += line + await reader.readexactly(int(line, 16) + 2)
    came += line
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        came += line
    return came


UP = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n%b\r\n4\r\ndata\r\n0\r\n%b\r\n"
FORGED = b"Host: evil\r\nX-Forwarded-For: 10.0.0.1\r\nAuthorization: x\r\nContent-Length: 3\r\nX-HTTP-Method-Override: DELETE\r\n"
ANNOUNCED = b"Trailer: X-Sum, Host\r\nTrailer: x-forwarded-for, authorization, content-length, x-http-method-override\r\n"


async def test_announced_trailers_of_requests_reach_the_origin() -> None:
    origin = Receiving()
    async with raw_origin(origin) as url, edge_for(url) as edge:
        for _ in range(2):
            said = await edge.raw(UP % (ANNOUNCED, FORGED + b"X-Sum:  1 \r\nX-Other: 3\r\nX-Sum: 2\r\n"))
            assert said.endswith(b"ok"), said
            assert origin.bodies[-1] == b"4\r\ndata\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"
            assert origin.heads[-1].count(b"Trailer") == 1 and b"\r\nTrailer: x-sum\r\n" in origin.heads[-1]
            assert b"Content-Length" not in origin.heads[-1]


async def test_a_body_in_many_pieces_and_then_trailers() -> None:
    origin = Receiving()
    async with raw_origin(origin) as url, edge_for(url) as edge:
        reader, writer = await edge.connect()
        message = UP % (b"Trailer: X-Sum\r\n", b"X-Sum: 1\r\n")
        for at in range(0, len(message), 3):
            writer.write(message[at : at + 3])
            await asyncio.sleep(0)
        assert (await reader.read(-1)).endswith(b"ok")
        assert origin.bodies[0].endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_an_announcement_without_trailers_is_a_plain_end() -> None:
    origin = Receiving()
    async with raw_origin(origin) as url, edge_for(url) as edge:
        assert (await edge.raw(UP % (b"Trailer: X-Sum\r\n", b""))).endswith(b"ok")
        empty = (
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\n%b\r\n"
        )
        assert (await edge.raw(empty % b"X-Sum: 1\r\n")).endswith(b"ok")
        assert origin.bodies == [b"4\r\ndata\r\n0\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n"]


async def test_a_body_of_known_length_has_no_place_for_them() -> None:
    origin = Receiving()
    async with raw_origin(origin) as url, edge_for(url) as edge:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nTrailer: X-Sum\r\n\r\ndata"
        assert (await edge.raw(head)).endswith(b"ok")
        assert b"Trailer" not in origin.heads[0] and b"\r\nContent-Length: 4\r\n" in origin.heads[0]
        assert origin.bodies == [b"data"]


@pytest.mark.parametrize("length", [(), (("content-length", "4"),)])
async def test_of_requests_over_http_2(tmp_path: Path, length: tuple[tuple[str, str], ...]) -> None:
    origin = Receiving()
    async with raw_origin(origin) as url, secure_edge(tmp_path, url) as serving:
        client = await serving.connect()
        for _ in range(2):
            exchange = client.begin(client.head("POST", fields=(*length, ("trailer", "x-sum, te"))), end=False)
            await client.send(exchange, b"data")
            client.h2.send_headers(exchange.stream_id, [("x-sum", "1"), ("cookie", "a=b"), ("x-sum", "2")], end_stream=True)
            client.flush()
            assert (await client.finish(exchange)).got.body == b"ok"
            assert origin.bodies[-1] == b"4\r\ndata\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n"
            assert b"\r\nTrailer: x-sum\r\n" in origin.heads[-1] and b"content-length" not in origin.heads[-1].lower()


async def test_they_go_to_the_next_origin_too() -> None:
    first, second = Receiving(refusing=9), Receiving()
    again = UpstreamRule(retries=RetryRule(attempts=1, budget=1.0))
    async with raw_origin(first) as one, raw_origin(second) as two, edge_for(one, two, upstream_rule=again) as edge:
        message = (UP % (b"Trailer: X-Sum\r\n", b"X-Sum: 1\r\n")).replace(b"POST", b"PUT")
        assert (await edge.raw(message)).endswith(b"ok")
        assert first.bodies[-1] == second.bodies[-1] == b"4\r\ndata\r\n0\r\nX-Sum: 1\r\n\r\n"


async def test_of_requests_they_are_few(tmp_path: Path) -> None:
    origin = Receiving()
    async with raw_origin(origin) as url, secure_edge(tmp_path, url) as serving:
        most = b"X-Sum: 1\r\n" * MAX_TRAILERS
        assert (await serving.edge.raw(UP % (b"Trailer: X-Sum\r\n", most))).endswith(b"ok")
        assert origin.bodies[0].count(b"X-Sum: 1\r\n") == MAX_TRAILERS
        assert (await serving.edge.raw(UP % (b"Trailer: X-Sum\r\n", most + b"X-Sum: 1\r\n"))).endswith(b"ok")
        assert origin.bodies[1] == b"4\r\ndata\r\n0\r\n\r\n"
        assert b"400 Bad Request" in await serving.edge.raw(UP % (b"Trailer: X-Sum\r\n", b"X-Sum: " + b"1" * 9000 + b"\r\n"))
        client = await serving.connect()
        exchange = client.begin(client.head("POST", fields=(("trailer", "x-sum"),)), end=False)
        client.h2.send_headers(exchange.stream_id, [("x-sum", "1")] * (MAX_TRAILERS + 1), end_stream=True)
        client.flush()
        assert (await client.finish(exchange)).got.body == b"ok"
        assert origin.bodies[2] == b"0\r\n\r\n"


async def test_what_is_not_announced_is_checked_and_dropped(tmp_path: Path) -> None:
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
