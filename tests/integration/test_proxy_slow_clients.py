"""Clients that send or take little at a time hold up nobody; those that are merely slow are waited for."""

from __future__ import annotations

import asyncio

import pytest

from edgecache.serve.settings import ServeSettings
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import edge_for, origin_of, plain
from tests.integration.wire_support import echo, split


async def test_a_slow_head_times_out_and_an_idle_connection_is_closed() -> None:
    settings = ServeSettings(head_timeout=0.2, keepalive_timeout=0.3)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        assert split(await edge.raw(b"GET / HTTP/1.1\r\nHo"))[0] == 408
        assert await edge.raw(b"") == b""


async def test_a_stalled_body_times_out() -> None:
    settings = ServeSettings(body_timeout=0.2)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        status, _, body = split(await edge.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel"))
        assert status == 408
        assert b"did not arrive" in body


async def test_bodies_that_come_a_byte_at_a_time_do_not_hold_the_connections_to_an_origin() -> None:
    settings, upstream = ServeSettings(body_timeout=0.5, body_rate=1000), UpstreamSettings(max_connections_per_origin=1)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings, upstream=upstream) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")

        async def dribble() -> None:
            for _ in range(1000):
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        dribbling.cancel()
        assert (await edge.fetch("/", "POST", data=b"hello")).status == 200
        assert edge.records[0].reason == "body-timeout"


async def test_a_body_that_comes_slowly_enough_is_waited_for() -> None:
    settings = ServeSettings(body_timeout=2.0, body_rate=1)
    async with origin_of(echo) as origin, edge_for(origin.url, settings=settings) as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nConnection: close\r\n\r\n")
        for _ in range(30):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 200")


async def test_answers_that_are_taken_a_little_at_a_time_do_not_hold_the_connections_to_an_origin() -> None:
    body = b"x" * (32 << 20)
    settings, upstream = ServeSettings(write_timeout=0.5, write_rate=1 << 30), UpstreamSettings(max_connections_per_origin=1)
    async with (
        origin_of(plain(body, Cache_Control="no-store")) as origin,
        edge_for(origin.url, settings=settings, upstream=upstream) as edge,
    ):
        reader, writer = await edge.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(30):
                while await reader.readexactly(64 << 10):
                    await asyncio.sleep(0.02)
        assert edge.records[0].truncated
        assert origin.count == 1


async def test_who_takes_an_answer_as_it_comes_is_waited_for() -> None:
    settings = ServeSettings(write_timeout=0.4, write_rate=1000)
    async with (
        origin_of(plain(b"x" * (8 << 20), Cache_Control="no-store")) as origin,
        edge_for(origin.url, settings=settings) as edge,
    ):
        reader, writer = await edge.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        size = 0
        while chunk := await reader.read(256 << 10):
            size += len(chunk)
            await asyncio.sleep(0.01)
        assert size > 8 << 20


async def test_a_flood_of_connections_is_none_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with origin_of(echo) as origin, edge_for(origin.url, settings=ServeSettings(max_connections=2)) as edge:
        held = [await edge.connect() for _ in range(60)]
        for reader, _ in held[2:]:
            await asyncio.wait_for(asyncio.gather(reader.read(), return_exceptions=True), 10)
        assert sum("more than 2 connections" in record.getMessage() for record in caplog.records) == 1
        held[0][1].write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert split(await asyncio.wait_for(held[0][0].read(), 10))[0] == 200
