"""Pools of origins through a whole edge: shares, health, breakers, retries, hedges, timeouts. Time passes when told to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult

from edgecache.policy.upstream import (
    Balance,
    BreakerRule,
    EjectionRule,
    HealthRule,
    HedgeRule,
    Origin,
    RetryOn,
    RetryRule,
    Timeouts,
    UpstreamRule,
)
from edgecache.upstream.resolving import Lookup
from edgecache.upstream.settings import UpstreamSettings
from origin_sim import proof
from origin_sim.server import Shop
from tests.integration.proxy_support import Edge, Handler, edge_for, origin_of, plain, raw_origin, read_head, until
from tests.integration.proxy_support import Origin as Server

NO_STORE = "no-store"
HEALTH = HealthRule(path="/ready", interval=5.0, rise=1, fall=1)


def named(name: str, status: int = 200) -> Handler:
    return plain(name.encode(), status, cache_control=NO_STORE)


def refusing() -> tuple[socket.socket, str]:
    """A port that refuses connections: bound, not listening."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    return port, f"http://127.0.0.1:{port.getsockname()[1]}"


async def bodies(edge: Edge, count: int, prefix: str = "/") -> Counter[bytes]:
    return Counter([(await edge.fetch(f"{prefix}{number}")).body for number in range(count)])


@contextlib.asynccontextmanager
async def servers(*names: str) -> AsyncIterator[list[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(origin_of(named(name))) for name in names]


class Stubborn:
    """An origin that answers when it is let, and tells when it is asked and when it is left."""

    def __init__(self, body: bytes = b"late") -> None:
        self.let = asyncio.Event()
        self.asked = self.left = 0
        self._body = body

    async def __call__(self, _request: web.BaseRequest) -> web.Response:
        self.asked += 1
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return web.Response(body=self._body, headers={"Cache-Control": NO_STORE})


class TestBalance:
    async def test_origins_have_turns_by_weight(self) -> None:
        async with servers("a", "b") as (a, b):
            rule = UpstreamRule(origins=(Origin(a.url, weight=3),))
            async with edge_for(a.url, b.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 12) == {b"a": 9, b"b": 3}

    async def test_without_weights_the_first_is_asked(self) -> None:
        async with servers("a", "b") as (a, b), edge_for(a.url, b.url) as edge:
            assert await bodies(edge, 4) == {b"a": 4}

    async def test_by_hash_a_url_keeps_its_origin(self) -> None:
        async with (
            servers("a", "b", "c") as (a, b, c),
            edge_for(a.url, b.url, c.url, upstream_rule=UpstreamRule(balance=Balance.HASH)) as edge,
        ):
            first = [(await edge.fetch(f"/{number}")).body for number in range(20)]
            assert [(await edge.fetch(f"/{number}")).body for number in range(20)] == first
            assert len(set(first)) == 3

    async def test_a_backup_is_asked_only_while_no_other_is_healthy(self) -> None:
        port, dead = refusing()
        async with servers("b", "backup") as (b, backup):
            rule = UpstreamRule(balance=Balance.WEIGHT, origins=(Origin(backup.url, backup=True),))
            async with edge_for(b.url, backup.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 4) == {b"b": 4}
            async with edge_for(dead, backup.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 4) == {b"backup": 4}
        port.close()


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


async def checked(edge: Edge, count: int) -> None:
    """Let each of `count` origins be checked once."""
    await until(lambda: edge.ticks.waiting == count)
    edge.ticks.advance(HEALTH.interval * 1.1)
    await until(lambda: edge.ticks.waiting == 0)
    await until(lambda: edge.ticks.waiting == count)


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


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a request and hangs up."""
    await read_head(reader)
    writer.close()


class TestRetries:
    async def test_a_reset_get_goes_to_the_next_origin(self) -> None:
        async with raw_origin(resetting) as broken, origin_of(named("b")) as b, edge_for(broken, b.url) as edge:
            assert await bodies(edge, 1) == {b"b": 1}
            assert [(row.failures, row.retries) for row in edge.upstreams.figures()] == [(1, 0), (0, 1)]

    async def test_a_reset_post_does_not(self) -> None:
        async with raw_origin(resetting) as broken, origin_of(named("b")) as b, edge_for(broken, b.url) as edge:
            assert (await edge.fetch("/", "POST", data=b"x")).status == 502
            assert b.count == 0

    async def test_a_post_goes_on_where_nothing_of_it_was_sent(self) -> None:
        port, dead = refusing()
        async with origin_of(named("b")) as b, edge_for(dead, b.url) as edge:
            assert (await edge.fetch("/", "POST", data=b"x")).body == b"b"
        port.close()

    async def test_not_once_an_answer_has_begun(self) -> None:
        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            await writer.drain()
            writer.close()

        async with raw_origin(cut) as broken, origin_of(named("b")) as b, edge_for(broken, b.url) as edge:
            with pytest.raises(aiohttp.ClientPayloadError):
                await edge.fetch("/")
            assert b.count == 0

    async def test_a_timeout_is_retried_where_the_rule_says_so(self) -> None:
        slow = Stubborn()
        async with origin_of(slow) as a, origin_of(named("b")) as b:
            async with edge_for(a.url, b.url, upstream_rule=UpstreamRule(timeouts=Timeouts(first_byte=0.05))) as edge:
                assert (await edge.fetch("/")).status == 504
            rule = UpstreamRule(timeouts=Timeouts(first_byte=2.0), retries=RetryRule(on=(RetryOn.TIMEOUT,)))
            async with edge_for(a.url, b.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 1) == {b"b": 1}

    async def test_an_error_status_is_retried_where_the_rule_says_so(self) -> None:
        async with origin_of(named("bad", 503)) as bad, origin_of(named("good")) as good:
            rule = UpstreamRule(retries=RetryRule(statuses=(503,)), breaker=BreakerRule(max_connections=1))
            async with edge_for(bad.url, good.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 2) == {b"good": 2}
                assert (await edge.fetch("/", "POST", data=b"x")).body == b"bad"
                assert [row.connections for row in edge.upstreams.figures()] == [0, 0]

    async def test_a_body_is_sent_again_whole(self) -> None:
        async def echo(request: web.BaseRequest) -> web.Response:
            return web.Response(body=await request.read())

        async with raw_origin(resetting) as broken, origin_of(echo) as b, edge_for(broken, b.url) as edge:
            assert (await edge.fetch("/", "PUT", data=b"all of it")).body == b"all of it"

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], ids=["reset", "503"])
    async def test_a_body_that_is_still_coming_is_sent_again_whole(self, answer: bytes) -> None:
        failed = asyncio.Event()

        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            await reader.readexactly(4)
            writer.write(answer)
            await writer.drain()
            if not answer:
                writer.close()
            failed.set()
            await reader.read()

        async def echo(request: web.BaseRequest) -> web.Response:
            return web.Response(body=await request.read())

        rule = UpstreamRule(retries=RetryRule(statuses=(503,)))
        async with raw_origin(early) as bad, origin_of(echo) as good, edge_for(bad, good.url, upstream_rule=rule) as edge:
            reader, writer = await edge.connect()
            writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nall ")
            await failed.wait()
            await until(lambda: good.count == 1)
            for part in (b"of i", b"t..."):
                writer.write(part)
                await asyncio.sleep(0.02)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(12) == b"all of it..."

    async def test_an_outage_does_not_double_the_load(self) -> None:
        async with (
            raw_origin(resetting) as a,
            raw_origin(resetting) as b,
            edge_for(a, b, upstream_rule=UpstreamRule(retries=RetryRule(budget=0.1))) as edge,
        ):
            statuses = Counter([(await edge.fetch(f"/{number}")).status for number in range(100)])
            assert statuses == {502: 100}
            assert sum(row.requests for row in edge.upstreams.figures()) <= 100 + 10 + 10


class TestHedging:
    async def test_a_slow_origin_is_hedged_and_the_loser_is_cancelled(self) -> None:
        slow = Stubborn()
        async with (
            origin_of(slow) as a,
            origin_of(named("b")) as b,
            edge_for(a.url, b.url, upstream_rule=UpstreamRule(hedge=HedgeRule(after=0.01))) as edge,
        ):
            assert await bodies(edge, 1) == {b"b": 1}
            await until(lambda: slow.left == 1)
            assert [(row.requests, row.failures, row.hedges, row.connections) for row in edge.upstreams.figures()] == [
                (1, 0, 0, 0),
                (1, 0, 1, 0),
            ]

    async def test_the_first_may_still_win(self) -> None:
        first, second = Stubborn(b"first"), Stubborn(b"second")
        async with (
            origin_of(first) as a,
            origin_of(second) as b,
            edge_for(a.url, b.url, upstream_rule=UpstreamRule(hedge=HedgeRule(after=0.01))) as edge,
        ):
            task = asyncio.create_task(edge.fetch("/"))
            await until(lambda: second.asked == 1)
            first.let.set()
            assert (await task).body == b"first"
            await until(lambda: second.left == 1)

    async def test_a_failed_hedge_does_not_end_the_first(self) -> None:
        slow = Stubborn()
        reset = asyncio.Event()

        async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await resetting(reader, writer)
            reset.set()

        async with (
            origin_of(slow) as a,
            raw_origin(resets) as b,
            edge_for(a.url, b, upstream_rule=UpstreamRule(hedge=HedgeRule(after=0.01))) as edge,
        ):
            task = asyncio.create_task(edge.fetch("/"))
            await reset.wait()
            await until(lambda: edge.upstreams.figures()[1].failures == 1)
            slow.let.set()
            assert (await task).body == b"late"

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    async def test_other_methods_are_asked_once(self, method: str) -> None:
        slow = Stubborn()
        async with (
            origin_of(slow) as a,
            origin_of(named("b")) as b,
            edge_for(a.url, b.url, upstream_rule=UpstreamRule(hedge=HedgeRule(after=0.001))) as edge,
        ):
            task = asyncio.create_task(edge.fetch("/", method))
            await until(lambda: slow.asked == 1)
            await asyncio.sleep(0.02)
            slow.let.set()
            assert (await task).body == b"late"
            assert b.count == 0

    async def test_a_client_that_leaves_cancels_both(self) -> None:
        first, second = Stubborn(), Stubborn()
        async with (
            origin_of(first) as a,
            origin_of(second) as b,
            edge_for(a.url, b.url, upstream_rule=UpstreamRule(hedge=HedgeRule(after=0.01))) as edge,
        ):
            _, writer = await edge.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: second.asked == 1)
            writer.close()
            await until(lambda: (first.left, second.left) == (1, 1))
            await until(lambda: [row.connections for row in edge.upstreams.figures()] == [0, 0])


class TestChanges:
    async def test_what_is_known_of_an_origin_outlives_a_change_of_its_site(self) -> None:
        async with origin_of(named("bad", 503)) as bad, origin_of(named("good")) as good:
            rule = UpstreamRule(ejection=EjectionRule(errors=1))
            async with edge_for(bad.url, good.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 2) == {b"bad": 1, b"good": 1}
                (site,) = edge.sites.snapshot.sites
                edge.sites.replace([dataclasses.replace(site, weight=7, upstream=dataclasses.replace(rule, hedge=HedgeRule()))])
                assert await bodies(edge, 2, "/again") == {b"good": 2}

    async def test_an_origin_that_is_taken_away_is_not_asked_any_more(self) -> None:
        async with servers("a", "b") as (a, b), edge_for(a.url, upstream_rule=UpstreamRule()) as edge:
            assert await bodies(edge, 1) == {b"a": 1}
            (site,) = edge.sites.snapshot.sites
            edge.sites.replace([dataclasses.replace(site, origins=(b.url,))])
            assert await bodies(edge, 1, "/again") == {b"b": 1}
            assert [row.url for row in edge.upstreams.figures()] == [b.url]


class TestNames:
    async def test_a_changed_address_is_used_for_new_connections(self) -> None:
        async with named_servers() as (port, addresses, lookup), edge_for(f"http://origin.test:{port}", lookup=lookup) as edge:
            addresses[:] = ["127.0.0.1"]
            assert await bodies(edge, 2) == {b"127.0.0.1": 2}
            addresses[:] = ["127.0.0.2"]
            edge.ticks.advance(30.0)
            assert await bodies(edge, 2, "/new") == {b"127.0.0.2": 2}
            addresses.clear()
            edge.ticks.advance(30.0)
            assert await bodies(edge, 2, "/gone") == {b"127.0.0.2": 2}

    async def test_an_address_that_refuses_is_no_failure_while_another_does_not(self) -> None:
        async with named_servers() as (port, addresses, lookup), edge_for(f"http://origin.test:{port}", lookup=lookup) as edge:
            addresses[:] = ["127.0.0.3", "127.0.0.1"]
            assert await bodies(edge, 4) == {b"127.0.0.1": 4}

    async def test_a_name_that_never_resolved_fails_as_a_connection_does(self) -> None:
        async with named_servers() as (port, _, lookup), edge_for(f"http://origin.test:{port}", lookup=lookup) as edge:
            got = await edge.fetch("/")
            assert got.status == 502
            assert "connect" in got.cache


@contextlib.asynccontextmanager
async def named_servers() -> AsyncIterator[tuple[int, list[str], Lookup]]:
    """Servers on one port of two addresses, each connection for one request, and the addresses that any name has."""
    addresses: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        own = writer.get_extra_info("sockname")[0].encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%b" % (len(own), own)
        )
        await writer.drain()
        writer.close()

    async def lookup(host: str, port: int, _family: int) -> list[ResolveResult]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    first = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    async with first, await asyncio.start_server(answer, "127.0.0.2", port):
        yield port, addresses, lookup


class TestTimeouts:
    async def test_a_site_waits_for_a_connection_as_long_as_it_says(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
            address = listening.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            rule = UpstreamRule(timeouts=Timeouts(connect=0.05))
            async with edge_for(f"http://127.0.0.1:{address[1]}", upstream_rule=rule) as edge:
                got = await edge.fetch("/")
            assert got.status == 504
            assert "connect" in got.cache
            for filler in fillers:
                filler.close()

    async def test_a_site_waits_between_two_reads_as_long_as_it_says(self) -> None:
        async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
            await writer.drain()
            await reader.read()

        async with (
            raw_origin(stalls) as url,
            edge_for(url, upstream_rule=UpstreamRule(timeouts=Timeouts(between_bytes=0.05))) as edge,
        ):
            with pytest.raises(aiohttp.ClientPayloadError):
                await edge.fetch("/")


class TestOutages:
    """One of two real shops misbehaves; what clients get is right all the same."""

    @pytest.mark.parametrize(
        ("faults", "errors"),
        [({"broken": "no-answer"}, 3), ({"broken": "close-in-head"}, 3), ({"status": 503}, 3), ({"delay": "60s"}, 1)],
        ids=["no-answer", "close-in-head", "503", "delay"],
    )
    async def test_clients_notice_nothing(self, faults: dict[str, object], errors: int) -> None:
        rule = UpstreamRule(
            balance=Balance.WEIGHT,
            ejection=EjectionRule(errors=errors, time=3600.0),
            retries=RetryRule(on=tuple(RetryOn), statuses=(503,)),
            timeouts=Timeouts(first_byte=3.0),
        )
        async with Shop() as bad, Shop() as good, edge_for(bad.url, good.url, upstream_rule=rule) as edge:
            async with edge.client.post(f"{bad.url}/_admin/faults", json={"prefix": "/", "faults": faults}) as answer:
                assert answer.status == 200
            for number in range(30):
                target = f"/products?_cc=no-store&n={number}"
                got = await edge.fetch(target)
                assert got.status == 200
                assert proof.mismatch(target, got.headers, got.body) is None
            figures = {row.url: row for row in edge.upstreams.figures()}
            assert (figures[bad.url].state, figures[bad.url].failures) == ("ejected", errors)
            assert (figures[good.url].state, figures[good.url].requests) == ("healthy", 30)

    async def test_an_outage_of_both_is_answered_stale_then_by_name_and_ends(self) -> None:
        rule = UpstreamRule(breaker=BreakerRule(max_failures=2, pause=5.0))
        async with Shop() as shop, edge_for(shop.url, upstream_rule=rule) as edge:
            assert (await edge.fetch("/products?_cc=max-age=1")).status == 200
            edge.clock.advance(10)
            async with edge.client.post(f"{shop.url}/_admin/faults", json={"prefix": "/", "faults": {"broken": "no-answer"}}):
                pass
            got = [await edge.fetch("/products?_cc=max-age=1") for _ in range(4)]
            assert {answer.status for answer in got} == {200}
            assert ["detail=reset" in answer.cache for answer in got] == [True, True, False, False]
            assert all("detail=breaker-open" in answer.cache for answer in got[2:])
            async with edge.client.delete(f"{shop.url}/_admin/faults"):
                pass
            edge.ticks.advance(5.0)
            recovered = await edge.fetch("/products?_cc=max-age=1")
            assert recovered.status == 200
            assert "detail" not in recovered.cache
