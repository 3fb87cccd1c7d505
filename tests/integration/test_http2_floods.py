"""HTTP/2 attacks on real TLS sockets: floods, resets, endless field blocks, mangled frames. Each ends its connection alone."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from edgecache.serve.settings import ServeSettings
from tests.integration.h2_support import NAME, Client, big_edge, head_block
from tests.integration.proxy_support import until

CALM = int(ErrorCodes.ENHANCE_YOUR_CALM)


def frames_of(client: Client, what: str) -> bytes:
    """One round of an attack."""
    match what:
        case "pings":
            return PingFrame(0, opaque_data=b"12345678").serialize() * 1000
        case "settings":
            return SettingsFrame(0, settings={SettingCodes.INITIAL_WINDOW_SIZE: 70_000}).serialize() * 1000
        case "priorities":
            return PriorityFrame(1, depends_on=0, stream_weight=1).serialize() * 1000
        case "window updates":
            return WindowUpdateFrame(0, window_increment=1).serialize() * 1000
        case "unknown frames":
            return b"\x00\x00\x00\xfb\x00\x00\x00\x00\x00" * 1000
        case "empty data":
            return DataFrame(1, data=b"").serialize() * 1000
        case "resets of nothing":
            return RstStreamFrame(1, error_code=8).serialize() * 1000
    raise ValueError(what)


@pytest.mark.parametrize(
    "what", ["pings", "settings", "priorities", "window updates", "unknown frames", "empty data", "resets of nothing"]
)
async def test_floods_end_their_connection(tmp_path: Path, what: str) -> None:
    async with big_edge(tmp_path) as serving:
        client, other = await serving.connect(), await serving.connect()
        upload = client.begin(client.head("POST", "/up"), end=False)
        assert upload.stream_id == 1
        for _ in range(20):
            client.raw(frames_of(client, what))
            await asyncio.sleep(0)
        assert await client.ended() in (CALM, None)
        assert (await other.fetch("/small")).got.body == b"small"
        assert serving.listener.connections == 1


async def test_rapid_reset_ends_its_connection(tmp_path: Path) -> None:
    """CVE-2023-44487."""
    async with big_edge(tmp_path) as serving:
        client, other = await serving.connect(), await serving.connect()
        for _ in range(1000):
            if client.closed.is_set():
                break
            exchange = client.begin(client.head(path=f"/miss{random.random()}"))
            client.h2.reset_stream(exchange.stream_id, ErrorCodes.CANCEL)
            client.flush()
            await asyncio.sleep(0)
        assert await client.ended() in (CALM, None)
        assert (await other.fetch("/small")).got.body == b"small"
        await until(lambda: serving.listener.connections == 1)


async def test_errors_that_make_the_edge_reset_are_counted_alike(tmp_path: Path) -> None:
    """CVE-2025-8671."""
    async with big_edge(tmp_path) as serving:
        client = await serving.connect()
        for _ in range(1000):
            if client.closed.is_set():
                break
            client.begin([*client.head(), ("connection", "close")])
            await asyncio.sleep(0)
        assert await client.ended() in (CALM, None)


async def test_a_field_block_without_end_is_not_kept(tmp_path: Path) -> None:
    """CVE-2024-27316 and the like."""
    async with big_edge(tmp_path) as serving:
        for piece in (b"", b"\x00\x01a\x01b" * 2000):
            client = await serving.connect()
            client.raw(HeadersFrame(1, data=head_block(client, client.head())).serialize())
            for _ in range(100):
                client.raw(ContinuationFrame(1, data=piece).serialize())
            assert await client.ended() in (CALM, None)
        assert not serving.edge.records


async def test_fields_that_are_many_when_decoded_are_refused(tmp_path: Path) -> None:
    """CVE-2016-6581: an indexed field of a few bytes on the wire, thousands of times."""
    async with big_edge(tmp_path) as serving:
        client = await serving.connect()
        large = client.head() + [("x-large", "v" * 3000)] * 200
        exchange = client.begin(large)
        await asyncio.wait([asyncio.ensure_future(client.closed.wait()), asyncio.ensure_future(client.finish(exchange))],
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        assert not exchange.heads or exchange.status == 431


async def test_more_streams_than_allowed_are_refused_and_may_be_sent_again(tmp_path: Path) -> None:
    async with big_edge(tmp_path, ServeSettings(http2_streams=4)) as serving:
        client = await serving.connect()
        # Before the client has read how many it may open.
        slow = [client.begin(client.head(path="/slow")) for _ in range(6)]
        for exchange in slow[4:]:
            await client.finish(exchange)
            assert exchange.reset == int(ErrorCodes.REFUSED_STREAM)
        assert [exchange.reset for exchange in slow[:4]] == [None] * 4


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + PingFrame(0, opaque_data=b"12345678").serialize(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0, flags=["ACK"]).serialize(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00",
    ],
    ids=["HTTP/1.1", "half a preface", "no SETTINGS", "SETTINGS that acknowledge nothing", "a frame of 16 MiB"],
)
async def test_what_is_no_http_2_ends_the_connection(tmp_path: Path, data: bytes) -> None:
    async with big_edge(tmp_path) as serving:
        context = serving.authority.client("h2")
        reader, writer = await asyncio.open_connection(*serving.address, ssl=context, server_hostname=NAME)
        writer.write(data)
        async with asyncio.timeout(10):
            said = await reader.read(-1)
        assert b"\x07\x00\x00\x00\x00\x00" in said, "no GOAWAY"
        writer.transport.abort()
        assert not serving.edge.records


def mutated(rng: random.Random, client: Client) -> bytes:
    """A frame that is nearly right."""
    stream_id = rng.choice([0, 1, 1, 2, 3, 3, 5, 2**31 - 1])
    frames: list[Frame] = [
        DataFrame(1, data=rng.randbytes(rng.randrange(50))),
        HeadersFrame(1, data=head_block(client, client.head()), flags=["END_HEADERS"]),
        HeadersFrame(1, data=rng.randbytes(20), flags=["END_HEADERS", "END_STREAM"]),
        PriorityFrame(1, depends_on=rng.randrange(4)),
        RstStreamFrame(1, error_code=rng.randrange(1 << 32)),
        SettingsFrame(0, settings={rng.randrange(12): rng.randrange(1 << 32)}),
        PushPromiseFrame(1, promised_stream_id=2),
        PingFrame(0, opaque_data=b"12345678"),
        GoAwayFrame(0),
        WindowUpdateFrame(0, window_increment=rng.randrange(1, 1 << 31)),
        ContinuationFrame(1, data=b"", flags=["END_HEADERS"]),
    ]
    data = bytearray(rng.choice(frames).serialize())
    data[5:9] = stream_id.to_bytes(4, "big")
    for _ in range(rng.choice([0, 0, 1, 2])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


async def test_nearly_right_frames_never_surprise_the_edge(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Invariant: whatever comes, a connection answers or ends; nothing is logged as an error, and others are served."""
    rng = random.Random(9113)
    async with big_edge(tmp_path, ServeSettings(head_timeout=0.3, keepalive_timeout=0.5)) as serving:
        with caplog.at_level(logging.WARNING):
            for _ in range(150):
                client = await serving.connect()
                client.h2.encoder.header_table_size = 0
                client.begin(client.head(rng.choice(["GET", "POST"]), path="/small"), end=rng.random() < 0.5)
                for _ in range(rng.randrange(1, 12)):
                    client.raw(mutated(rng, client))
                await asyncio.sleep(0)
                if rng.random() < 0.5:
                    await asyncio.sleep(0.01)
                await client.close()
                serving.clients.remove(client)
            assert (await (await serving.connect()).fetch("/small")).got.body == b"small"
        await until(lambda: serving.listener.connections <= 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
