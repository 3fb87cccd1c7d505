"""Remembered heads: the same bytes as the usual way, and never what has been purged, has expired or was meant for another."""

from __future__ import annotations

import asyncio
import re
from email.utils import formatdate

from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.purging import Purge
from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import Clock, Edge, edge_for, origin_of, until

_PURGE_SOFT, _PURGE_HARD = "soft", "hard"
_CHANGING = re.compile(rb"(?m)^(X-Request-Id|Date|Age): [^\r]*\r\n")

_fields = st.sampled_from(
    ["", "Accept-Language: de\r\n", "Accept-Language: en\r\n", "Authorization: Basic YQ==\r\n", "Cache-Control: max-age=3\r\n",
     "Cache-Control: no-cache\r\n", "If-None-Match: \"v\"\r\n", "Range: bytes=0-1\r\n"]
)  # fmt: skip
_asked = st.tuples(st.sampled_from(["GET", "HEAD"]), st.sampled_from(["/a", "/vary", "/brief", "/private"]), _fields)
_steps = st.lists(_asked | st.integers(0, 6) | st.sampled_from([_PURGE_SOFT, _PURGE_HARD]), min_size=1, max_size=25)


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


async def _traffic(steps: list[object], heads: int) -> tuple[list[bytes], list[object], list[object]]:
    said: list[bytes] = []
    clock: list[Clock] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        response = await _answer(request)
        response.headers["Date"] = formatdate(clock[0].now, usegmt=True)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, settings=ServeSettings(fast_lane_heads=heads)) as edge:
        clock.append(edge.clock)
        reader, writer = await edge.connect()
        for step in steps:
            if isinstance(step, int):
                edge.clock.advance(step)
            elif isinstance(step, str):
                for path in ("/a", "/vary", "/brief"):
                    edge.pipeline.purge(Purge(urls=(f"http://h{path}",), soft=step == _PURGE_SOFT))
            else:
                method, path, fields = step  # type: ignore[misc]
                head = f"{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}"
                for _ in range(3):
                    writer.write(f"{head}\r\n".encode())
                    said.append(_CHANGING.sub(b"", await asyncio.wait_for(_read_answer(reader, method), 10)))
        await until(lambda: len(edge.records) == len(said))
        seen = [(request.method, request.path) for request in origin.seen]
        return said, seen, [(r.method, r.uri, r.status, r.bytes_sent, r.cache, r.site) for r in edge.records]


@settings(max_examples=20, deadline=None)
@given(_steps)
def test_it_answers_and_records_as_the_usual_way_does(steps: list[object]) -> None:
    for fast, usual in zip(asyncio.run(_traffic(steps, 64)), asyncio.run(_traffic(steps, 0)), strict=True):
        for one, other in zip(fast, usual, strict=True):
            assert one == other


async def test_a_purged_or_expired_entry_is_not_remembered() -> None:
    async with origin_of(_answer) as origin, edge_for(origin.url) as edge:
        head = b"GET /brief HTTP/1.1\r\nHost: h\r\n\r\n"
        await _several(edge, head, 3)
        assert origin.count == 1
        assert edge.pipeline.known_hit(head) is not None
        edge.pipeline.purge(Purge(urls=("http://h/brief",)))
        assert edge.pipeline.known_hit(head) is None
        await _several(edge, head, 2)
        assert origin.count == 2
        assert edge.pipeline.known_hit(head) is not None
        edge.pipeline.purge(Purge(urls=("http://h/brief",), soft=True))
        assert edge.pipeline.known_hit(head) is None
        await _several(edge, head, 2)
        assert origin.count == 3
        assert edge.pipeline.known_hit(head) is not None
        edge.clock.advance(6)
        assert edge.pipeline.known_hit(head) is None


async def _several(edge: Edge, head: bytes, times: int) -> None:
    reader, writer = await edge.connect()
    for _ in range(times):
        writer.write(head[:9])
        await writer.drain()
        writer.write(head[9:])
        answer = await asyncio.wait_for(reader.readuntil(b"/brief None"), 10)
        assert answer.startswith(b"HTTP/1.1 200 OK")
