"""Identical concurrent misses share one upstream request; what cannot be shared delays nobody."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from edgecache.policy.rule import CacheRule
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import Edge, edge_for, origin_of, until

CACHED = {"Cache-Control": "max-age=60"}


async def test_concurrent_misses_make_one_upstream_request() -> None:
    gate = asyncio.Event()

    async def slow(_request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response(body=b"x" * 100_000, headers=CACHED)

    async with origin_of(slow) as origin, edge_for(origin.url) as edge:
        fetches = [asyncio.create_task(edge.fetch("/a")) for _ in range(50)]
        await until(lambda: sum(len(f.seats) for f in edge.pipeline.flights._flights.values()) == 50)
        gate.set()
        got = await asyncio.gather(*fetches)
        assert origin.count == 1
        assert {(g.status, len(g.body)) for g in got} == {(200, 100_000)}
        assert sum("collapsed" in g.cache for g in got) == 49
        assert sum(r.collapsed for r in edge.records) == 49


async def test_late_joiner_gets_the_body_from_its_start() -> None:
    gate = asyncio.Event()

    async def halves(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=CACHED)
        await response.prepare(request)
        await response.write(b"first")
        await gate.wait()
        await response.write(b"second")
        return response

    async with origin_of(halves) as origin, edge_for(origin.url) as edge:
        async with edge.client.get(edge.url("/a")) as early:
            assert await early.content.readexactly(5) == b"first"
            async with edge.client.get(edge.url("/a")) as late:
                assert await late.content.readexactly(5) == b"first"
                gate.set()
                assert await late.content.read() == b"second"
            assert await early.content.read() == b"second"
        assert origin.count == 1
        assert (await edge.fetch("/a")).body == b"firstsecond"
        assert origin.count == 1


@pytest.mark.parametrize("directives", ["no-store", "private", "no-cache", "max-age=0"])
async def test_uncacheable_responses_are_not_serialised(directives: str) -> None:
    """The barrier opens only when all requests but the first are at the origin at once."""
    first, others = asyncio.Event(), asyncio.Barrier(9)

    async def answer(request: web.BaseRequest) -> web.Response:
        if origin.count == 1:
            await first.wait()
        else:
            await asyncio.wait_for(others.wait(), 10)
        return web.Response(body=b"mine", headers={"Cache-Control": directives, "ETag": f'"{origin.count}"'})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        fetches = [asyncio.create_task(edge.fetch("/a")) for _ in range(10)]
        await until(lambda: seats(edge) == 10)
        first.set()
        got = await asyncio.gather(*fetches)
        assert [g.status for g in got] == [200] * 10
        assert origin.count == 10


async def test_uncacheable_keys_are_remembered_and_forgotten() -> None:
    directives = "no-store"
    barrier = asyncio.Barrier(5)
    wait = False

    async def answer(_request: web.BaseRequest) -> web.Response:
        if wait:
            await asyncio.wait_for(barrier.wait(), 10)
        return web.Response(body=b"x", headers={"Cache-Control": directives})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        wait = True
        await asyncio.gather(*(edge.fetch("/a") for _ in range(5)))
        wait, directives = False, "max-age=60"
        await edge.fetch("/a")
        count = origin.count
        assert (await edge.fetch("/a")).cache.startswith("edgecache; hit")
        assert origin.count == count


async def test_a_leader_that_leaves_does_not_end_the_flight() -> None:
    gate = asyncio.Event()

    async def slow(_request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response(body=b"x", headers=CACHED)

    async with origin_of(slow) as origin, edge_for(origin.url) as edge:
        _, leader = await edge.connect()
        leader.write(f"GET /a HTTP/1.1\r\nHost: {edge.address[0]}:{edge.address[1]}\r\n\r\n".encode())
        await until(lambda: origin.count == 1)
        follower = asyncio.create_task(edge.fetch("/a"))
        await until(lambda: seats(edge) == 2)
        leader.close()
        await until(lambda: seats(edge) == 1)
        gate.set()
        assert (await follower).body == b"x"
        assert origin.count == 1


async def test_what_was_fetched_for_a_leader_alone_is_given_to_nobody_else() -> None:
    gate = asyncio.Event()

    async def personal(request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response(text=request.headers.get("Cookie", ""), headers={"Cache-Control": "private"})

    async with origin_of(personal) as origin, edge_for(origin.url) as edge:
        _, leader = await edge.connect()
        leader.write(f"GET /a HTTP/1.1\r\nHost: {edge.address[0]}:{edge.address[1]}\r\nCookie: leader=1\r\n\r\n".encode())
        await until(lambda: origin.count == 1)
        follower = asyncio.create_task(edge.fetch("/a", headers={"Cookie": "follower=1"}))
        await until(lambda: seats(edge) == 2)
        leader.close()
        await until(lambda: seats(edge) == 1)
        gate.set()
        assert (await follower).body == b"follower=1"
        assert origin.count == 2
        await until(lambda: len(edge.pipeline.flights) == 0)


async def test_a_lone_client_that_leaves_cancels_the_upstream_work() -> None:
    cancelled = asyncio.Event()

    async def never(_request: web.BaseRequest) -> web.Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    for method in ("GET", "POST"):
        cancelled.clear()
        async with origin_of(never) as origin, edge_for(origin.url) as edge:
            _, writer = await edge.connect()
            writer.write(f"{method} /a HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await until(lambda: origin.count == 1)
            writer.close()
            await asyncio.wait_for(cancelled.wait(), 10)
            await until(lambda: len(edge.records) == 1)
            assert edge.records[0].status == 499
            assert len(edge.pipeline.flights) == 0


async def test_a_nearly_complete_body_is_fetched_to_its_end_for_nobody() -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={**CACHED, "Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"a" * 90)
        await gate.wait()
        await response.write(b"b" * 10)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        async with edge.client.get(edge.url("/a")) as response:
            await response.content.readexactly(90)
            response.close()
        await until(lambda: seats(edge) == 0)
        gate.set()
        await until(lambda: edge.store.stats().entries == 1)
        assert (await edge.fetch("/a")).body == b"a" * 90 + b"b" * 10
        assert origin.count == 1


async def test_a_failing_leader_fails_all_waiters_once() -> None:
    gate = asyncio.Event()

    async def broken(request: web.BaseRequest) -> web.Response:
        await gate.wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with origin_of(broken) as origin, edge_for(origin.url) as edge:
        fetches = [asyncio.create_task(edge.fetch("/a")) for _ in range(10)]
        await until(lambda: seats(edge) == 10)
        gate.set()
        got = await asyncio.gather(*fetches)
        assert {g.status for g in got} == {502}
        assert origin.count <= 2, "the client library may try once more on a fresh connection"


async def test_waiters_of_another_variant_fly_on_their_own() -> None:
    gate = asyncio.Event()

    async def by_language(request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response(text=request.headers["Accept-Language"], headers={**CACHED, "Vary": "Accept-Language"})

    async with origin_of(by_language) as origin, edge_for(origin.url) as edge:
        languages = ["de", "fr", "de", "fr", "en", "de"]
        fetches = [asyncio.create_task(edge.fetch("/a", headers={"Accept-Language": lang})) for lang in languages]
        await until(lambda: seats(edge) == 6)
        gate.set()
        got = await asyncio.gather(*fetches)
        assert [g.body.decode() for g in got] == languages
        assert origin.count == 3
        for lang in languages:
            assert (await edge.fetch("/a", headers={"Accept-Language": lang})).body.decode() == lang
        assert origin.count == 3


async def test_a_slow_reader_does_not_stall_a_fast_one() -> None:
    size = 8 << 20

    async def big(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=bytes(size), headers=CACHED)

    async with (
        origin_of(big) as origin,
        edge_for(origin.url, capacity_bytes=64 << 20) as edge,
        edge.client.get(edge.url("/a")) as slow,
    ):
        got = await asyncio.wait_for(edge.fetch("/a"), 20)
        assert len(got.body) == size
        assert origin.count == 1
        assert len(await slow.read()) == size


async def test_a_body_that_outgrows_the_limit_goes_on_unstored() -> None:
    chunk, count = bytes(64 << 10), 64
    gate = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=CACHED)
        await response.prepare(request)
        for i in range(count):
            if i == 2 and origin.count == 1:
                await gate.wait()
            await response.write(chunk)
        return response

    rule = CacheRule(max_object_bytes=256 << 10)
    upstream = UpstreamSettings(flight_window_bytes=128 << 10)
    async with origin_of(endless) as origin, edge_for(origin.url, rule=rule, upstream=upstream) as edge:
        fetches = [asyncio.create_task(edge.fetch("/a")) for _ in range(3)]
        await until(lambda: seats(edge) == 3)
        gate.set()
        for got in await asyncio.gather(*fetches):
            assert len(got.body) == len(chunk) * count
        assert origin.count == 1
        assert edge.store.stats().entries == 0
        await edge.fetch("/a")
        assert origin.count == 2


def seats(edge: Edge) -> int:
    return sum(len(flight.seats) for flight in edge.pipeline.flights._tasks._tasks)  # type: ignore[attr-defined]
