"""What an origin says on a kept connection beyond the response it was asked for answers nobody, however the next request goes."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.proxy_support import edge_for, raw_origin, read_head

FRAMED = {
    "length": b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 3\r\n\r\nabc",
    "chunked": b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n\r\n",
}
MORE = {
    "response": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nevil",
    "chunked response": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "beginning": b"HTTP/1.1 200 OK\r\nX-Evil: yes\r\nX-Rest: ",
    "interim": b"HTTP/1.1 103 Early Hints\r\nX-Evil: yes\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "line": b"\r\n",
    "byte": b"H",
}


def cut(response: bytes, more: bytes, when: str) -> list[bytes]:
    """What is sent at once, and what a moment later."""
    if when == "at once":
        return [response + more]
    head, end, body = response.partition(b"\r\n\r\n")
    return [head + end, body + more] if when == "with its last bytes" else [response, more]


@pytest.mark.parametrize("when", ["at once", "with its last bytes", "later"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("framed", FRAMED)
async def test_what_follows_a_response_answers_nobody(framed: str, more: str, method: str, when: str) -> None:
    connections = 0
    said_more = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        while True:
            head = await read_head(reader)
            if b"/poison" in head and first:
                for part in cut(FRAMED[framed], MORE[more], when):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.02)
                said_more.set()
            else:
                body = b"" if head.startswith(b"HEAD") else b"good"
                writer.write(b"HTTP/1.1 200 OK\r\nX-Good: yes\r\nCache-Control: no-store\r\nContent-Length: 4\r\n\r\n" + body)

    async with raw_origin(handle) as url, edge_for(url) as edge:
        await edge.fetch("/poison")
        await asyncio.wait_for(said_more.wait(), 10)
        await asyncio.sleep(0.02)
        for number in range(3):
            got = await edge.fetch(f"/next{number}", method, data=b"x" if method == "POST" else None)
            assert (got.status, got.headers.get("X-Good"), got.headers.get("X-Evil")) == (200, "yes", None)
            assert got.body == (b"" if method == "HEAD" else b"good")
