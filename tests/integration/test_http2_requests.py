"""HTTP/2 from clients (RFC 9113) on real TLS sockets: what requests become, what answers look like, and what is no request."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from h2.errors import ErrorCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecache.serve.settings import ServeSettings
from tests.integration.h2_support import NAME, Authority, Client, Pairs, Secure, secure, secure_edge
from tests.integration.proxy_support import Saying, edge_for, origin_of, plain, raw_origin, until

REFUSED = int(ErrorCodes.REFUSED_STREAM)
PROTOCOL_ERROR = int(ErrorCodes.PROTOCOL_ERROR)


Echoing = tuple[Secure, Client, list[web.BaseRequest]]


@asynccontextmanager
async def echoing(
    directory: Path, serve: ServeSettings | None = None
) -> AsyncIterator[tuple[Secure, Client, list[web.BaseRequest]]]:
    """An origin that answers with the body that it was sent."""

    async def answer(request: web.BaseRequest) -> web.Response:
        request._client_max_size = 1 << 30  # type: ignore[attr-defined]
        return web.Response(body=await request.read(), headers={"Cache-Control": "no-store"})

    async with origin_of(answer) as origin, secure_edge(directory, origin.url, settings=serve) as serving:
        yield serving, await serving.connect(), origin.seen


async def test_a_miss_and_hits_say_the_same_as_over_http_1(tmp_path: Path) -> None:
    async with (
        origin_of(plain(b"hello", cache_control="max-age=60", set_x="y")) as origin,
        secure_edge(tmp_path, origin.url) as serving,
    ):
        client = await serving.connect()
        first, second, third = [await client.fetch("/a?b=%20") for _ in range(3)]
        assert [exchange.got.body for exchange in (first, second, third)] == [b"hello"] * 3
        assert first.got.cache == "edgecache; fwd=uri-miss; stored"
        assert re.fullmatch(r"edgecache; hit; ttl=\d+", second.got.cache)
        said = await serving.http1(f"GET /a?b=%20 HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        lines = said.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        over_1 = {line.lower() for line in lines if not line.startswith(("X-Request-Id", "Connection"))}
        for exchange in (second, third):
            assert {f"{k}: {v}".lower() for k, v in exchange.got.headers.items() if k != "x-request-id"} == over_1
        assert origin.count == 1
        records = serving.edge.records
        assert [record.protocol for record in records] == ["h2", "h2", "h2", "http/1.1"]
        assert [record.cache for record in records] == ["miss", "hit", "hit", "hit"]
        assert {record.uri for record in records} == {f"https://{NAME}/a?b=%20"}
        assert {record.bytes_sent for record in records} == {5}


async def test_head_empty_answers_and_ranges(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return (
            web.Response(status=204) if request.path == "/none" else web.Response(body=bytes(range(100)), headers={"ETag": '"e"'})
        )

    async with origin_of(answer) as origin, secure_edge(tmp_path, origin.url) as serving:
        client = await serving.connect()
        head = await client.fetch("/a", "HEAD")
        assert (head.status, head.body, head.got.headers["content-length"]) == (200, b"", "100")
        none = await client.fetch("/none")
        assert (none.status, none.body, "content-length" in none.got.headers) == (204, b"", False)
        part = await client.fetch("/a", headers=(("Range", "bytes=10-19"),))
        assert (part.status, part.got.body, part.got.headers["content-range"]) == (206, bytes(range(10, 20)), "bytes 10-19/100")
        same = await client.fetch("/a", headers=(("If-None-Match", '"e"'),))
        assert (same.status, same.body) == (304, b"")


@pytest.mark.parametrize("declared", [True, False])
async def test_request_bodies_arrive_whole(tmp_path: Path, declared: bool) -> None:
    body = bytes(range(256)) * 4096
    async with echoing(tmp_path) as (_, client, seen):
        fields = (("Content-Length", str(len(body))),) if declared else ()
        exchange = await client.fetch("/", "POST", headers=fields, body=body)
        assert exchange.status == 200 and bytes(exchange.body) == body
        assert ("Content-Length" in seen[0].headers) is declared
        empty = await client.fetch("/", "POST", body=b"")
        assert empty.status == 200 and not empty.body


async def test_cookie_crumbs_are_joined_and_the_origin_learns_the_rest(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (_, client, seen):
        fields = (("Cookie", "a=1"), ("X", "1"), ("Cookie", "b=2"), ("x", "2"), ("TE", "trailers"))
        assert (await client.fetch("/p?q", headers=fields)).status == 200
        got = seen[0].headers
        assert got.getall("Cookie") == ["a=1; b=2"]
        assert got.getall("X") == ["1", "2"]
        assert got["Host"] == NAME and got["X-Forwarded-Proto"] == "https" and got["Via"] == "2.0 edgecache"
        assert seen[0].path_qs == "/p?q"


def without(name: str) -> object:
    return lambda head: [pair for pair in head if pair[0] != name]


def plus(*pairs: tuple[str, str]) -> object:
    return lambda head: [*head, *pairs]


MALFORMED = {
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "no authority and no Host": without(":authority"),
    "empty path": lambda head: [(name, "" if name == ":path" else value) for name, value in head],
    "relative path": lambda head: [(name, "a" if name == ":path" else value) for name, value in head],
    "fragment": lambda head: [(name, "/a#b" if name == ":path" else value) for name, value in head],
    "asterisk of GET": lambda head: [(name, "*" if name == ":path" else value) for name, value in head],
    "space in path": lambda head: [(name, "/a b" if name == ":path" else value) for name, value in head],
    "unknown scheme": lambda head: [(name, "ftp" if name == ":scheme" else value) for name, value in head],
    "repeated pseudo-header": plus((":path", "/b")),
    "unknown pseudo-header": lambda head: [(":extra", "1"), *head],
    "pseudo-header of responses": lambda head: [(":status", "200"), *head],
    "extended CONNECT that was not offered": lambda head: [(":protocol", "websocket"), *head],
    "pseudo-header after fields": lambda head: [*head[:3], ("a", "1"), *head[3:]],
    "capital in a name": plus(("Accept", "x")),
    "empty name": plus(("", "x")),
    "space in a name": plus(("a b", "x")),
    "colon in a name": plus(("a:b", "x")),
    "control character in a value": plus(("a", "x\x01")),
    "line end in a value": plus(("a", "x\r\nb: y")),
    "NUL in a value": plus(("a", "x\x00y")),
    "space before a value": plus(("a", " x")),
    "space after a value": plus(("a", "x ")),
    "Connection": plus(("connection", "close")),
    "Keep-Alive": plus(("keep-alive", "1")),
    "Proxy-Connection": plus(("proxy-connection", "close")),
    "Transfer-Encoding": plus(("transfer-encoding", "chunked")),
    "Upgrade": plus(("upgrade", "websocket")),
    "TE other than trailers": plus(("te", "gzip")),
    "another Host": plus(("host", "other.test")),
    "two Hosts": lambda head: [*(pair for pair in head if pair[0] != ":authority"), ("host", NAME), ("host", NAME)],
    "authority with user": lambda head: [(name, "u@a" if name == ":authority" else value) for name, value in head],
    "Content-Length without body": plus(("content-length", "5")),
    "Content-Length that is no number": plus(("content-length", "x")),
    "two Content-Lengths": plus(("content-length", "0"), ("content-length", "0")),
    "the edge's own word for Content-Length": plus(("\x00content-length", "0")),
    "CONNECT with a path": lambda head: [(name, "CONNECT" if name == ":method" else value) for name, value in head],
}


async def test_what_is_malformed_ends_its_stream_alone(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (_, client, seen):
        for what, change in MALFORMED.items():
            exchange = await client.finish(client.begin(change(client.head("GET", "/"))))  # type: ignore[operator]
            assert (exchange.reset, exchange.heads) == (PROTOCOL_ERROR, []), what
        assert not seen, "something malformed was passed on"
        assert (await client.fetch("/")).status == 200
        assert client.goaway is None


@pytest.mark.parametrize(("sent", "declared"), [(4, 5), (6, 5), (0, 5), (5, 0)])
async def test_a_body_that_is_not_as_long_as_content_length_says(tmp_path: Path, sent: int, declared: int) -> None:
    async with echoing(tmp_path) as (_, client, _seen):
        exchange = client.begin(client.head("POST", "/", (("Content-Length", str(declared)),)), end=False)
        await client.send(exchange, b"x" * sent, end=True)
        await client.finish(exchange)
        assert exchange.reset == PROTOCOL_ERROR and not exchange.ended
        assert (await client.fetch("/")).status == 200


async def test_host_alone_and_host_that_agrees(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (_, client, seen):
        alone = [*(pair for pair in client.head() if pair[0] != ":authority"), ("host", NAME)]
        assert (await client.finish(client.begin(alone))).status == 200
        agreeing = [*client.head(), ("host", NAME.upper() + ":443")]
        assert (await client.finish(client.begin(agreeing))).status == 200
        assert {request.headers["Host"] for request in seen} == {NAME}


async def test_what_is_too_much_gets_the_answer_of_http_1(tmp_path: Path) -> None:
    limits = ServeSettings(max_target_bytes=300, max_head_bytes=4096, max_fields=20, max_body_bytes=1000)
    async with echoing(tmp_path, limits) as (serving, client, seen):
        assert (await client.fetch("/" + "a" * 400)).status == 414
        assert (await client.fetch("/", headers=(("a", "b" * 5000),))).status == 431
        assert (await client.fetch("/", headers=tuple((f"a{n}", "") for n in range(30)))).status == 431
        assert (await client.fetch("/", headers=(("Expect", "something"),))).status == 417
        assert (await client.fetch("/", "POST", headers=(("Content-Length", "2000"),), body=b"x" * 2000)).status == 413
        assert (await client.fetch("/", "POST", body=b"x" * 2000)).status == 413
        connect = [(":method", "CONNECT"), (":authority", f"{NAME}:443")]
        assert (await client.finish(client.begin(connect))).status == 501
        assert not [request for request in seen if request.method != "POST"]
        assert {record.protocol for record in serving.edge.records} == {"h2"}


async def test_100_continue_is_said_when_the_body_is_wanted(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (_, client, _seen):
        exchange = client.begin(client.head("POST", "/", (("Expect", "100-continue"),)), end=False)
        async with asyncio.timeout(10):
            while not exchange.heads:
                exchange.changed.clear()
                await exchange.changed.wait()
        assert dict(exchange.heads[0])[":status"] == "100"
        await client.send(exchange, b"data", end=True)
        await client.finish(exchange)
        assert exchange.status == 200 and exchange.got.body == b"data"


async def test_early_hints_come_before_the_answer(tmp_path: Path) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\nX: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    async with raw_origin(Saying(hints + answer)) as url, secure_edge(tmp_path, url) as serving:
        exchange = await (await serving.connect()).fetch()
        assert [dict(head)[":status"] for head in exchange.heads] == ["103", "200"]
        hint = dict(exchange.heads[0])
        assert hint["link"] == "</a.css>; rel=preload" and "x" not in hint and "connection" not in hint
        assert exchange.got.body == b"body"


async def test_an_origin_that_breaks_off_resets_the_stream_and_not_the_connection(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(text="fine")
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)  # type: ignore[arg-type]
        await response.write(b"x" * 10)
        request.transport.abort()  # type: ignore[union-attr]
        return response

    async with origin_of(answer) as origin, secure_edge(tmp_path, origin.url) as serving:
        client = await serving.connect()
        broken = await client.fetch("/broken")
        assert broken.reset == int(ErrorCodes.INTERNAL_ERROR) and not broken.ended
        assert (await client.fetch("/")).got.body == b"fine"
        await until(lambda: len(serving.edge.records) == 2)
        assert serving.edge.records[0].truncated and serving.edge.records[0].reason == "reset"


async def test_an_answer_that_needs_no_body_ends_the_upload(tmp_path: Path) -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=403, headers={"Connection": "close"})

    async with origin_of(answer) as origin, secure_edge(tmp_path, origin.url) as serving:
        client = await serving.connect()
        exchange = client.begin(client.head("POST", "/"), end=False)
        await client.send(exchange, b"x" * 1000)
        async with asyncio.timeout(10):
            while exchange.reset is None:
                exchange.changed.clear()
                await exchange.changed.wait()
        assert exchange.status == 403 and exchange.ended and exchange.reset == int(ErrorCodes.NO_ERROR)
        again = await client.fetch("/")
        assert again.status == 403


async def test_a_client_that_resets_its_stream_ends_the_work_for_it(tmp_path: Path) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.Response:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            gone.set()
            raise
        return web.Response()

    async with origin_of(answer) as origin, secure_edge(tmp_path, origin.url) as serving:
        client = await serving.connect()
        exchange = client.begin(client.head("POST", "/"), end=True)
        async with asyncio.timeout(10):
            await asked.wait()
            client.h2.reset_stream(exchange.stream_id, ErrorCodes.CANCEL)
            client.flush()
            await gone.wait()
        await until(lambda: len(serving.edge.records) == 1)
        assert serving.edge.records[0].status == 499


async def test_clients_without_h2_still_speak_http_1_1(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (serving, _, _seen):
        said = await serving.http1(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")


async def curl(serving: Secure, directory: Path, *arguments: str) -> bytes:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    trusted = directory / "authority.pem"
    serving.authority.save(trusted)
    options = ("-sS", "--http2", "--max-time", "20", "--cacert", str(trusted))
    to = ("--connect-to", f"::{serving.address[0]}:{serving.address[1]}")
    process = await asyncio.create_subprocess_exec(
        *("curl", *options, *to, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, errors = await process.communicate()
    if process.returncode == 2:
        pytest.skip("this curl has no HTTP/2")
    assert process.returncode == 0, errors.decode()
    return said


async def test_curl(tmp_path: Path) -> None:
    body = bytes(range(256)) * 8192
    async with echoing(tmp_path) as (serving, _client, _seen):
        (tmp_path / "body").write_bytes(body)
        asking = ("--data-binary", f"@{tmp_path / 'body'}", "-H", "Expect:", f"https://{NAME}/")
        assert await curl(serving, tmp_path, *asking) == body
        format_ = "%{http_version} %{http_code}\n"
        said = await curl(
            serving, tmp_path, "-Z", "--parallel-max", "50", "-o", "/dev/null", "-w", format_, f"https://{NAME}/[1-60]"
        )
        assert said.decode().split("\n")[:-1] == ["2 200"] * 60
        assert (await curl(serving, tmp_path, "-I", f"https://{NAME}/")).startswith(b"HTTP/2 200")


NAMES = st.sampled_from(["accept", "x-a", "x-b", "cookie", "user-agent", "accept-language"])
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)


async def test_bodies_and_fields_are_those_of_http_1(tmp_path: Path) -> None:
    """The same generated request over both, in random order: the same answer, and the origin is asked the same."""

    async def answer(request: web.BaseRequest) -> web.Response:
        body = f"{request.method} {request.path_qs}\n".encode() + await request.read()
        fields = [f"{k.lower()}: {v}" for k, v in request.headers.items() if k.lower() in {"accept", "x-a", "x-b", "cookie"}]
        body += "\n".join(sorted(fields)).encode()
        return web.Response(status=int(request.query.get("s", "200")), body=body, headers={"X-Size": str(len(body)), "Age": "0"})

    loop = asyncio.get_running_loop()
    async with origin_of(answer) as origin, edge_for(origin.url) as edge, secure(edge, Authority(tmp_path)) as serving:
        client = await serving.connect()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "ODD"]),
            st.from_regex(r"/[a-z0-9%/._~-]{0,20}(\?s=(200|404|500|301))?", fullmatch=True),
            st.lists(st.tuples(NAMES, VALUES), max_size=6),
            st.binary(max_size=20_000),
        )
        def same(method: str, path: str, fields: list[tuple[str, str]], body: bytes) -> None:
            asyncio.run_coroutine_threadsafe(compare(method, path, fields, body), loop).result(30)

        async def compare(method: str, path: str, fields: list[tuple[str, str]], body: bytes) -> None:
            content = body if method in {"POST", "PUT", "PATCH"} else None
            crumbs = [value for name, value in fields if name == "cookie"]
            joined = [*(pair for pair in fields if pair[0] != "cookie"), *([("cookie", "; ".join(crumbs))] if crumbs else [])]
            length: Pairs = (("content-length", str(len(content))),) if content is not None else ()
            over_2 = await client.fetch(path, method, headers=(*fields, *length), body=content)
            lines = "".join(f"{name}: {value}\r\n" for name, value in (*joined, *length))
            head = f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n{lines}\r\n"
            said = await serving.http1(head.encode() + (content or b""))
            head_1, _, body_1 = said.partition(b"\r\n\r\n")
            status, *answered = head_1.decode().split("\r\n")
            assert status.split(" ")[1] == str(over_2.status)
            own = ("x-request-id", "cache-status", "connection", "date", "age", "transfer-encoding")
            fields_1 = sorted(line.lower() for line in answered if not line.lower().startswith(own))
            got = over_2.got
            assert fields_1 == sorted(f"{k}: {v}".lower() for k, v in got.headers.items() if not k.startswith(own))
            if over_2.status < 400 or "X-Size" in got.headers:
                assert body_1 == got.body

        await asyncio.to_thread(same)


async def test_content_of_a_get_fills_no_cache_and_is_not_answered_from_it(tmp_path: Path) -> None:
    """RFC 9110 section 9.3.1: it is no part of the key. In HTTP/2 no field has to announce it."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"for " + await request.read(), headers={"Cache-Control": "max-age=60"})

    async with origin_of(answer) as origin, secure_edge(tmp_path, origin.url) as serving:
        client = await serving.connect()
        assert (await client.fetch("/", body=b"evil")).got.body == b"for evil"
        assert (await client.fetch("/")).got.body == b"for "
        assert (await client.fetch("/", body=b"me")).got.body == b"for me"
        together = [client.begin(client.head("GET", "/new"), end=False), client.begin(client.head("GET", "/new"))]
        await until(lambda: origin.count > 3)
        await client.send(together[0], b"evil", end=True)
        assert [(await client.finish(each)).got.body for each in together] == [b"for evil", b"for "]
