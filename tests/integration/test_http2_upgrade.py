"""WebSockets over HTTP/2 (RFC 8441) to raw origins that speak HTTP/1.1: real sockets, and only bytes in the tunnel."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import socket
import struct
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from edgecache.policy.upgrading import Upgradable
from edgecache.serve.settings import ServeSettings
from tests.integration.h2_support import Client, Exchange, secure_edge
from tests.integration.proxy_support import raw_origin, read_head, until

WEBSOCKET = (Upgradable.WEBSOCKET,)
FIELDS = (("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "https://shop.test"))


class Echo:
    """An origin that switches, and says in capitals what it hears; `end` has it end its side."""

    def __init__(self, answer: bytes = b"", extra: bytes = b"") -> None:
        """`answer`: in place of a right 101; `extra`: bytes that come with its head."""
        self.heads: list[bytes] = []
        self.ended = asyncio.Event()
        self._answer, self._extra = answer, extra

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        self.heads.append(head)
        key = re.search(rb"\r\nSec-WebSocket-Key: (\S+)\r\n", head)
        digest = hashlib.sha1((key[1] if key else b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        switched = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: chat\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        writer.write((self._answer or switched) + self._extra)
        try:
            while data := await reader.read(1 << 16):
                writer.write(data.upper())
                await writer.drain()
                if data.endswith(b"end"):
                    return
        finally:
            self.ended.set()


async def opened(client: Client, path: str = "/chat?x=1") -> Exchange:
    exchange = client.begin(client.head("CONNECT", path, FIELDS, protocol="websocket"), end=False)
    async with asyncio.timeout(10):
        while not exchange.heads and exchange.reset is None:
            exchange.changed.clear()
            await exchange.changed.wait()
    return exchange


async def heard(exchange: Exchange, size: int) -> bytes:
    async with asyncio.timeout(30):
        while len(exchange.body) < size:
            exchange.changed.clear()
            await exchange.changed.wait()
    return bytes(exchange.body)


async def scenario(tmp_path: Path) -> None:
    origin = Echo(extra=b"first")
    async with raw_origin(origin) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        exchange = await opened(client)
        assert client.h2.remote_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
        head = dict(exchange.heads[0])
        assert head[":status"] == "200" and head["sec-websocket-protocol"] == "chat"
        assert not {"sec-websocket-accept", "upgrade", "connection", "content-length"} & set(head)
        asked = origin.heads[0]
        assert asked.startswith(b"GET /chat?x=1 HTTP/1.1\r\nHost: shop.test\r\n")
        assert b"\r\nUpgrade: websocket\r\n" in asked and b"\r\nConnection: Upgrade\r\n" in asked and b"\r\nVia: 2.0 " in asked
        big = os.urandom(3 << 20).replace(b"end", b"...")
        await client.send(exchange, big)
        assert await heard(exchange, len(big) + 5) == b"first" + big.upper()
        other = await client.fetch("/plain", headers=(("x", "y"),))
        assert other.reset is None or other.ended, "other streams go on"
        await client.send(exchange, b"the end")
        await client.finish(exchange)
        assert exchange.body.endswith(b"THE END") and exchange.ended
        await until(lambda: any(record.status == 101 for record in serving.edge.records))
        record = next(record for record in serving.edge.records if record.status == 101)
        assert (record.protocol, record.cache, record.reason, record.site) == ("h2", "bypass", "upgrade", "site")
        assert (record.bytes_sent, record.bytes_received) == (len(big) + 5 + 7, len(big) + 7)


async def test_bytes_pass_both_ways_and_are_counted(tmp_path: Path) -> None:
    await scenario(tmp_path)


def test_on_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario(tmp_path))


async def test_a_client_that_ends_its_side_still_hears(tmp_path: Path) -> None:
    origin = Echo()
    async with raw_origin(origin) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        exchange = await opened(client)
        await client.send(exchange, b"bye", end=True)
        await client.finish(exchange)
        assert exchange.body == b"BYE" and exchange.ended and exchange.reset is None


@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_a_client_that_leaves_frees_the_origin(tmp_path: Path, how: str) -> None:
    origin = Echo()
    async with raw_origin(origin) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        exchange = await opened(client)
        if how == "reset":
            client.h2.reset_stream(exchange.stream_id)
            client.flush()
        else:
            client.writer.transport.abort()
        async with asyncio.timeout(10):
            await origin.ended.wait()
        await until(lambda: [record.status for record in serving.edge.records] == [499])


async def test_an_origin_that_vanishes_ends_the_stream_and_no_other(tmp_path: Path) -> None:
    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Echo(extra=b"x")(reader, writer)

    async with raw_origin(origin) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        first, second = await opened(client), await opened(client)
        await client.send(first, b"end")
        await client.finish(first)
        await client.send(second, b"still")
        assert await heard(second, 6) == b"xSTILL"


async def test_an_origin_that_resets_its_connection_resets_the_stream(tmp_path: Path) -> None:
    """RFC 8441 section 5: what was said may not be all, so it is no orderly end."""
    reset = asyncio.Event()

    class Resetting(Echo):
        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            saying = asyncio.create_task(super().__call__(reader, writer))
            await reset.wait()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            await asyncio.gather(saying, return_exceptions=True)

    async with raw_origin(Resetting(extra=b"half")) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        exchange = await opened(client)
        assert await heard(exchange, 4) == b"half"
        reset.set()
        await client.finish(exchange)
        assert (exchange.ended, exchange.reset) == (False, int(ErrorCodes.CANCEL))
        await until(lambda: len(serving.edge.records) == 1)
        record = serving.edge.records[0]
        assert (record.status, record.reason, record.truncated, record.bytes_sent) == (101, "reset", True, 4)
        reset.clear()
        assert (await opened(client)).status == 200


async def test_what_a_client_does_not_take_in_time_is_no_orderly_end(tmp_path: Path) -> None:
    settings = ServeSettings(tunnel_idle_timeout=0.3)
    async with raw_origin(Echo(extra=bytes(5000))) as url, secure_edge(
        tmp_path, url, upgrade=WEBSOCKET, settings=settings
    ) as serving:  # fmt: skip
        client = await serving.connect({int(SettingCodes.INITIAL_WINDOW_SIZE): 100})
        client.acknowledge = False
        exchange = await client.finish(await opened(client))
        assert (len(exchange.body), exchange.ended, exchange.reset) == (100, False, int(ErrorCodes.CANCEL))


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 502),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 502),
        (b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: dGhl\r\n\r\n", 502),
        (b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 502),
    ],
)
async def test_what_is_no_tunnel_is_never_told_as_one(tmp_path: Path, answer: bytes, status: int) -> None:
    async with raw_origin(Echo(answer)) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        exchange = await client.finish(await opened(client))
        assert exchange.status == status and exchange.ended
        await until(lambda: len(serving.edge.records) == 1)
        assert not serving.edge.pipeline._upgrades.open_by_site  # type: ignore[union-attr]


async def test_where_it_is_not_allowed_nothing_is_asked_and_what_is_stored_does_not_answer(tmp_path: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 4\r\n\r\npage"
    origin = Echo(page)
    async with raw_origin(origin) as url, secure_edge(tmp_path, url) as serving:
        client = await serving.connect()
        assert (await client.fetch("/chat")).status == 200
        exchange = await client.finish(await opened(client, "/chat"))
        assert exchange.status == 501 and len(origin.heads) == 1
        unknown = client.begin(client.head("CONNECT", "/chat", protocol="connect-udp"), end=False)
        assert (await client.finish(unknown)).status == 501


@pytest.mark.parametrize("what", ["method", "ended", "authority"])
async def test_what_is_no_extended_connect_is_malformed(tmp_path: Path, what: str) -> None:
    async with raw_origin(Echo()) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        fields = client.head("GET" if what == "method" else "CONNECT", "/", FIELDS, protocol="websocket")
        if what == "authority":
            fields = [pair for pair in fields if pair[0] != ":authority"]
        exchange = client.begin(fields, end=what == "ended")
        assert (await client.finish(exchange)).reset == 1


async def test_tunnels_end_when_nothing_moves_and_on_draining(tmp_path: Path) -> None:
    settings = ServeSettings(tunnel_idle_timeout=0.5, body_timeout=0.2, drain_timeout=30)
    origin = Echo()
    async with raw_origin(origin) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET, settings=settings) as serving:
        client = await serving.connect()
        exchange = await client.finish(await opened(client), 10)
        assert exchange.ended
        last = await opened(client)
        async with asyncio.timeout(10):
            await serving.listener.close()
        assert last.ended or client.closed.is_set() or last.reset is not None
        assert [record.status for record in serving.edge.records] == [101, 101]


async def test_an_origin_that_does_not_read_holds_the_client_back(tmp_path: Path) -> None:
    read = asyncio.Event()

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        class Slow:
            async def read(self, size: int) -> bytes:
                await read.wait()
                return await reader.read(size)

            async def readuntil(self, end: bytes) -> bytes:
                return await reader.readuntil(end)

        await Echo()(Slow(), writer)  # type: ignore[arg-type]

    async with raw_origin(origin) as url, secure_edge(tmp_path, url, upgrade=WEBSOCKET) as serving:
        client = await serving.connect()
        exchange = await opened(client)
        data = b"x" * (24 << 20)
        sending = asyncio.create_task(client.send(exchange, data))
        await asyncio.sleep(1)
        assert not sending.done()
        read.set()
        await sending
        assert await heard(exchange, len(data)) == data.upper()
