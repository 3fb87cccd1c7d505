"""Origins whose heads could be read in two ways: what another reader behind this edge would make of them is not sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.integration.proxy_support import Edge, Saying, edge_for, raw_origin, read_head

FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"


@asynccontextmanager
async def edge_before(answer: bytes) -> AsyncIterator[Edge]:
    """An edge before an origin that answers each request so, and closes."""
    async with raw_origin(Saying(answer)) as url, edge_for(url) as edge:
        yield edge


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Transfer-Encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="RFC9112-5.1 a framing field with a space"),
        pytest.param(b"Content-Length : 2\r\n\r\nabc", id="a length with a space"),
        pytest.param(b"Set-Cookie : session=1\r\nContent-Length: 3\r\n\r\nabc", id="a cookie that no rule would see"),
        pytest.param(b"Cache-Control : no-store\r\nContent-Length: 3\r\n\r\nabc", id="a refusal that no rule would see"),
        pytest.param(b"Transfer-Encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="RFC9112-6.1 another coding last"),
        pytest.param(b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="RFC9112-7.2 a coding nobody undoes"),
        pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="RFC9112-6.1 twice"),
        pytest.param(b"Transfer-Encoding: identity\r\n\r\nabc", id="RFC9112-7 no coding of HTTP/1.1"),
        pytest.param(b"Transfer-Encoding:\r\n\r\nabc", id="no coding at all"),
        pytest.param(b"Transfer-Encoding: abc\r\nContent-Length: 2\r\n\r\nabc", id="RFC9112-6.3 two ways to end"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_head_with_two_readings_is_refused(lines: bytes, method: str) -> None:
    async with edge_before(FRESH + lines) as edge:
        for _ in range(2):
            got = await edge.fetch("/", method, data=b"x" if method == "POST" else None)
            assert got.status == 502
            assert "detail=protocol" in got.cache


async def test_chunked_alone_is_understood_in_any_case() -> None:
    async with edge_before(FRESH + b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n") as edge:
        assert (await edge.fetch("/")).body == b"abc"


async def test_what_is_no_transfer_coding_says_nothing_and_goes_no_further() -> None:
    async with edge_before(FRESH + b"Transfer-Encoding: 1.5\r\n\r\nabc") as edge:
        for _ in range(2):
            got = await edge.fetch("/")
            assert (got.status, got.body) == (200, b"abc")
            assert got.headers.get("Transfer-Encoding", "").lower() in ("", "chunked")


async def test_an_interim_response_with_two_readings_is_dropped() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nContent-Length : 9\r\n\r\n"
    async with edge_before(early + FRESH + b"Content-Length: 3\r\n\r\nabc") as edge:
        said = await edge.raw(b"GET / HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert said.endswith(b"abc")


async def test_an_answer_has_one_request_id_and_it_is_the_requests_own() -> None:
    """Origins echo what they are sent: a stored one would be the first client's."""
    async with edge_before(FRESH + b"X-Request-Id: another\r\nContent-Length: 3\r\n\r\nabc") as edge:
        for _ in range(3):
            got = await edge.fetch("/")
            assert got.headers.getall("X-Request-Id") == [edge.records[-1].request_id]


async def test_what_follows_a_whole_response_answers_nobody() -> None:
    """On a kept connection: the next request has another one, and its own answer."""
    connections = 0
    said_more, closed = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 3\r\n\r\nabc")
        await writer.drain()
        if connections == 1:
            await asyncio.wait_for(said_more.wait(), 10)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            await writer.drain()
            await reader.read()
            closed.set()

    async with raw_origin(handle) as url, edge_for(url) as edge:
        assert (await edge.fetch("/")).body == b"abc"
        said_more.set()
        await asyncio.wait_for(closed.wait(), 10)
        assert (await edge.fetch("/")).body == b"abc"
        assert connections == 2
