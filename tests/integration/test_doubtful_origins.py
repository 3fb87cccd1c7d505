"""Responses that are cut off, or whose end is in doubt: they are not taken for whole, and their connection carries no other."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from edgecache.policy.upstream import TlsRule, UpstreamRule
from tests.integration.proxy_support import edge_for, raw_origin, read_head

FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
GOOD = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 4\r\n\r\ngood"
CHUNKED = b"3\r\nabc\r\n0\r\n\r\n"


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST, as the kernel of a process does that died with input unread."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(("end", "whole"), [(close, True), (reset, False)])
async def test_a_reset_is_not_the_end_of_a_body(version: bytes, end: Callable[[asyncio.StreamWriter], None], whole: bool) -> None:
    """RFC 9112 section 8: a body that the connection's end delimits is whole unless the connection was cut off."""
    asked = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_head(reader)
        asked += 1
        writer.write(FRESH.replace(b"1.1", version, 1) + b"\r\nthe beginning")
        await writer.drain()
        await asyncio.sleep(0.1)
        end(writer)

    async with raw_origin(handle) as url, edge_for(url) as edge:
        for _ in range(2):
            reader, writer = await edge.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
            said = await reader.readuntil(b"the beginning")
            (rest,) = await asyncio.gather(reader.read(), return_exceptions=True)
            assert (b"Content-Length: 13" in said or rest == b"\r\n0\r\n\r\n") is whole
        assert asked == (1 if whole else 2)


def shut(writer: asyncio.StreamWriter) -> None:
    """End the connection below TLS, without close_notify, as anybody on the way can."""
    below = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    below.shutdown(socket.SHUT_RDWR)
    below.close()


@pytest.mark.parametrize(
    ("end", "framing", "whole"), [(close, b"", True), (shut, b"", False), (shut, b"Content-Length: 13\r\n", True)]
)
async def test_tls_that_does_not_say_that_it_ends_cuts_a_body_off(
    tmp_path: Path, end: Callable[[asyncio.StreamWriter], None], framing: bytes, whole: bool
) -> None:
    """RFC 9112 section 9.8: but for a body whose length was said."""
    asked = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_head(reader)
        asked += 1
        writer.write(FRESH + framing + b"\r\nthe beginning")
        await writer.drain()
        await asyncio.sleep(0.1)
        end(writer)

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, edge_for(url, upstream_rule=UpstreamRule(tls=TlsRule(ca=str(tmp_path / "ca.pem")))) as edge:
        for _ in range(2):
            reader, writer = await edge.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
            said = await reader.readuntil(b"the beginning")
            (rest,) = await asyncio.gather(reader.read(), return_exceptions=True)
            assert (b"Content-Length: 13" in said or rest == b"\r\n0\r\n\r\n") is whole
        assert asked == (1 if whole else 2)


DOUBTFUL = {
    "RFC9112-6.1 a transfer coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a coding that says nothing before chunked": FRESH + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "an empty coding before chunked": FRESH + b"Transfer-Encoding: ,chunked\r\n\r\n" + CHUNKED,
    "a framing field with a space beside a length": FRESH + b"Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc",
    "a control character": FRESH + b"X: a\x01b\r\nContent-Length: 3\r\n\r\nabc",
    "a status beyond all classes": b"HTTP/1.1 600 OK\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", DOUBTFUL)
async def test_a_connection_with_a_doubtful_response_is_not_used_again(name: str, method: str) -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            head = await read_head(reader)
            writer.write(DOUBTFUL[name] if b"/doubtful" in head else GOOD)

    async with raw_origin(handle) as url, edge_for(url) as edge:
        await edge.fetch("/doubtful", method)
        assert (await edge.fetch("/other")).body == b"good"
        assert connections == 2


@pytest.mark.parametrize("status", [b"000", b"099"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_status_below_all_classes_is_no_interim_response(status: bytes, method: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with raw_origin(handle) as url, edge_for(url) as edge, asyncio.timeout(10):
        got = await edge.fetch("/", method)
        assert got.status == 502
        assert "detail=protocol" in got.cache
