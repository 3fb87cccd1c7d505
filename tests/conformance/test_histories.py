"""Histories of one resource, drawn at random and played over real sockets: what was put, what changed unseen, what clients asked
on what condition. Whatever the edge makes of them, each answer is one that RFC 9111 allows at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgecache.policy.coding import Coding
from edgecache.policy.rule import CacheRule
from tests.conformance.world import Get, Resource, World
from tests.integration.proxy_support import Edge, Got, edge_for, origin_of


@dataclass(frozen=True)
class Put:
    pass


@dataclass(frozen=True)
class Change:
    """At the origin, and nobody is told."""


@dataclass(frozen=True)
class Wait:
    seconds: int


@dataclass(frozen=True)
class Together:
    """Requests at once, and what happens at the origin between its having made the first answer and its sending it."""

    gets: tuple[Get, ...]
    meanwhile: Put | Change | None


@dataclass(frozen=True)
class Failure:
    """The next answer of the origin is an error."""


Step = Get | Put | Change | Wait | Together | Failure
_GETS = st.builds(
    Get,
    how=st.sampled_from(
        [
            "plain",
            "plain",
            "range",
            "range",
            "if-none-match",
            "if-modified-since",
            "if-match",
            "if-range",
            "no-cache",
            "only-if-cached",
        ]
    ),
    kind=st.sampled_from(["", "a"]),
    back=st.integers(0, 2),
    first=st.integers(0, 30),
    last=st.integers(0, 60),
    method=st.sampled_from(["GET", "GET", "GET", "HEAD"]),
    gzip=st.booleans(),
)
_STEPS = st.lists(
    _GETS
    | _GETS
    | st.just(Put())
    | st.just(Change())
    | st.builds(Wait, st.integers(1, 7))
    | st.builds(Together, st.tuples(_GETS, _GETS, _GETS), st.sampled_from([None, Put(), Change()]))
    | st.just(Failure()),
    min_size=5,
    max_size=25,
)
_RESOURCES = st.builds(
    Resource,
    max_age=st.sampled_from([0, 2, 5, 60]),
    validator=st.sampled_from(["strong", "strong", "weak", "date", ""]),
    sized=st.booleans(),
    ranges=st.booleans(),
    conditions=st.booleans(),
    varies=st.booleans(),
    swr=st.sampled_from([0, 0, 3]),
    text=st.booleans(),
)
_RULES = st.sampled_from(
    [
        CacheRule(),
        CacheRule(forward_ranges=True),
        CacheRule(max_object_bytes=20),
        CacheRule(compress=(Coding.GZIP,)),
        CacheRule(compress=(Coding.GZIP,), forward_ranges=True),
    ]
)


async def _play(resource: Resource, rule: CacheRule, steps: Sequence[Step]) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await world.answer(request)

    async with origin_of(answer) as origin, edge_for(origin.url, rule=rule) as edge:
        world = World(resource, edge.clock.now)

        async def ask(get: Get) -> None:
            if get.method == "HEAD" and not resource.validator and not resource.sized:
                # RFC 9111 section 4.3.5: nothing tells that it speaks of another version, and it renews what is stored.
                return
            asked = world.asks(get)
            began = world.current
            got = await _fetch(edge, get, asked)
            world.check(get, asked, got, range(began, world.current + 1))

        async def put() -> None:
            assert (await edge.fetch("/", "PUT", data=b"x")).status == 204
            world.floor = world.current

        for step in steps:
            match step:
                case Get():
                    await ask(step)
                case Together(gets, meanwhile):
                    world.made.clear()
                    world.sent.clear()
                    async with asyncio.TaskGroup() as group:
                        for get in gets:
                            group.create_task(ask(get))
                        await _soon(world.made)
                        if isinstance(meanwhile, Put):
                            await put()
                        elif meanwhile is not None:
                            world.current += 1
                        world.sent.set()
                case Put():
                    await put()
                case Change():
                    world.current += 1
                case Wait(seconds):
                    edge.clock.advance(seconds)
                    world.now = edge.clock.now
                case Failure():
                    world.failing = True
            await asyncio.sleep(0.001)


async def _soon(event: asyncio.Event) -> None:
    """When it is set; it may never be, where all is answered from the cache."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), 0.02)


async def _fetch(edge: Edge, get: Get, asked: dict[str, str]) -> Got:
    return await edge.fetch("/", get.method, headers=asked, skip_auto_headers=("Accept-Encoding", "Accept"))


_PLAIN = Resource(max_age=60, validator="strong", sized=True, ranges=True, conditions=True, varies=False, swr=0)


@example(_PLAIN, CacheRule(), [Together((Get("plain"),), Put()), Get("plain")])
@example(_PLAIN, CacheRule(max_object_bytes=20), [Together((Get("range"), Get("plain")), None)])
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(_RESOURCES, _RULES, _STEPS)
def test_each_answer_is_one_that_may_be_given(resource: Resource, rule: CacheRule, steps: list[Step]) -> None:
    asyncio.run(_play(resource, rule, steps))
