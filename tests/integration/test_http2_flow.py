"""HTTP/2 flow control, floods, time limits and draining, on real TLS sockets. Each attack ends its own connection alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
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
from tests.integration.h2_support import NAME, Client, Secure, secure_edge
from tests.integration.proxy_support import origin_of, until

BIG = bytes(range(256)) * 4096
PAGE = bytes(1000)
LARGE = bytes(60_000)
CALM = int(ErrorCodes.ENHANCE_YOUR_CALM)


@contextlib.asynccontextmanager
async def big_edge(directory: Path, settings: ServeSettings | None = None) -> AsyncIterator[Secure]:
    """An edge whose origin has a large page, a slow one, and one that takes what it is sent."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/slow":
            await asyncio.sleep(60)
        if request.path == "/refuses-to-read":
            await asyncio.sleep(0.3)
            return web.Response(body=b"done")
        if request.method == "POST":
            size = 0
            async for chunk in request.content.iter_any():
                size += len(chunk)
            return web.Response(text=str(size))
        body = {"/big": BIG, "/page": PAGE, "/large": LARGE}.get(request.path, b"small")
        cache = "no-store" if request.path.startswith("/miss") else "max-age=600"
        return web.Response(body=body, headers={"Cache-Control": cache, "X-Padding": "p" * (len(body) % 4096)})

    async with origin_of(answer) as origin, secure_edge(directory, origin.url, settings=settings) as serving:
        yield serving


@pytest.mark.parametrize("window", [1, 100, 16_384, 1 << 20])
async def test_any_window_brings_the_whole_body(tmp_path: Path, window: int) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: window})
        path, body = ("/big", BIG) if window > 1000 else ("/small", b"small")
        for _ in range(2):
            assert bytes((await client.fetch(path)).body) == body


async def test_a_shut_window_holds_its_stream_and_no_other(tmp_path: Path) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        client.acknowledge = False
        held = client.begin(client.head(path="/big"))
        async with asyncio.timeout(10):
            while len(held.body) < 1000:
                held.changed.clear()
                await held.changed.wait()
        for _ in range(3):
            assert (await client.fetch("/small")).got.body == b"small"
        assert len(held.body) == 1000 and not held.ended
        client.h2.increment_flow_control_window(len(BIG), held.stream_id)
        client.h2.increment_flow_control_window(len(BIG))
        client.flush()
        await client.finish(held)
        assert bytes(held.body) == BIG


async def test_hits_of_repeated_requests_keep_to_the_windows(tmp_path: Path) -> None:
    """They are answered past the library, which must hold their streams for closed, and their bytes for sent."""
    async with big_edge(tmp_path) as serving:
        client = await serving.connect()
        await client.fetch("/page")
        client.acknowledge = False
        room = client.h2.inbound_flow_control_window
        page = len((await client.fetch("/page")).body)
        exchanges = [client.begin(client.head(path="/page")) for _ in range(90)]
        for exchange in exchanges[: (room - page) // page]:
            assert bytes((await client.finish(exchange)).body) == PAGE
        held = exchanges[-1]
        await asyncio.sleep(0.1)
        assert not held.ended and held.status == 200
        # Late frames for streams that are over.
        for exchange in exchanges[:5]:
            client.raw(WindowUpdateFrame(exchange.stream_id, window_increment=10).serialize())
            client.raw(RstStreamFrame(exchange.stream_id, error_code=8).serialize())
        client.h2.increment_flow_control_window(1 << 24)
        client.acknowledge = True
        client.flush()
        for exchange in exchanges:
            assert bytes((await client.finish(exchange)).body) == PAGE
        again = await client.fetch("/page")
        assert again.ended and "hit" in again.got.cache
        assert [record.cache for record in serving.edge.records] == ["miss"] + ["hit"] * 92


async def test_data_on_the_stream_of_a_hit_is_an_error_of_that_stream(tmp_path: Path) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect()
        for _ in range(3):
            last = await client.fetch("/small")
        client.raw(DataFrame(last.stream_id, data=b"late").serialize())
        assert (await client.fetch("/small")).ended
        assert client.goaway is None


async def test_a_raised_initial_window_opens_streams_that_were_shut(tmp_path: Path) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        held = client.begin(client.head(path="/small"))
        await asyncio.sleep(0.1)
        assert held.status == 200 and not held.body
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        client.flush()
        await client.finish(held)
        assert held.got.body == b"small"


async def test_streams_share_a_slow_connection(tmp_path: Path) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        client.h2.increment_flow_control_window(1 << 30)
        await client.fetch("/big")
        exchanges = [client.begin(client.head(path="/big")) for _ in range(8)]
        async with asyncio.timeout(20):
            while not any(exchange.ended for exchange in exchanges):
                await asyncio.sleep(0.001)
        assert all(exchange.body for exchange in exchanges), "a stream waited until another one was complete"
        for exchange in exchanges:
            await client.finish(exchange)
            assert bytes(exchange.body) == BIG


async def test_what_nobody_reads_is_bounded_by_the_windows(tmp_path: Path) -> None:
    settings = ServeSettings(read_buffer_bytes=64 << 10, http2_window_bytes=256 << 10)
    async with big_edge(tmp_path, settings) as serving:
        client = await serving.connect()
        await client.fetch("/small")
        uploads = [client.begin(client.head("POST", "/slow"), end=False) for _ in range(8)]
        sent = 0
        for upload in uploads:
            while (room := min(client.h2.local_flow_control_window(upload.stream_id), 16_384)) > 0:
                client.h2.send_data(upload.stream_id, b"x" * room)
                client.flush()
                sent += room
        assert sent <= 256 << 10
        assert (await client.fetch("/small")).got.body == b"small"


async def test_uploads_go_on_while_they_are_read(tmp_path: Path) -> None:
    settings = ServeSettings(read_buffer_bytes=4 << 10, http2_window_bytes=64 << 10)
    async with big_edge(tmp_path, settings) as serving:
        client = await serving.connect()
        await client.fetch("/small")
        both = await asyncio.gather(*(client.fetch("/up", "POST", body=BIG) for _ in range(3)))
        assert {exchange.got.body for exchange in both} == {str(len(BIG)).encode()}


async def test_uploads_to_streams_that_are_over_give_the_connection_its_window_back(tmp_path: Path) -> None:
    async with big_edge(tmp_path, ServeSettings(http2_window_bytes=64 << 10)) as serving:
        client = await serving.connect()
        for _ in range(8):
            upload = client.begin(client.head("POST", "/refuses-to-read"), end=False)
            with contextlib.suppress(ConnectionResetError):
                await client.send(upload, b"x" * (60 << 10), end=True)
            await client.finish(upload)
        assert (await client.fetch("/up", "POST", body=b"x" * 100_000)).got.body == b"100000"


def head_block(client: Client, fields: list[tuple[str, str]]) -> bytes:
    return client.h2.encoder.encode(fields)


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


async def test_time_limits(tmp_path: Path) -> None:
    settings = ServeSettings(head_timeout=0.3, keepalive_timeout=0.5, write_timeout=0.5, body_timeout=0.3)
    async with big_edge(tmp_path, settings) as serving:
        context = serving.authority.client("h2")
        _, writer = await asyncio.open_connection(*serving.address, ssl=context, server_hostname=NAME)
        half = await serving.connect()
        await half.fetch("/small")
        half.raw(HeadersFrame(1, data=head_block(half, half.head())).serialize())
        idle = await serving.connect()
        assert (await idle.fetch("/small")).status == 200
        slow_body = await serving.connect()
        exchange = slow_body.begin(slow_body.head("POST", "/up"), end=False)
        assert (await slow_body.finish(exchange)).status == 408
        shut = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 10})
        shut.acknowledge = False
        blocked = await shut.finish(shut.begin(shut.head(path="/big")))
        assert blocked.reset == int(ErrorCodes.CANCEL) and len(blocked.body) == 10
        for client in (half, idle):
            assert await client.ended() == 0
        await until(lambda: serving.listener.connections == 0)
        writer.transport.abort()


async def test_a_body_that_comes_a_byte_at_a_time_is_given_up(tmp_path: Path) -> None:
    async with big_edge(tmp_path, ServeSettings(body_timeout=0.5, body_rate=1000)) as serving:
        client = await serving.connect()
        exchange = client.begin(client.head("POST", "/up"), end=False)
        async with asyncio.timeout(20):
            while not exchange.heads and exchange.reset is None:
                await client.send(exchange, b"x")
                await asyncio.sleep(0.05)
        assert (await client.finish(exchange)).status == 408


async def test_a_window_that_opens_a_byte_at_a_time_is_given_up(tmp_path: Path) -> None:
    async with big_edge(tmp_path, ServeSettings(write_timeout=0.5, write_rate=1000)) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 10})
        client.acknowledge = False
        exchange = client.begin(client.head(path="/big"))
        async with asyncio.timeout(20):
            while exchange.reset is None:
                client.h2.increment_flow_control_window(1, exchange.stream_id)
                client.flush()
                await asyncio.sleep(0.05)
        assert exchange.reset == int(ErrorCodes.CANCEL)
        assert len(exchange.body) < 1000
        steady = client.begin(client.head(path="/small"))
        client.h2.increment_flow_control_window(1 << 20, steady.stream_id)
        client.flush()
        assert (await client.finish(steady)).status == 200


async def test_a_client_that_reads_nothing_is_let_go(tmp_path: Path) -> None:
    async with big_edge(tmp_path, ServeSettings(write_timeout=0.5)) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        client.h2.increment_flow_control_window(1 << 30)
        client.writer.transport.pause_reading()
        for _ in range(20):
            client.begin(client.head(path="/big"))
        await until(lambda: serving.listener.connections == 0, 30)


async def test_answers_without_bodies_that_nobody_reads_do_not_pile_up(tmp_path: Path) -> None:
    """No window holds them back, nor the number of streams, for each is over at once."""
    async with big_edge(tmp_path) as serving:
        client = await serving.connect()
        for method in ("GET", "HEAD", "HEAD"):
            await client.fetch("/page", method)
        (connection,) = serving.listener._connections()
        transport = connection._transport  # type: ignore[union-attr]
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.writer.transport.pause_reading()
        block = head_block(client, client.head("HEAD", "/page"))
        flags = ["END_HEADERS", "END_STREAM"]
        largest, asked = 0, 20_000
        for number in range(asked):
            client.writer.write(HeadersFrame(101 + 2 * number, data=block, flags=flags).serialize())
            if number % 50 == 0:
                await asyncio.sleep(0.001)
                largest = max(largest, transport.get_write_buffer_size())
        assert largest < 1 << 20
        assert len(serving.edge.records) < asked, "the edge went on reading"
        assert not transport.is_closing()


async def test_many_requests_in_one_read_are_not_all_answered_before_the_first_is_sent(tmp_path: Path) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        client.h2.increment_flow_control_window(1 << 30)
        for _ in range(3):
            await client.fetch("/large")
        client.writer.transport.pause_reading()
        block = head_block(client, client.head(path="/large"))
        frames = (HeadersFrame(101 + 2 * n, data=block, flags=["END_HEADERS", "END_STREAM"]).serialize() for n in range(1000))
        client.writer.write(b"".join(frames))
        await until(lambda: len(serving.edge.records) > 10)
        await asyncio.sleep(0.5)
        assert len(serving.edge.records) < 500


async def test_draining_finishes_what_has_begun(tmp_path: Path) -> None:
    async with big_edge(tmp_path, ServeSettings(drain_timeout=10)) as serving:
        client, idle = await serving.connect(), await serving.connect()
        await asyncio.gather(client.fetch("/small"), idle.fetch("/small"))
        begun = client.begin(client.head("POST", "/up"), end=False)
        await until(lambda: serving.listener.connections == 2)
        await client.fetch("/small")
        closing = asyncio.create_task(serving.listener.close())
        assert await idle.ended() == 0
        async with asyncio.timeout(10):
            while client.goaway is None:
                await asyncio.sleep(0.005)
        assert client.goaway == 0 and client.last_stream is not None and client.last_stream >= begun.stream_id
        data = DataFrame(begun.stream_id, data=b"data", flags=["END_STREAM"])
        client.raw(data.serialize())
        async with asyncio.timeout(10):
            await closing
        assert [record.status for record in serving.edge.records if record.method == "POST"] == [200]


async def test_a_client_that_says_goaway_gets_what_it_asked_for(tmp_path: Path) -> None:
    async with big_edge(tmp_path) as serving:
        client = await serving.connect()
        exchange = client.begin(client.head("POST", "/up"), end=False)
        client.raw(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
        await client.send(exchange, b"data", end=True)
        await client.finish(exchange)
        assert exchange.got.body == b"4"
        assert await client.ended() == 0


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
