"""HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3): on the port of HTTP/1.1, and only where it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from edgecache.config import load
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.http2.frames import PREFACE
from edgecache.serve.settings import ServeSettings
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.h2_support import Client
from tests.integration.proxy_support import Edge, edge_for, origin_of, plain, until

H2C = ServeSettings(h2c=True)
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def edge_with(settings: ServeSettings = H2C) -> AsyncIterator[Edge]:
    async with origin_of(plain(b"page", Cache_Control="max-age=600")) as origin, edge_for(origin.url, settings=settings) as edge:
        yield edge


@contextlib.asynccontextmanager
async def client_of(address: tuple[str, int], before: bytes = b"") -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*address)
    if before:
        writer.write(before)
    client = Client(reader, writer)
    client.authority = "a"
    try:
        yield client
    finally:
        await client.close()


async def scenario() -> None:
    async with edge_with() as edge:
        async with client_of(edge.address) as client:
            for _ in range(3):
                got = await client.fetch("/", scheme="http")
                assert (got.status, got.got.body) == (200, b"page")
        said = await edge.raw(GET)
        assert said.startswith(b"HTTP/1.1 200 OK") and b"; hit" in said, "both share what is stored"
        assert [record.protocol for record in edge.records] == ["h2", "h2", "h2", "http/1.1"]
        assert [record.cache for record in edge.records] == ["miss", "hit", "hit", "hit"]
        assert all(record.client == "127.0.0.1" and record.uri == "http://a/" for record in edge.records)
        await until(lambda: edge.listener.connections == 0)


async def test_both_protocols_on_one_port() -> None:
    await scenario()


def test_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_unless_it_was_asked_for_the_preface_is_no_request() -> None:
    async with edge_with(ServeSettings()) as edge:
        assert (await edge.raw(PREFACE)).startswith(b"HTTP/1.1 400 ")


async def test_an_upgrade_to_it_is_never_accepted() -> None:
    asking = b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
    async with edge_with() as edge:
        assert (await edge.raw(GET.replace(b"Connection: close", asking))).startswith(b"HTTP/1.1 200 OK")


@given(
    cuts=st.lists(st.integers(1, len(PREFACE) + 60), max_size=6),
    begins=st.sampled_from([b"GET /", b"PUT /", b"PRI /", b"PRI *"]),
)
@tuned(deadline=None, max_examples=40)
def test_however_the_first_bytes_are_cut_other_requests_stay_those_of_http_1(cuts: list[int], begins: bytes) -> None:
    asyncio.run(_cut(sorted(set(cuts)), begins))


async def _cut(cuts: list[int], begins: bytes) -> None:
    message = begins + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with edge_with() as edge:
        reader, writer = await edge.connect()
        for start, end in zip((0, *cuts), (*cuts, None), strict=True):
            writer.write(message[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 ")


async def test_a_preface_in_pieces() -> None:
    async with edge_with() as edge:
        reader, writer = await edge.connect()
        for byte in PREFACE:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert (await reader.readexactly(9))[3] == 4, "SETTINGS"


async def test_who_says_nothing_or_half_of_it_is_let_go() -> None:
    async with edge_with(replace(H2C, head_timeout=0.3, keepalive_timeout=0.6)) as edge:
        for beginning in (b"", PREFACE[:10]):
            reader, writer = await edge.connect()
            writer.write(beginning)
            async with asyncio.timeout(10):
                assert await reader.read(-1) == b""
        await until(lambda: edge.listener.connections == 0)


async def test_who_has_not_begun_counts_and_does_not_hold_up_the_end() -> None:
    async with edge_with(replace(H2C, max_connections=2, drain_timeout=30)) as edge:
        silent, _writer = await edge.connect()
        await until(lambda: edge.listener.connections == 1)
        async with client_of(edge.address) as client:
            assert (await client.fetch("/", scheme="http")).status == 200
            assert edge.listener.connections == 2
            assert await edge.raw(GET) == b"", "one too many"
        async with asyncio.timeout(10):
            await edge.listener.close()
            assert await silent.read(-1) == b""


async def test_behind_the_proxy_protocol_too() -> None:
    async with edge_with() as edge:
        listener = Listener(edge.pipeline, proxies=("127.0.0.0/8",))
        address = await listener.start()
        try:
            async with client_of(address, b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n") as client:
                assert (await client.fetch("/", scheme="http")).status == 200
            assert edge.records[-1].client == "192.0.2.7" and edge.records[-1].protocol == "h2"
        finally:
            await listener.close()


async def test_a_reload_turns_it_on_for_new_connections() -> None:
    async with edge_with(ServeSettings()) as edge:
        edge.pipeline.change(H2C, UpstreamSettings())
        edge.listener.change()
        async with client_of(edge.address) as client:
            assert (await client.fetch("/", scheme="http")).status == 200


def test_the_configuration_turns_it_on(tmp_path: Path) -> None:
    written = tmp_path / "edge.yaml"
    written.write_text("serve: {h2c: true}\n")
    assert load(written).serve.h2c
    written.write_text("serve: {}\n")
    assert not load(written).serve.h2c
