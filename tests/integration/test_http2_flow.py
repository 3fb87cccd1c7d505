"""HTTP/2 flow control, time limits and draining, on real TLS sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from edgecache.serve.settings import ServeSettings
from tests.integration.h2_support import BIG, NAME, PAGE, big_edge, head_block
from tests.integration.proxy_support import until


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
