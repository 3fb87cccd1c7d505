"""Places at one origin: how many, who waits, and that none is ever lost."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.upstream import BreakerRule, EjectionRule, Origin, UpstreamRule
from edgecache.source import SourceError
from edgecache.upstream.choosing.leasing import leased
from edgecache.upstream.choosing.member import Lease, Member
from edgecache.upstream.endpoint import Endpoint
from tests.integration.proxy_support import until


def member(limit: int | None = 1, pending: int = 8) -> Member:
    rule = UpstreamRule(breaker=BreakerRule(max_connections=limit, max_pending=pending))
    return Member(Endpoint("http://a"), Origin("http://a"), rule)


async def test_who_waits_gets_the_place_of_who_ends_in_turn() -> None:
    origin, order = member(), []

    async def ask(name: str) -> None:
        lease = await leased(origin, 60.0)
        order.append(name)
        lease.release()

    first = await leased(origin, 60.0)
    tasks = [asyncio.create_task(ask(name)) for name in "abc"]
    await until(lambda: origin.waiting == 3)
    assert origin.full
    first.release()
    first.release()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
    assert (origin.active, origin.waiting) == (0, 0)


async def test_too_many_who_wait_fail_at_once() -> None:
    origin = member(pending=0)
    lease = await leased(origin, 60.0)
    with pytest.raises(SourceError, match="overloaded") as found:
        await leased(origin, 60.0)
    assert (found.value.reason, found.value.status, found.value.retry) == ("overloaded", 503, True)
    lease.release()
    (await leased(origin, 60.0)).release()


async def test_who_waits_too_long_gives_up() -> None:
    origin = member()
    lease = await leased(origin, 60.0)
    with pytest.raises(SourceError, match="overloaded"):
        await leased(origin, 0.001)
    assert origin.waiting == 0
    lease.release()
    assert origin.active == 0


async def test_who_gives_up_just_when_a_place_becomes_free_gives_up_and_no_place_is_lost() -> None:
    one = member()
    held = await leased(one, 10.0)
    waiting = asyncio.create_task(leased(one, 10.0))
    await until(lambda: one.waiting == 1)
    waiting.cancel()
    held.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (one.active, one.waiting) == (0, 0)


async def test_a_place_that_is_forgotten_is_free_again() -> None:
    origin = member()
    await leased(origin, 60.0)
    gc.collect()
    assert origin.active == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["ask", "release", "cancel", "turn"]), max_size=60), st.integers(1, 3))
def test_whatever_happens_no_place_is_lost_or_given_twice(events: list[str], limit: int) -> None:
    async def run() -> None:
        origin = member(limit, pending=100)
        leases: list[Lease] = []
        tasks: list[asyncio.Task[None]] = []

        async def ask() -> None:
            leases.append(await leased(origin, 60.0))

        for event in events:
            match event:
                case "ask":
                    tasks.append(asyncio.create_task(ask()))
                case "release" if leases:
                    leases.pop(0).release()
                case "cancel" if tasks:
                    tasks[-1].cancel()
                case _:
                    await asyncio.sleep(0)
            assert len(leases) <= origin.active <= limit
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert origin.active == len(leases)
        assert origin.waiting == 0
        for lease in leases:
            lease.release()
        assert origin.active == 0

    asyncio.run(run())


def test_errors_eject_where_enough_others_are_left() -> None:
    origin = member()
    origin.rule = UpstreamRule(ejection=EjectionRule(errors=2, time=10.0))
    for _ in range(5):
        origin.failed(0.0, may_eject=False)
    assert not origin.ejected(0.0)
    origin.failed(1.0, may_eject=True)
    assert origin.ejected(10.9)
    assert not origin.ejected(11.0)
    assert origin.failures == 6


def test_a_success_forgets_errors() -> None:
    origin = member()
    origin.rule = UpstreamRule(ejection=EjectionRule(errors=2, time=10.0), breaker=BreakerRule(max_failures=2))
    for _ in range(5):
        origin.failed(0.0, may_eject=True)
        origin.succeeded()
    assert not origin.ejected(0.0)
    assert not origin.open(0.0)
