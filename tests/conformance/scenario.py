"""A requirement as a row: what the origin answers, what a client asks, and who must have answered. Played over real sockets.

The clock is the edge's only fake: `after` moves it, so that nothing waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate

from aiohttp import web

from edgecache.policy.rule import CacheRule
from tests.integration.proxy_support import Edge, Got, edge_for, origin_of

Fields = tuple[tuple[str, str], ...]


def f(text: str) -> Fields:
    """Field lines of `Name: value` lines separated by `|`."""
    lines = (line.partition(":") for line in text.split("|") if line.strip())
    return tuple((name.strip(), value.strip()) for name, _, value in lines)


@dataclass(frozen=True)
class Ask:
    """One request, and what must be true of its answer."""

    sends: str = ""
    """Field lines, as in `f`."""
    method: str = "GET"
    path: str = "/"
    after: float = 0.0
    """Seconds that pass before it."""
    comes_from: str = "cache"
    """`cache`: the origin was not asked; `stored`: it may have been, in vain; `origin`: it was, once; `new`: more often;
    `nobody`: the edge itself reports an error."""
    status: int = 200
    body: str | None = None
    has: str = ""
    """Field lines that the answer has."""
    lacks: tuple[str, ...] = ()
    origin_saw: str = ""
    """Field lines that the origin was sent."""
    origin_lacks: tuple[str, ...] = ()
    """Fields that it was not sent."""


@dataclass(frozen=True)
class Reply:
    """What the origin says to one request."""

    fields: str = "Cache-Control: max-age=60"
    status: int = 200
    body: str = "body"
    down: bool = False
    """Reset the connection instead."""


@dataclass(frozen=True)
class Scenario:
    """A requirement. The origin's replies are used up in order; the last one stays. `{date+N}` in a field is an HTTP-date."""

    name: str
    replies: tuple[Reply, ...]
    asks: tuple[Ask, ...]
    rule: CacheRule = CacheRule()  # noqa: RUF009 (a frozen value)


def stored(name: str, fields: str, *, status: int = 200, after: float = 0.0) -> Scenario:
    """A second request is answered by the cache."""
    return Scenario(name, (Reply(fields, status),), (Ask(comes_from="origin", status=status), Ask(after=after, status=status)))


def not_reused(name: str, fields: str, *, status: int = 200, after: float = 0.0) -> Scenario:
    """A second request goes to the origin."""
    first, again = Ask(comes_from="origin", status=status), Ask(after=after, comes_from="origin", status=status)
    return Scenario(name, (Reply(fields, status),), (first, again))


Fetch = Callable[[str, str, Fields], Awaitable[Got]]
"""Path, method and fields of a request, to its answer."""
Wire = Callable[[Edge], AbstractAsyncContextManager[Fetch]]
"""How the client talks to the edge."""


@asynccontextmanager
async def http_1(edge: Edge) -> AsyncIterator[Fetch]:
    """HTTP/1.1, without TLS."""

    async def fetch(path: str, method: str, fields: Fields) -> Got:
        return await edge.fetch(path, method, headers=fields, skip_auto_headers=("Accept-Encoding", "Accept"))

    yield fetch


async def play(scenario: Scenario, wire: Wire = http_1) -> None:
    """Raises AssertionError where the edge does otherwise."""
    replies: Iterator[Reply] = iter(scenario.replies)
    current = scenario.replies[-1]
    edge_now = 0.0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal current
        current = next(replies, current)
        if current.down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        response = web.Response(status=current.status, body=current.body.encode())
        if current.status in {204, 304}:
            response = web.Response(status=current.status)
        for name, value in f(_dated(current.fields, edge_now)):
            response.headers.add(name, value)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=scenario.rule) as edge, wire(edge) as fetch:
        for number, ask in enumerate(scenario.asks, 1):
            edge.clock.advance(ask.after)
            edge_now = edge.clock.now
            before = origin.count
            got = await fetch(ask.path, ask.method, f(_dated(ask.sends, edge_now)))
            where = f"{scenario.name}: request {number}: {got.status} {dict(got.headers)}"
            _check(ask, got, origin.count - before, where, edge_now)
            for name, value in f(_dated(ask.origin_saw, edge_now)):
                seen = origin.seen[-1].headers.get(name)
                assert seen == value, f"{where}: the origin saw {name}: {seen}"
            for name in ask.origin_lacks:
                assert name not in origin.seen[-1].headers, f"{where}: the origin saw {name}"
            await asyncio.sleep(0)


def _check(ask: Ask, got: Got, asked: int, where: str, now: float) -> None:
    assert got.status == ask.status, where
    match ask.comes_from:
        case "cache":
            assert asked == 0, where
            assert "hit" in got.cache, where
        case "stored":
            assert "hit" in got.cache, where
        case "origin":
            assert asked == 1, where
        case "nobody":
            assert got.headers.get("Content-Type") == "application/problem+json", where
        case "new":
            assert asked > 1, where
        case other:
            raise ValueError(other)
    if ask.body is not None:
        assert got.body.decode() == ask.body, where
    for name, value in f(_dated(ask.has, now)):
        assert got.headers.get(name) == value, f"{where}: {name}"
    for name in ask.lacks:
        assert name not in got.headers, f"{where}: {name}"


def _dated(text: str, now: float) -> str:
    while (start := text.find("{date")) != -1:
        end = text.index("}", start)
        text = text[:start] + formatdate(now + float(text[start + 5 : end] or 0), usegmt=True) + text[end + 1 :]
    return text
