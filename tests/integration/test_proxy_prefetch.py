"""What is asked for often is fetched anew before it expires, and nothing else is. Remembered heads do not hide it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from email.utils import formatdate

from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.observe.record import Renewal
from edgecache.policy.cache_control import parse_response
from edgecache.policy.fields import freeze
from edgecache.policy.freshness import Lifetime, LifetimeSource, Terms
from edgecache.policy.prefetch import MAX_SHARE, reserve
from edgecache.policy.rule import CacheRule
from tests.integration.proxy_support import Clock, Edge, Origin, edge_for, origin_of, until

RULE = CacheRule(prefetch=0.1)


@contextlib.asynccontextmanager
async def hot(rule: CacheRule = RULE, **fields: str) -> AsyncIterator[tuple[Edge, Origin, dict[str, int]]]:
    """An edge, its origin, and the status that this answers with; the body counts."""
    now = {"status": 200, "number": 0}
    clocks: list[Clock] = []

    async def answer(_request: web.BaseRequest) -> web.Response:
        now["number"] += 1
        headers = {"Cache-Control": "max-age=100", "Date": formatdate(clocks[0].now, usegmt=True), **fields}
        return web.Response(status=now["status"], text=str(now["number"]), headers=headers)

    async with origin_of(answer) as origin, edge_for(origin.url, rule=rule) as edge:
        clocks.append(edge.clock)
        yield edge, origin, now


async def bodies(edge: Edge, count: int) -> list[bytes]:
    return [(await edge.fetch("/")).body for _ in range(count)]


async def settled(edge: Edge) -> None:
    await until(lambda: len(edge.pipeline._background) == 0)


async def test_hits_in_its_last_tenth_have_it_fetched_before_it_expires() -> None:
    async with hot() as (edge, origin, _):
        assert await bodies(edge, 5) == [b"1"] * 5
        edge.clock.advance(89)
        fast = edge.fast_hits
        assert await bodies(edge, 5) == [b"1"] * 5
        assert edge.fast_hits > fast
        assert origin.count == 1
        edge.clock.advance(2)
        assert await bodies(edge, 3) == [b"1"] * 3
        await settled(edge)
        assert origin.count == 2
        edge.clock.advance(50)
        assert await bodies(edge, 5) == [b"2"] * 5
        assert origin.count == 2
        assert [record.cache for record in edge.records] == ["miss"] + ["hit"] * 17
        assert edge.renewals == [("site", Renewal.PREFETCH, True)]


async def test_what_is_seldom_asked_for_is_left_to_expire() -> None:
    async with hot() as (edge, origin, _):
        await bodies(edge, 5)
        edge.clock.advance(95)
        await bodies(edge, 2)
        await settled(edge)
        assert origin.count == 1


async def test_without_the_rule_nothing_is_fetched_and_remembered_heads_answer_to_the_end() -> None:
    async with hot(CacheRule()) as (edge, origin, _):
        await bodies(edge, 3)
        edge.clock.advance(99)
        fast = edge.fast_hits
        await bodies(edge, 10)
        assert edge.fast_hits == fast + 10
        assert origin.count == 1


async def test_a_failure_is_tried_once_and_what_is_stored_goes_on_answering() -> None:
    async with hot() as (edge, origin, now):
        await bodies(edge, 3)
        edge.clock.advance(95)
        now["status"] = 500
        await bodies(edge, 3)
        await settled(edge)
        assert await bodies(edge, 20) == [b"1"] * 20
        await settled(edge)
        assert origin.count == 2
        assert edge.renewals == [("site", Renewal.PREFETCH, False)]


async def test_the_same_holds_for_answers_that_are_too_large_for_the_fast_lane() -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * 200_000, headers={"Cache-Control": "max-age=100"})

    async with origin_of(answer) as origin, edge_for(origin.url, rule=RULE) as edge:
        await bodies(edge, 2)
        edge.clock.advance(95)
        await bodies(edge, 4)
        await settled(edge)
        assert origin.count == 2


async def test_behind_another_cache_the_part_is_of_what_was_left() -> None:
    async with hot(Age="98") as (edge, origin, _):
        assert await bodies(edge, 6) == [b"1"] * 6
        await settled(edge)
        assert origin.count == 1


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, MAX_SHARE))
def test_the_part_is_never_more_than_half_of_what_is_left_at_arrival(lifetime: float, age: float, share: float) -> None:
    terms = Terms(Lifetime(lifetime, LifetimeSource.EXPLICIT), 0.0, parse_response(freeze([])))
    found = reserve(terms, age, share)
    assert 0 <= found <= max(0.0, lifetime - age) * MAX_SHARE + 1e-6


async def test_one_fetch_at_a_time_however_many_ask() -> None:
    async with hot() as (edge, origin, _):
        await bodies(edge, 2)
        edge.clock.advance(95)
        await asyncio.gather(*(edge.fetch("/") for _ in range(50)))
        await settled(edge)
        assert origin.count == 2
