"""RFC 9110 section 15.2 and RFC 9112 section 6: what origins send besides one response, over raw sockets."""

from __future__ import annotations

import asyncio

import pytest

from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import Edge, edge_for, raw_origin, read_head

_HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Hint: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
_FINAL = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nbody"


async def answers(edge: Edge, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") -> bytes:
    return await edge.raw(request)


@pytest.mark.parametrize("pieces", [[_HINT + _FINAL], [_HINT, _FINAL], [bytes([byte]) for byte in _HINT + _FINAL]])
async def test_interim_responses_pass_and_are_not_kept(pieces: list[bytes]) -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    async with raw_origin(origin) as url, edge_for(url) as edge:
        first = await answers(edge)
        hint, _, rest = first.partition(b"\r\n\r\n")
        assert hint.startswith(b"HTTP/1.1 103 Early Hints\r\n")
        assert b"Link: </a.css>; rel=preload" in hint
        assert b"X-Hop" not in hint
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
        assert rest.endswith(b"\r\n\r\nbody")
        assert b"X-Hint" not in rest
        again = await answers(edge)
        assert again.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"hit" in again


async def test_several_interim_responses_come_in_order() -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" + _HINT + _FINAL)

    async with raw_origin(origin) as url, edge_for(url) as edge:
        lines = [part.partition(b"\r\n")[0] for part in (await answers(edge)).split(b"\r\n\r\n")]
        assert lines[:3] == [b"HTTP/1.1 102 Processing", b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 200 OK"]


async def test_http_1_0_clients_are_sent_none() -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(_HINT + _FINAL)

    async with raw_origin(origin) as url, edge_for(url) as edge:
        assert (await answers(edge, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


async def test_an_origin_cannot_send_interim_responses_without_end() -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(_HINT * 100 + _FINAL)

    async with raw_origin(origin) as url, edge_for(url, settings=ServeSettings()) as edge:
        assert (await answers(edge)).count(b"103 Early Hints") == 16


@pytest.mark.parametrize("surplus", [b"and more", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
@pytest.mark.parametrize("together", [True, False])
async def test_what_follows_a_complete_response_is_nobody_s(surplus: bytes, together: bool) -> None:
    connections = 0

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_head(reader)
            writer.write(_FINAL.replace(b"max-age=60", b"no-store") + (surplus if together else b""))
            await writer.drain()
            if not together:
                await asyncio.sleep(0.02)
                writer.write(surplus)
                await writer.drain()

    async with raw_origin(origin) as url, edge_for(url) as edge:
        for count in (1, 2, 3):
            assert (await answers(edge)).endswith(b"\r\n\r\nbody")
            await asyncio.sleep(0.05)
            assert connections == count, "a connection that said too much was used again"


async def test_an_upload_is_sent_again_when_a_kept_connection_was_just_closed() -> None:
    seen: list[bytes] = []

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        seen.append(await reader.readexactly(4))
        if len(seen) > 1:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_origin(origin) as url, edge_for(url) as edge:
        request = b"%b / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndata"
        assert (await answers(edge, request % b"PUT")).startswith(b"HTTP/1.1 204")
        assert seen == [b"data", b"data"]
        seen.clear()
        assert (await answers(edge, request % b"POST")).startswith(b"HTTP/1.1 502"), "a POST was sent twice"
        assert seen == [b"data"]
