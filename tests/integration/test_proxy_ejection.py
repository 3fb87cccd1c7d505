"""A site's origin that refuses connections is asked last until its pause is over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import Edge, edge_for, origin_of, plain, read_head

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: no-store\r\nConnection: close\r\n\r\nfirst"


def reserved() -> socket.socket:
    """A port that refuses connections: bound, not listening."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    return port


@contextlib.asynccontextmanager
async def listening(port: socket.socket) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, sock=port):
        yield


@contextlib.asynccontextmanager
async def two_origins(settings: UpstreamSettings) -> AsyncIterator[tuple[Edge, socket.socket]]:
    """An edge whose first origin refuses connections, and that origin's port; the other one answers."""
    port = reserved()
    first = f"http://127.0.0.1:{port.getsockname()[1]}"
    async with (
        origin_of(plain(b"second", cache_control="no-store")) as second,
        edge_for(first, second.url, upstream=settings) as edge,
    ):
        yield edge, port


async def bodies(edge: Edge, count: int) -> set[bytes]:
    return {(await edge.fetch(f"/{number}")).body for number in range(count)}


async def test_an_ejected_origin_is_not_asked_while_another_answers() -> None:
    settings = UpstreamSettings(ejection_failures=2, ejection_time=3600.0)
    async with two_origins(settings) as (edge, port):
        assert await bodies(edge, 2) == {b"second"}
        async with listening(port):
            assert await bodies(edge, 3) == {b"second"}


async def test_an_origin_is_asked_first_again_after_its_pause() -> None:
    settings = UpstreamSettings(ejection_failures=1, ejection_time=10.0)
    async with two_origins(settings) as (edge, port):
        assert await bodies(edge, 1) == {b"second"}
        async with listening(port):
            assert await bodies(edge, 1) == {b"second"}
            edge.ticks.advance(10.0)
            assert await bodies(edge, 1) == {b"first"}


async def test_a_lone_ejected_origin_is_still_asked() -> None:
    settings = UpstreamSettings(ejection_failures=1, ejection_time=3600.0)
    port = reserved()
    async with edge_for(f"http://127.0.0.1:{port.getsockname()[1]}", upstream=settings) as edge:
        assert (await edge.fetch("/")).status == 502
        async with listening(port):
            assert await bodies(edge, 1) == {b"first"}
