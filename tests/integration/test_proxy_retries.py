"""A request that is asked again, or of two origins at once, through a whole edge: retries and hedges."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import pytest
from aiohttp import web

from edgecache.policy.upstream import (
    BreakerRule,
    HedgeRule,
    RetryOn,
    RetryRule,
    Timeouts,
    UpstreamRule,
)
from tests.integration.pool_support import Stubborn, bodies, named, refusing, resetting
from tests.integration.proxy_support import Saying, edge_for, origin_of, raw_origin, read_head, until


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
        cut = Saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
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
