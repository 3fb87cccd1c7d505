"""What is not a request is refused and the connection closed; what is one gets its answer in order."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager

import pytest
from aiohttp import web

from edgecache.serve.settings import ServeSettings
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import edge_for, origin_of, plain, raw_origin, read_head, until

END = b"\r\n\r\n"

CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n"

BAD = {
    "content-length and transfer-encoding": b"POST / HTTP/1.1\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "two content-lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the same content-length twice": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "content-length list": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    "signed content-length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    "empty content-length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nhello",
    "content-length with underscore": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhellohello",
    "gzip before chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two lines": b"POST / HTTP/1.1\r\n" + CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "almost chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "vertical tab chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 with transfer-encoding": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
    "fold in the first field": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    "space in a name": b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: a\r\n: foo\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "the same host twice": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "control in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "DEL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab between": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw UTF-8 in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "ftp target": b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "star with GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "user in the target": b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "trailing space after version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
}

BAD_BODIES = {
    "size not hexadecimal": b"5z\r\nhello\r\n0\r\n\r\n",
    "size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "size line ends with LF": b"5\nhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": b"5\r\nhelloXX\r\n0\r\n\r\n",
    "chunk ends with LF": b"5\r\nhello\n0\r\n\r\n",
    "huge size": b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 1000 + b"\r\nhello\r\n0\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "endless trailers": b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
}


async def echo(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    return web.json_response({"method": request.method, "target": request.raw_path, "host": request.host, "body": body.decode()})


def split(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = data.partition(END)
    lines = head.decode("latin-1").split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


@pytest.mark.parametrize("name", BAD)
async def test_bad_head_is_refused_and_nothing_reaches_the_origin(name: str) -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        answer = await edge.raw(BAD[name] + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, body = split(answer)
        assert status == 400
        assert headers["Connection"] == "close"
        assert headers["Content-Type"] == "application/problem+json"
        assert json.loads(body)["status"] == 400
        assert origin.count == 0


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("split_at", [0, 1, 7])
async def test_bad_chunking_is_refused_however_it_is_cut(name: str, split_at: int) -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        body = BAD_BODIES[name]
        if split_at:
            writer.write(body[:split_at])
            await writer.drain()
            await until(lambda: edge.listener.connections == 1)
            await asyncio.sleep(0.01)
        writer.write(body[split_at:] + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = split(await asyncio.wait_for(reader.read(-1), 10))
        assert status in (400, 413)
        assert headers["Connection"] == "close"
        assert all(request.raw_path != "/smuggled" for request in origin.seen)
        writer.close()


async def test_limits_have_their_own_statuses() -> None:
    settings = ServeSettings(max_target_bytes=100, max_head_bytes=1000, max_fields=10, max_body_bytes=50)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        host = b"Host: a\r\n"
        cases = [
            (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n" + host + b"\r\n", 414),
            (b"GET /" + b"a" * 5000, 414),
            (b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 1000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 5000, 431),
            (b"GET / HTTP/1.1\r\n" + host + b"X: a\r\n" * 10 + b"\r\n", 431),
            (b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 51\r\n\r\n", 413),
            (b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n33\r\n", 413),
            (b"POST / HTTP/1.1\r\n" + host + b"Expect: magic\r\nContent-Length: 1\r\n\r\na", 417),
        ]
        for data, status in cases:
            assert split(await edge.raw(data))[0] == status, data[:60]


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
                parts.append(b"\r\nPUT /%d HTTP/1.1\r\n%b\r\n%b" % (i, CHUNKED, body))
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
        return await reader.readuntil(END)
    except asyncio.IncompleteReadError as error:
        assert error.partial == b""
        return b""


@pytest.mark.parametrize("method", ["GET", "POST", "REPORT", "FOO", "M-SEARCH", "DESCRIBE", "PRI", "X!#$%&'*+-.^_`|~9"])
async def test_any_method_reaches_the_origin(method: str) -> None:
    seen: list[bytes] = []

    async with raw_echo(seen) as url, edge_for(url) as edge:
        answer = await edge.raw(f"{method} /x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert split(answer)[0] == 200
        assert seen[0].startswith(f"{method} /x?y HTTP/1.1\r\n".encode())


def raw_echo(seen: list[bytes]) -> AbstractAsyncContextManager[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_head(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\r\n")

    return raw_origin(answer)


@pytest.mark.parametrize(
    "target", ["/a?", "/a/../b//c/./d", "//x/y", "/%41%zz%2f?a=b&&c", "/a?b?c", "/;p=1,2", '/a|b^c`{}"<>', "/?q=%E2%82%AC"]
)
async def test_targets_are_kept_byte_for_byte(target: str) -> None:
    seen: list[bytes] = []
    async with raw_echo(seen) as url, edge_for(url) as edge:
        await edge.raw(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert seen[0].split(b" ")[1].decode() == target


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
            head = await reader.readuntil(END)
            assert b"Connection: keep-alive" in head
            assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_expect_continue_is_answered_when_the_body_is_wanted() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(END), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        status, _, _ = split(await reader.readuntil(END))
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


async def test_a_slow_head_times_out_and_an_idle_connection_is_closed() -> None:
    settings = ServeSettings(head_timeout=0.2, keepalive_timeout=0.3)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        assert split(await edge.raw(b"GET / HTTP/1.1\r\nHo"))[0] == 408
        assert await edge.raw(b"") == b""


async def test_a_stalled_body_times_out() -> None:
    settings = ServeSettings(body_timeout=0.2)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        status, _, body = split(await edge.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel"))
        assert status == 408
        assert b"did not arrive" in body


async def test_bodies_that_come_a_byte_at_a_time_do_not_hold_the_connections_to_an_origin() -> None:
    settings, upstream = ServeSettings(body_timeout=0.5, body_rate=1000), UpstreamSettings(max_connections_per_origin=1)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings, upstream=upstream) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")

        async def dribble() -> None:
            for _ in range(1000):
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        dribbling.cancel()
        assert (await edge.fetch("/", "POST", data=b"hello")).status == 200
        assert edge.records[0].reason == "body-timeout"


async def test_a_body_that_comes_slowly_enough_is_waited_for() -> None:
    settings = ServeSettings(body_timeout=2.0, body_rate=1)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nConnection: close\r\n\r\n")
        for _ in range(30):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 200")


async def test_a_loop_is_refused() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        got = await edge.fetch("/", headers={"Via": "1.1 edgecache"})
        assert got.status == 508
        assert (await edge.fetch("/", headers={"CDN-Loop": "edgecache"})).status == 508


async def test_an_unknown_host_is_misdirected() -> None:
    async with origin_of(echo) as origin, edge_for(origin.url, hosts=("shop.test",)) as edge:
        assert (await edge.fetch("/", headers={"Host": "other.test"})).status == 421
        assert (await edge.fetch("/", headers={"Host": "SHOP.test:80"})).status == 200


@pytest.mark.parametrize(
    "coded",
    [
        pytest.param(b"5 \r\nhello\r\n0\r\n\r\n", id="white space after a size, as padded ones have it"),
        pytest.param(b"5\t\r\nhello\r\n0 \r\n\r\n", id="white space after the last size"),
        pytest.param(b"5 ;a\r\nhello\r\n0\r\n\r\n", id="RFC9112-7.1.1 white space before an extension"),
        pytest.param(b"5; a = b\r\nhello\r\n0\r\n\r\n", id="RFC9112-7.1.1 white space inside an extension"),
        pytest.param(b"5;\r\nhello\r\n0;;\r\n\r\n", id="extensions without names"),
        pytest.param(b'5;a="b;c"\r\nhello\r\n0\r\n\r\n', id="a quoted extension"),
        pytest.param(b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", id="sizes of sixteen digits"),
        pytest.param(b"2\r\nhe\r\n3\r\nllo\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", id="a trailer that would frame"),
        pytest.param(b"5\r\nhello\r\n0\r\nContent-Length: 3\r\nHost: x\r\n\r\n", id="a trailer that would frame otherwise"),
        pytest.param(b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 500 + b"\r\n", id="many trailers"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_what_is_accepted_of_chunked_coding_is_understood_by_all(coded: bytes, size: int) -> None:
    """There are two parsers: what the first lets pass, the second must not wait for, nor take for another request."""
    data = b"POST /a HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n" + coded
    data += b"GET /next HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n"

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=request.raw_path.encode() + b"<" + await request.read() + b">")

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        reader, writer = await edge.connect()
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            if size < 100:
                await writer.drain()
        async with asyncio.timeout(10):
            said = await reader.read(-1)
        assert said.count(b"HTTP/1.1 200 OK") == 2
        assert b"/a<hello>" in said
        assert said.endswith(b"/next<>")


async def test_answers_that_are_taken_a_little_at_a_time_do_not_hold_the_connections_to_an_origin() -> None:
    body = b"x" * (32 << 20)
    settings, upstream = ServeSettings(write_timeout=0.5, write_rate=1 << 30), UpstreamSettings(max_connections_per_origin=1)
    async with (
        origin_of(plain(body, Cache_Control="no-store")) as origin,
        edge_for(origin.url, settings=settings, upstream=upstream) as edge,
    ):
        reader, writer = await edge.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(30):
                while await reader.readexactly(64 << 10):
                    await asyncio.sleep(0.02)
        assert edge.records[0].truncated
        assert origin.count == 1


async def test_who_takes_an_answer_as_it_comes_is_waited_for() -> None:
    settings = ServeSettings(write_timeout=0.4, write_rate=1000)
    async with (
        origin_of(plain(b"x" * (8 << 20), Cache_Control="no-store")) as origin,
        edge_for(origin.url, settings=settings) as edge,
    ):
        reader, writer = await edge.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        size = 0
        while chunk := await reader.read(256 << 10):
            size += len(chunk)
            await asyncio.sleep(0.01)
        assert size > 8 << 20
