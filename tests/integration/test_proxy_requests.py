"""What requests mean: their order, methods, targets, expectations; and what is answered here."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from tests.integration.proxy_support import Saying, edge_for, origin_of, plain, raw_origin, read_head
from tests.integration.wire_support import echo, split

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\r\n"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def slow_first(request: web.BaseRequest) -> web.Response:
        if request.path == "/0":
            await asyncio.sleep(0.05)
        body = await request.read()
        return web.Response(body=request.path.encode() + body, headers={"Cache-Control": "max-age=60"})

    async with origin_of(slow_first) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/hit", headers={"Host": "a"})
        parts = []
        for i in range(40):
            if i % 5 == 1:
                parts.append(b"GET /hit HTTP/1.1\r\nHost: a\r\n\r\n")
            elif i % 5 == 2:
                parts.append(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % i)
            elif i % 5 == 3:
                body = b"2\r\nxy\r\n1;e=1\r\nz\r\n0\r\nT: v\r\n\r\n"
                parts.append(b"\r\nPUT /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (i, body))
            else:
                parts.append(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i)
        parts.append(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        expected = []
        for i in range(40):
            expected.append({1: "/hit", 2: f"/{i}abc", 3: f"/{i}xyz"}.get(i % 5, f"/{i}"))
        for step in (10**9, 61, 7):
            data = b"".join(parts)
            reader, writer = await edge.connect()

            pouring = asyncio.create_task(pour(writer, data, step))
            got = await asyncio.wait_for(bodies(reader), 20)
            await pouring
            writer.close()
            assert got == [*expected, "/last"]


async def pour(writer: asyncio.StreamWriter, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
        await writer.drain()
        await asyncio.sleep(0)


async def bodies(reader: asyncio.StreamReader) -> list[str]:
    found = []
    while head := await reader.read(0) or await _head(reader):
        _, headers, _ = split(head)
        if "Content-Length" in headers:
            found.append((await reader.readexactly(int(headers["Content-Length"]))).decode())
        else:
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
            found.append(body.decode())
    return found


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await read_head(reader)
    except asyncio.IncompleteReadError as error:
        assert error.partial == b""
        return b""


@pytest.mark.parametrize("method", ["GET", "POST", "REPORT", "FOO", "M-SEARCH", "DESCRIBE", "PRI", "X!#$%&'*+-.^_`|~9"])
async def test_any_method_reaches_the_origin(method: str) -> None:
    origin = Saying(EMPTY, stays=True)
    async with raw_origin(origin) as url, edge_for(url) as edge:
        answer = await edge.raw(f"{method} /x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert split(answer)[0] == 200
        assert origin.heads[0].startswith(f"{method} /x?y HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    "target", ["/a?", "/a/../b//c/./d", "//x/y", "/%41%zz%2f?a=b&&c", "/a?b?c", "/;p=1,2", '/a|b^c`{}"<>', "/?q=%E2%82%AC"]
)
async def test_targets_are_kept_byte_for_byte(target: str) -> None:
    origin = Saying(EMPTY, stays=True)
    async with raw_origin(origin) as url, edge_for(url) as edge:
        await edge.raw(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert origin.heads[0].split(b" ")[1].decode() == target


async def test_absolute_form_wins_over_host() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        for target, path in (("http://b:8/x?y", "/x?y"), ("HTTP://B:8", "/"), ("http://b:8?q", "/?q")):
            answer = await edge.raw(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            got = json.loads(split(answer)[2])
            assert (got["target"], got["host"]) == (path, "b:8")


async def test_http_10_closes_unless_asked_to_stay() -> None:
    async with origin_of(plain(b"x")) as origin, edge_for(origin.url) as edge:
        status, headers, body = split(await edge.raw(b"GET / HTTP/1.0\r\n\r\n"))
        assert (status, headers["Connection"], body) == (200, "close", b"x")
        reader, writer = await edge.connect()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            head = await read_head(reader)
            assert b"Connection: keep-alive" in head
            assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_expect_continue_is_answered_when_the_body_is_wanted() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await asyncio.wait_for(read_head(reader), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        status, _, _ = split(await read_head(reader))
        assert status == 200
        writer.close()


async def test_a_refused_expectation_closes_the_connection() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url, hosts=("only.test",)) as edge:
        answer = await edge.raw(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        status, headers, _ = split(answer)
        assert (status, headers["Connection"]) == (421, "close")


async def test_options_star_trace_and_connect_are_answered_here() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        for line, status in ((b"OPTIONS *", 204), (b"TRACE /", 405), (b"CONNECT a:1", 501), (b"OPTIONS http://a", 204)):
            assert split(await edge.raw(line + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))[0] == status
        assert origin.count == 0


async def test_a_loop_is_refused() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        got = await edge.fetch("/", headers={"Via": "1.1 edgecache"})
        assert got.status == 508
        assert (await edge.fetch("/", headers={"CDN-Loop": "edgecache"})).status == 508


async def test_an_unknown_host_is_misdirected() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url, hosts=("shop.test",)) as edge:
        assert (await edge.fetch("/", headers={"Host": "other.test"})).status == 421
        assert (await edge.fetch("/", headers={"Host": "SHOP.test:80"})).status == 200
