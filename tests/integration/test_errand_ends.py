"""Ends of plain misses that leave nothing behind: no flight for ever, no place at an origin, one line a request."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from aiohttp import web

from edgecache.policy.message import Request
from edgecache.policy.rule import CacheRule
from edgecache.serve.misses.errand import Errand
from edgecache.serve.settings import ServeSettings
from edgecache.sites import ActiveVersion, GeneratorRoutes, OnError
from edgecache.source import Begun, Body, Culprit, Interim, Reply, SourceError
from tests.integration.proxy_support import Edge, edge_for, origin_of, raw_origin, read_head, until
from tests.integration.test_proxy_errands import always, response, scripted

ROUTES = GeneratorRoutes(
    name="maker", routes=("/*",), active=(ActiveVersion(1, 100, "site/maker@1"),), rule=CacheRule(), on_error=(OnError.ERROR,)
)


def quiet(edge: Edge) -> bool:
    places = [origin.connections + origin.pending for origin in edge.upstreams.figures()]
    return len(edge.pipeline.flights) == 0 and not any(places)


async def test_a_response_to_be_validated_each_time_is_not_a_followers_when_who_asked_has_left() -> None:
    said = response(b"body", "Cache-Control: no-cache", 'ETag: "a"')
    async with scripted(always(said)) as (edge, origin):
        _reader, writer = await edge.connect()
        writer.write(b"GET /held HTTP/1.1\r\nHost: %b\r\n\r\n" % edge.url("").authority.encode())
        await until(lambda: "/held" in origin.asked)
        other = asyncio.create_task(edge.fetch("/held"))
        await until(lambda: edge.pipeline.flights.joined == 1)
        writer.transport.abort()
        await until(lambda: edge.records[-1].status == 499)
        origin.held.set()
        got = await other
        assert (got.status, got.body) == (200, b"body")
        assert origin.asked.count("/held") == 2
        await until(lambda: quiet(edge))


class Broken:
    """A source with a defect."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        raise SourceError(Culprit.GENERATOR, "bad-answer")

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> Begun | None:
        raise self.error


async def test_a_defect_where_a_request_is_begun_is_answered_and_leaves_no_flight() -> None:
    source = Broken(RuntimeError("a defect"))
    async with edge_for(generators={"maker": source}, routes=(ROUTES,)) as edge:
        for _ in range(2):
            async with asyncio.timeout(5):
                assert (await edge.fetch("/a")).status == 502
        assert quiet(edge)
        assert len(edge.records) == 2


async def test_a_defect_while_an_answer_is_made_is_one_line_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(always(response(b"body", "Cache-Control: max-age=60"))) as (edge, origin):
        monkeypatch.setattr(edge.pipeline.errands.respond, "_stored_lines", _Refusing())
        before = len(edge.records)
        async with asyncio.timeout(5):
            got = await edge.fetch("/a")
        assert (got.status, got.body) == (200, b"body")
        assert len(edge.records) == before + 1
        assert quiet(edge)
        assert origin.asked.count("/a") == 1


class _Refusing(dict[object, bytes]):
    def get(self, key: object, default: object = None) -> bytes:
        raise RuntimeError("a defect")


async def test_pipelined_bytes_that_are_no_request_end_the_connection_after_the_answer_before() -> None:
    async with scripted(always(response(b"body"))) as (edge, origin):
        for bad in (b"GET /x HTTP/1.1\nHost: a\n\n", b"\x00\x01\r\n\r\n", b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n"):
            origin.held.clear()
            before = len(edge.records)
            answering = asyncio.create_task(edge.raw(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" + bad))
            await until(lambda: "/held" in origin.asked)
            origin.asked.clear()
            origin.held.set()
            said = await answering
            assert said.count(b"HTTP/1.1 200 OK") == 1
            assert said.count(b"HTTP/1.1 400 ") == 1
            assert said.index(b"HTTP/1.1 200 OK") < said.index(b"HTTP/1.1 400 ")
            assert len(edge.records) == before + 2
            assert "/x" not in origin.asked


async def test_a_body_behind_a_plain_miss_is_its_own_requests() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        bodies.append((request.path, await request.read()))
        return web.Response(text=request.path)

    inner = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        for framed in (
            b"Content-Length: %d\r\n\r\n%b" % (len(inner), inner),
            b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(inner), inner),
        ):
            bodies: list[tuple[str, bytes]] = []
            await edge.fetch("/first", "POST")
            said = await edge.raw(
                b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
                b"GET /b HTTP/1.1\r\nHost: a\r\n" + framed + b"GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            )
            assert re.findall(rb"\r\n\r\n(/[a-z]+)", said) == [b"/a", b"/b", b"/c"]
            assert bodies == [("/first", b""), ("/a", b""), ("/b", inner), ("/c", b"")]


async def test_a_drain_waits_for_a_plain_miss_and_says_that_the_connection_ends() -> None:
    async with scripted(always(response(b"body"))) as (edge, origin):
        reader, writer = await edge.connect()
        writer.write(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: "/held" in origin.asked)
        closing = asyncio.create_task(edge.listener.close())
        await asyncio.sleep(0.05)
        origin.held.set()
        async with asyncio.timeout(5):
            said = await reader.read(-1)
            await closing
        assert b"Connection: close\r\n" in said
        assert said.endswith(b"body")
        assert edge.records[-1].status == 200


async def test_a_client_that_leaves_between_the_answers_pieces_is_one_line_and_leaves_nothing() -> None:
    """The request has just got a turn, which has not begun."""
    async with scripted(always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc<pause>def<pause>ghi")) as (edge, origin):
        for _ in range(30):
            before = len(edge.records)
            _reader, writer = await edge.connect()
            writer.write(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: "/held" in origin.asked)
            origin.asked.clear()
            origin.held.set()
            writer.transport.abort()
            await until(lambda count=before: len(edge.records) > count and quiet(edge))  # type: ignore[misc]
            await asyncio.sleep(0.01)
            assert len(edge.records) == before + 1
            origin.held.clear()


async def test_an_origin_client_that_is_retired_does_not_leave_a_miss_waiting() -> None:
    async with scripted(always(response(b"body"))) as (edge, origin):
        asking = asyncio.create_task(edge.fetch("/held"))
        await until(lambda: "/held" in origin.asked)
        await edge.upstreams._client.close()
        async with asyncio.timeout(5):
            assert (await asking).status == 502
        assert quiet(edge)


async def test_a_site_that_goes_while_its_miss_is_under_way_leaves_nothing_for_the_next_ones_clients() -> None:
    async with scripted(always(response(b"before", "Cache-Control: max-age=60"))) as (edge, origin):
        asking = asyncio.create_task(edge.fetch("/held"))
        await until(lambda: "/held" in origin.asked)
        (site,) = edge.sites.snapshot.sites
        edge.sites.replace([replace(site, name="next")])
        origin.held.set()
        assert (await asking).body == b"before"
        asked = origin.asked.count("/held")
        assert (await edge.fetch("/held")).status == 200
        assert origin.asked.count("/held") == asked + 1


async def test_a_defect_at_the_next_pipelined_request_ends_its_connection_and_not_the_origins() -> None:
    async with scripted(lambda path: response(path.encode())) as (edge, origin):
        look = edge.pipeline.look

        def broken(request: Request) -> object:
            if request.target == "/defect":
                raise RuntimeError("a defect")
            return look(request)

        edge.pipeline.look = broken  # type: ignore[method-assign,assignment]
        async with asyncio.timeout(5):
            said = await edge.raw(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /defect HTTP/1.1\r\nHost: a\r\n\r\n")
        assert said.endswith(b"\r\n\r\n/a")
        assert (await edge.fetch("/b")).body == b"/b"
        assert origin.ended == 0
        assert quiet(edge)


async def test_a_client_that_stops_reading_holds_no_place_at_the_origin() -> None:
    body = b"x" * 60_000
    settings = ServeSettings(write_timeout=0.5)
    async with scripted(always(response(body)), settings=settings) as (edge, _origin):
        reader, writer = await edge.connect()
        del reader
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(400):
            writer.write(b"GET /n%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        await until(lambda: quiet(edge) and edge.listener.connections == 1, 20)
        assert len(edge.records) < 402
        assert (await edge.fetch("/other")).body == body


async def test_what_an_origin_says_when_it_gives_up_an_idle_connection_is_no_answer() -> None:
    """A 408 that was on its way when the connection was used again (RFC 9110 section 15.5.9)."""
    first = True

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        await read_head(reader)
        writer.write(response(b"first"))
        if not first:
            return
        first = False
        await read_head(reader)
        writer.write(response(b"bye", "Connection: close", status="408 Request Timeout"))
        await writer.drain()

    async with raw_origin(handle) as url, edge_for(url) as edge:
        await edge.fetch("/first")
        got = await edge.fetch("/a")
        assert (got.status, got.body) == (200, b"first")


async def test_who_takes_nothing_of_a_private_answer_holds_up_nobody_on_the_same_connection_to_the_origin() -> None:
    large = response(b"y" * 3_000_000, "Cache-Control: private")
    async with scripted(lambda path: large if path == "/large" else response(b"small", "Cache-Control: no-store")) as (edge, _):
        for _ in range(3):
            _reader, writer = await edge.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.3)
        for number in range(10):
            async with asyncio.timeout(5):
                assert (await edge.fetch(f"/small{number}")).body == b"small"


async def test_a_kept_connection_keeps_no_request() -> None:
    """Not that either whose answer had all been read before anybody waited for it."""
    hinted = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(b"after")
    async with scripted(lambda path: response() if path == "/first" else hinted) as (edge, _origin):
        assert (await edge.fetch("/kept")).body == b"after"
        await until(lambda: quiet(edge))
        gc.collect()
        assert [each for each in gc.get_objects() if isinstance(each, Errand) and each.call.request.target == "/kept"] == []
