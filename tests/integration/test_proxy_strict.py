"""What is not a request is refused and the connection closed; what is one is understood in the same way by all who read it."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import edge_for, origin_of, until
from tests.integration.wire_support import echo, split

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


async def test_what_follows_a_refused_connect_is_no_request() -> None:
    """RFC 9931: a client may have sent it for whoever is at the tunnel's other end."""
    async with origin_of(echo) as origin, edge_for(origin.url) as edge:
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        status, headers, _ = split(await edge.raw(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + smuggled))
        assert (status, headers["Connection"]) == (501, "close")
        assert origin.count == 0


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
