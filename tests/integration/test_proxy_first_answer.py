"""What the client gets whose request brings a response into the store: all that the origin has sent, not what is kept of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.proxy_support import Saying, edge_for, raw_origin, read_head

NAMED = b"Cache-Control: public, max-age=60, %b\r\nX-Own: yours\r\n"
FRAMINGS = {
    "length": b"Content-Length: 2\r\n%b\r\nok",
    "chunked": b"Transfer-Encoding: chunked\r\n%b\r\n2\r\nok\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("named", [b'no-cache="x-own"', b'private="x-own"'])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_fields_that_are_not_stored_reach_who_asked_first(framing: str, named: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing] % (NAMED % named)
    async with raw_origin(Saying(answer, stays=True)) as url, edge_for(url) as edge:
        first, second = await edge.fetch("/"), await edge.fetch("/")
    assert (first.headers.get("X-Own"), second.headers.get("X-Own")) == ("yours", None)
    assert first.body == second.body == b"ok"
    assert "stored" in first.cache and "hit" in second.cache


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_a_body_that_comes_late_is_answered_like_one_that_comes_at_once(pause: float) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nAge: 7\r\nX-A: 1\r\nContent-Length: 4\r\n\r\n")
        await asyncio.sleep(pause)
        writer.write(b"bo")
        await asyncio.sleep(pause)
        writer.write(b"dy")
        await writer.drain()

    async with raw_origin(serve) as url, edge_for(url) as edge:
        got = await edge.fetch("/")
    assert (got.status, got.body, got.headers["X-A"], got.headers["Age"]) == (200, b"body", "1", "7")
    assert got.headers.getall("Content-Length") == ["4"]
    assert "fwd=uri-miss" in got.cache and "stored" in got.cache
