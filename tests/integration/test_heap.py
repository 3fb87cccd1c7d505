"""The collector's pauses are bounded, and nothing needs the collector to be freed after it was set apart."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from edgecache.serve.http1.connection import Connection
from edgecache.upstream.http1.origin_protocol import OriginProtocol
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import Edge, edge_for, origin_of, plain, until

PROGRAM = """
import gc
from edgecache.heap import Heap

ended = []
gc.callbacks.append(lambda phase, info: ended.append(info["generation"]) if phase == "stop" else None)
heap = Heap()
heap.begin()
ended.clear()
kept = [[number] for number in range(500_000)]
assert set(ended) == {0}, "a larger collection by itself"
assert heap.look(), "nothing was done about 500,000 objects"
assert ended.count(1) == 1
assert gc.get_freeze_count() > 500_000
assert not heap.look()
ended.clear()
more = [[number] for number in range(5_000)]
assert not heap.look()
assert set(ended) <= {0}
"""

STORE = """
import gc
from lru import LRU
from edgecache.heap import Heap
from edgecache.store.groups import GroupIndex

heap = Heap()
heap.begin()
stored, sites = LRU(2**31 - 1), GroupIndex()


def fill(start, count):
    made = [[number] for number in range(20_000)]
    for number in range(start, start + count):
        key = (f"http://a.test/{number}", "")
        stored[key] = b""
        sites.add("a", key)


def young():
    return max(len(gc.get_referents(thing)) for generation in range(3) for thing in gc.get_objects(generation))


fill(0, 200_000)
assert heap.look()
fill(200_000, 10)
assert young() < 100_000, "all that is stored is among what is looked at next"
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector works in increments")
def test_full_collections_are_our_own_and_what_they_found_is_not_looked_at_again() -> None:
    # In a process of its own: this one's collector is everybody's.
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector works in increments")
def test_what_is_stored_is_not_looked_at_again_when_something_is_added() -> None:
    subprocess.run([sys.executable, "-c", STORE], check=True, timeout=60)


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(edge: Edge) -> int:
    """Connections of `edge` that are in memory."""
    return sum(isinstance(thing, Connection) and thing._pipeline is edge.pipeline for thing in gc.get_objects())


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_connection_is_freed_without_the_collector(without_collector: None, reachable: bool) -> None:
    answer = plain(b"page", **{"Cache-Control": "max-age=60"})
    async with origin_of(answer) as origin, edge_for(origin.url if reachable else "http://127.0.0.1:1") as edge:
        for number in range(20):
            reader, writer = await edge.connect()
            for path in (f"/{number}", "/same", "/same"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                await reader.readuntil(b"page" if reachable else b'"request_id"')
        assert alive(edge) == 20
        await edge.hang_up()
        await until(lambda: not edge.listener.connections)
        await until(lambda: not alive(edge))


async def test_a_connection_to_an_origin_is_freed_without_the_collector(without_collector: None) -> None:
    settings = UpstreamSettings(keepalive_timeout=0.2)
    answer = plain(b"page", **{"Cache-Control": "no-store"})
    async with origin_of(answer) as origin, edge_for(origin.url, upstream=settings) as edge:
        before = to_origins()
        for number in range(4):
            await asyncio.gather(*(edge.fetch(f"/{number}-{other}") for other in range(5)))
        assert to_origins() > before
        await until(lambda: to_origins() <= before)


def to_origins() -> int:
    return sum(isinstance(thing, OriginProtocol) for thing in gc.get_objects())
