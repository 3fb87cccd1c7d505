"""Which origins of a pool are asked, through a whole edge: health checks, ejection, breakers. Time passes when told to."""

from __future__ import annotations

import asyncio
import dataclasses

from aiohttp import web

from edgecache.policy.upstream import (
    Balance,
    BreakerRule,
    EjectionRule,
    UpstreamRule,
)
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.pool_support import HEALTH, NO_STORE, Stubborn, bodies, checked, named
from tests.integration.proxy_support import edge_for, origin_of, plain, raw_origin, read_head, until


class TestHealthChecks:
    async def test_an_origin_whose_checks_fail_is_not_asked_until_they_pass(self) -> None:
        ready = {"status": 500}

        async def answer(request: web.BaseRequest) -> web.Response:
            if request.path == "/ready":
                return web.Response(status=ready["status"])
            return web.Response(body=b"a", headers={"Cache-Control": NO_STORE})

        async with (
            origin_of(answer) as a,
            origin_of(named("b")) as b,
            edge_for(a.url, b.url, upstream_rule=UpstreamRule(health=HEALTH)) as edge,
        ):
            await checked(edge, 2)
            assert await bodies(edge, 3) == {b"b": 3}
            ready["status"] = 200
            await checked(edge, 2)
            assert await bodies(edge, 3) == {b"a": 3}
            assert {request.headers["User-Agent"] for request in a.seen if request.path == "/ready"} == {"edgecache-health"}

    async def test_with_all_down_stale_answers_come_at_once_and_others_fail_by_name(self) -> None:
        async with origin_of(plain(b"kept", cache_control="max-age=1")) as origin:
            rule = UpstreamRule(health=dataclasses.replace(HEALTH, expect=(204, 204)))
            async with edge_for(origin.url, upstream_rule=rule) as edge:
                assert (await edge.fetch("/kept")).status == 200
                await checked(edge, 1)
                edge.clock.advance(5)
                got = await edge.fetch("/kept")
                assert (got.status, got.body) == (200, b"kept")
                assert "detail=unhealthy" in got.cache
                failed = await edge.fetch("/new")
                assert failed.status == 503
                assert "unhealthy" in failed.cache

    async def test_checks_end_when_the_site_goes(self) -> None:
        async with origin_of(named("a")) as origin, edge_for(origin.url, upstream_rule=UpstreamRule(health=HEALTH)) as edge:
            await until(lambda: edge.ticks.waiting == 1)
            edge.sites.replace([])
            await until(lambda: edge.ticks.waiting == 0)

    async def test_a_saturated_origin_still_passes_its_checks(self) -> None:
        slow = Stubborn()

        async def answer(request: web.BaseRequest) -> web.Response:
            return web.Response() if request.path == "/ready" else await slow(request)

        settings = UpstreamSettings(max_connections_per_origin=1)
        async with (
            origin_of(answer) as origin,
            edge_for(origin.url, upstream_rule=UpstreamRule(health=HEALTH), upstream=settings) as edge,
        ):
            waiting = asyncio.create_task(edge.fetch("/slow"))
            await until(lambda: slow.asked == 1)
            await checked(edge, 1)
            assert [row.state for row in edge.upstreams.figures()] == ["healthy"]
            slow.let.set()
            assert (await waiting).body == b"late"


class TestEjection:
    async def test_errors_in_a_row_put_an_origin_last_for_a_while(self) -> None:
        async with origin_of(named("bad", 503)) as bad, origin_of(named("good")) as good:
            rule = UpstreamRule(ejection=EjectionRule(errors=2, time=10.0))
            async with edge_for(bad.url, good.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 5) == {b"bad": 2, b"good": 3}
                edge.ticks.advance(10.0)
                assert await bodies(edge, 3, "/again") == {b"bad": 1, b"good": 2}

    async def test_no_more_than_their_share_is_ejected(self) -> None:
        async with origin_of(named("a", 503)) as a, origin_of(named("b", 503)) as b:
            rule = UpstreamRule(balance=Balance.WEIGHT, ejection=EjectionRule(errors=1, max_share=0.5))
            async with edge_for(a.url, b.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 6) == {b"a": 1, b"b": 5}

    async def test_one_sites_errors_do_not_eject_for_another(self) -> None:
        async with origin_of(named("bad", 503)) as bad, origin_of(named("good")) as good:
            rule = UpstreamRule(ejection=EjectionRule(errors=1))
            async with edge_for(bad.url, good.url, upstream_rule=rule, hosts=("a.test",)) as edge:
                site = edge.sites.snapshot.sites[0]
                edge.sites.replace([site, dataclasses.replace(site, name="other", hosts=("b.test",))])
                seen = [(await edge.fetch("/x", headers={"Host": host})).body for host in ("a.test", "a.test", "b.test")]
                assert seen == [b"bad", b"good", b"bad"]


class TestBreaker:
    async def test_it_opens_fails_by_name_and_closes_after_a_probe(self) -> None:
        status = {"now": 500}

        async def answer(_request: web.BaseRequest) -> web.Response:
            return web.Response(status=status["now"], body=b"x", headers={"Cache-Control": NO_STORE})

        async with origin_of(answer) as origin:
            rule = UpstreamRule(breaker=BreakerRule(max_failures=2, pause=10.0))
            async with edge_for(origin.url, upstream_rule=rule) as edge:
                assert [(await edge.fetch(f"/{number}")).status for number in range(4)] == [500, 500, 503, 503]
                assert origin.count == 2
                assert "breaker-open" in (await edge.fetch("/")).cache
                assert [row.state for row in edge.upstreams.figures()] == ["open"]
                edge.ticks.advance(10.0)
                assert [(await edge.fetch(f"/{number}")).status for number in range(2)] == [500, 503]
                edge.ticks.advance(20.0)
                status["now"] = 200
                assert [(await edge.fetch(f"/{number}")).status for number in range(3)] == [200] * 3

    async def test_while_it_is_open_stale_answers_come_at_once(self) -> None:
        async with origin_of(plain(b"kept", cache_control="max-age=1")) as origin:
            rule = UpstreamRule(breaker=BreakerRule(max_failures=1))
            async with edge_for(origin.url, upstream_rule=rule) as edge:
                await edge.fetch("/kept")
                edge.clock.advance(5)
                pool = edge.upstreams.of(edge.sites.snapshot.sites[0])
                pool._pool.failed(pool._pool.members[0], "timeout")
                got = await edge.fetch("/kept")
                assert (got.body, origin.count) == (b"kept", 1)
                assert "detail=breaker-open" in got.cache

    async def test_what_must_be_validated_is_not_answered_stale_but_504(self) -> None:
        async with origin_of(plain(b"kept", cache_control="max-age=1, must-revalidate")) as origin:
            rule = UpstreamRule(health=dataclasses.replace(HEALTH, expect=(204, 204)))
            async with edge_for(origin.url, upstream_rule=rule) as edge:
                await edge.fetch("/kept")
                await checked(edge, 1)
                edge.clock.advance(5)
                got = await edge.fetch("/kept")
                assert got.status == 504
                assert "unhealthy" in got.cache

    async def test_requests_beyond_its_connections_go_to_the_next_origin(self) -> None:
        slow = Stubborn(b"a")
        async with origin_of(slow) as a, origin_of(named("b")) as b:
            rule = UpstreamRule(breaker=BreakerRule(max_connections=1))
            async with edge_for(a.url, b.url, upstream_rule=rule) as edge:
                first = asyncio.create_task(edge.fetch("/slow"))
                await until(lambda: slow.asked == 1)
                assert await bodies(edge, 3) == {b"b": 3}
                slow.let.set()
                assert (await first).body == b"a"
                assert await bodies(edge, 1) == {b"a": 1}

    async def test_a_lone_origins_requests_wait_their_turn_and_too_many_fail_at_once(self) -> None:
        slow = Stubborn()
        async with origin_of(slow) as origin:
            rule = UpstreamRule(breaker=BreakerRule(max_connections=1, max_pending=1))
            async with edge_for(origin.url, upstream_rule=rule) as edge:
                tasks = [asyncio.create_task(edge.fetch(f"/{number}")) for number in range(2)]
                await until(lambda: [row.pending for row in edge.upstreams.figures()] == [1])
                refused = await edge.fetch("/third")
                assert refused.status == 503
                assert "overloaded" in refused.cache
                slow.let.set()
                assert {(await task).body for task in tasks} == {b"late"}
                assert [(row.connections, row.pending) for row in edge.upstreams.figures()] == [(0, 0)]

    async def test_a_body_holds_its_place_to_its_end_and_a_client_that_leaves_gives_it_back(self) -> None:
        more = asyncio.Event()

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 1000000\r\n\r\nbegin")
            await writer.drain()
            await more.wait()

        async with raw_origin(endless) as url:
            rule = UpstreamRule(breaker=BreakerRule(max_connections=1))
            async with edge_for(url, upstream_rule=rule) as edge:
                reader, writer = await edge.connect()
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"begin")
                assert [row.connections for row in edge.upstreams.figures()] == [1]
                writer.close()
                await until(lambda: [row.connections for row in edge.upstreams.figures()] == [0])
                more.set()
