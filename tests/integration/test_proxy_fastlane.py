"""Remembered heads: the same bytes as the usual way, and never what has been purged, has expired or was meant for another."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate

import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgecache.policy.access import AccessRule
from edgecache.policy.purging import Purge
from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import Clock, Edge, edge_for, origin_of, until

_PURGE_SOFT, _PURGE_HARD = "soft", "hard"
_CHANGING = re.compile(rb"(?m)^(X-Request-Id|Date): [^\r]*\r\n")

_fields = st.sampled_from(
    ["", "Accept-Language: de\r\n", "Accept-Language: en\r\n", "Authorization: Basic YQ==\r\n", "Cache-Control: max-age=3\r\n",
     "Cache-Control: no-cache\r\n", "If-None-Match: \"v\"\r\n", "Range: bytes=0-1\r\n"]
)  # fmt: skip
_asked = st.tuples(st.sampled_from(["GET", "HEAD"]), st.sampled_from(["/a", "/vary", "/brief", "/private"]), _fields)
_seconds = st.sampled_from([0, 0.25, 0.5, 1, 2.75, 5])
_steps = st.lists(_asked | _seconds | st.sampled_from([_PURGE_SOFT, _PURGE_HARD]), min_size=1, max_size=25)


async def _answer(request: web.BaseRequest) -> web.Response:
    headers = {"Cache-Control": "max-age=60", "ETag": '"v"'}
    body = f"{request.path} {request.headers.get('Authorization')}"
    if request.path == "/vary":
        headers["Vary"] = "Accept-Language"
        body += str(request.headers.get("Accept-Language"))
    elif request.path == "/brief":
        headers["Cache-Control"] = "max-age=5"
    elif request.path == "/private":
        headers["Cache-Control"] = "private"
    return web.Response(text=body, headers=headers)


async def _read_answer(reader: asyncio.StreamReader, method: str) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    if method == "HEAD" or b" 304 " in head[:20] or length is None:
        return head
    return head + await reader.readexactly(int(length[1]))


async def _traffic(steps: list[object], heads: int) -> tuple[int, list[bytes], list[object], list[object]]:
    said: list[bytes] = []
    raw: list[bytes] = []
    clock: list[Clock] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        response = await _answer(request)
        response.headers["Date"] = formatdate(clock[0].now, usegmt=True)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, settings=ServeSettings(fast_lane_heads=heads)) as edge:
        clock.append(edge.clock)
        born = edge.clock.now
        reader, writer = await edge.connect()
        for step in steps:
            if isinstance(step, int | float):
                edge.clock.advance(step)
            elif isinstance(step, str):
                for path in ("/a", "/vary", "/brief"):
                    await edge.pipeline.purge(Purge(urls=(f"http://h{path}",), soft=step == _PURGE_SOFT))
            else:
                method, path, fields = step  # type: ignore[misc]
                head = f"{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}"
                for _ in range(3):
                    writer.write(f"{head}\r\n".encode())
                    raw.append(await asyncio.wait_for(_read_answer(reader, method), 10))
                    said.append(_CHANGING.sub(b"", raw[-1]))
        await until(lambda: len(edge.records) == len(said))
        seen = [(request.method, request.path) for request in origin.seen]
        ids = re.findall(rb"X-Request-Id: ([^\r]*)", b"".join(raw))
        assert ids == [record.request_id.encode() for record in edge.records]
        told = [(r.client, r.method, r.uri, r.status, r.bytes_sent, r.cache, r.site, r.time - born) for r in edge.records]
        return edge.fast_hits, said, seen, told


@settings(max_examples=20, deadline=None)
@given(_steps)
@example([("GET", "/a", ""), 0.25, ("GET", "/a", ""), ("HEAD", "/a", ""), _PURGE_SOFT, ("GET", "/a", "")])
def test_it_answers_and_records_as_the_usual_way_does(steps: list[object]) -> None:
    fast_hits, *fast = asyncio.run(_traffic(steps, 64))
    unused, *usual = asyncio.run(_traffic(steps, 0))
    assert unused == 0
    for of_fast, of_usual in zip(fast, usual, strict=True):
        for one, other in zip(of_fast, of_usual, strict=True):
            assert one == other
    # Each request is made three times with the clock at rest: stored, learnt, and answered by the lane.
    lane_can = any(isinstance(step, tuple) and step[:2] == ("GET", "/a") and step[2] == "" for step in steps)
    assert fast_hits > 0 or not lane_can


def test_it_answers_on_the_loop_that_the_edge_runs_on() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        fast_hits, said, seen, told = runner.run(_traffic([("GET", "/a", ""), ("GET", "/a", "")], 64))
    assert (fast_hits, len(said), len(seen), len(told)) == (4, 6, 1, 6)
    assert len(set(said[2:])) == 1


async def test_a_connection_that_only_the_lane_answers_is_kept_while_it_asks_and_closed_when_it_does_not() -> None:
    settings = ServeSettings(keepalive_timeout=1.0)
    async with origin_of(_answer) as origin, edge_for(origin.url, settings=settings) as edge:
        reader, writer = await edge.connect()
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() < started + 2.0:
            writer.write(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.wait_for(_read_answer(reader, "GET"), 10)
            await asyncio.sleep(0.02)
        assert edge.fast_hits > 2
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_client_that_takes_nothing_is_not_answered_without_end() -> None:
    async def large(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=bytes(60_000), headers={"Cache-Control": "max-age=60"})

    async with origin_of(large) as origin, edge_for(origin.url) as edge:
        reader, writer = await edge.connect()
        head = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
        for _ in range(3):
            writer.write(head)
            await asyncio.wait_for(_read_answer(reader, "GET"), 10)
        assert edge.fast_hits == 1
        before, asked = edge.fast_hits, 1000
        for _ in range(asked):
            writer.write(head)
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        assert edge.fast_hits - before < asked
        for _ in range(asked):
            await asyncio.wait_for(_read_answer(reader, "GET"), 10)
        assert origin.count == 1


async def test_a_purged_replaced_or_expired_entry_is_not_remembered() -> None:
    async with origin_of(_answer) as origin, edge_for(origin.url) as edge:
        head = b"GET /brief HTTP/1.1\r\nHost: h\r\n\r\n"
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: edge.pipeline.purge(Purge(urls=("http://h/brief",))),
            lambda: edge.pipeline.purge(Purge(urls=("http://h/brief",), soft=True)),
            lambda: asyncio.to_thread(edge.sites.replace, edge.sites.snapshot.sites),
        ]
        await _several(edge, head, 3)
        assert (origin.count, edge.fast_hits) == (1, 1)
        for change, fetched in zip(changes, (2, 3, 3), strict=True):
            before = edge.fast_hits
            await change()
            assert edge.pipeline.fast_lane.answer(head, "::1") is None
            await _several(edge, head, 3)
            assert origin.count == fetched
            assert edge.fast_hits > before
        edge.clock.advance(5)
        assert edge.pipeline.fast_lane.answer(head, "::1") is None


async def test_a_site_that_restricts_its_clients_has_no_fast_lane() -> None:
    async with origin_of(_answer) as origin, edge_for(origin.url) as edge:
        head = b"GET /brief HTTP/1.1\r\nHost: h\r\n\r\n"
        await _several(edge, head, 3)
        assert edge.fast_hits == 1
        (site,) = edge.sites.snapshot.sites
        edge.sites.replace([replace(site, access=AccessRule(client_rate=1000))])
        await _several(edge, head, 3)
        edge.sites.replace([replace(site, access=AccessRule(deny=("127.0.0.1",)))])
        reader, writer = await edge.connect()
        writer.write(head)
        assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
        assert edge.fast_hits == 1
        assert [record.cache for record in edge.records] == ["miss", *["hit"] * 5, "none"]


async def test_split_and_pipelined_heads_are_answered_in_order() -> None:
    async with origin_of(_answer) as origin, edge_for(origin.url) as edge:
        known, unknown = (b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"a", b"private"))
        reader, writer = await edge.connect()
        for _ in range(2):
            writer.write(known)
            await _read_answer(reader, "GET")
        stream = known * 3 + unknown + known + b"\r\n" + known
        for size in (len(stream), len(known), len(known) + 1, 7):
            for start in range(0, len(stream), size):
                writer.write(stream[start : start + size])
                await writer.drain()
                await asyncio.sleep(0)
            bodies = [(await asyncio.wait_for(_read_answer(reader, "GET"), 10)).rpartition(b"\r\n\r\n")[2] for _ in range(6)]
            assert bodies == [b"/a None"] * 3 + [b"/private None"] + [b"/a None"] * 2
        assert edge.fast_hits == edge.pipeline.fast_hits > 0


async def test_what_it_remembers_is_bounded_in_heads_and_bytes() -> None:
    for bounds in (ServeSettings(fast_lane_heads=3), ServeSettings(fast_lane_bytes=4000)):
        async with origin_of(_answer) as origin, edge_for(origin.url, settings=bounds) as edge:
            for number in range(6):
                await _several(edge, b"GET /a?%d HTTP/1.1\r\nHost: h\r\n\r\n" % number, 2, b"/a None")
            lane = edge.pipeline.fast_lane
            assert len(lane) == 3
            assert 0 < lane.used_bytes <= 4000
            assert lane.answer(b"GET /a?0 HTTP/1.1\r\nHost: h\r\n\r\n", "::1") is None
            assert lane.answer(b"GET /a?5 HTTP/1.1\r\nHost: h\r\n\r\n", "::1") is not None


async def _several(edge: Edge, head: bytes, times: int, ending: bytes = b"/brief None") -> None:
    reader, writer = await edge.connect()
    for _ in range(times):
        writer.write(head[:9])
        await writer.drain()
        writer.write(head[9:])
        answer = await asyncio.wait_for(reader.readuntil(ending), 10)
        assert answer.startswith(b"HTTP/1.1 200 OK")
