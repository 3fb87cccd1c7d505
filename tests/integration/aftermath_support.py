"""What must hold when a random fault test is over: nothing is left, no defect was logged, each request has one record, and the
edge works as if nothing had been. For the random fault tests; what happens before is `chaos_support`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from edgecache.policy.purging import Purge
from edgecache.serve.call import Call
from edgecache.serve.http1.connection import Connection
from edgecache.serve.http1.turnstile import Turnstile
from edgecache.serve.misses.errand import Errand
from edgecache.upstream.flights.collapse import Seat
from edgecache.upstream.http1.begun import BegunExchange, SentRequest
from tests.integration.chaos_support import ANSWER_SECONDS, proven
from tests.integration.proxy_support import Edge, until

T = TypeVar("T")
_OF_A_REQUEST = (Errand, Seat, BegunExchange, SentRequest, Call, Connection, Turnstile)
"""What lives for a request or a connection, whatever its protocol."""


class Remains:
    """What lives for a request or a connection and was made within the block. What was there before, as other tests have left it,
    is set apart: a look neither sees it nor takes the time to go through it.
    """

    def __init__(self, *kinds: type, of: Callable[[object], bool] = lambda _: True) -> None:
        """`kinds`: beyond those of every request; `of`: whether one of them counts."""
        self._kinds = (*_OF_A_REQUEST, *kinds)
        self._of = of

    def __enter__(self) -> Remains:
        gc.collect()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()

    def look(self) -> Counter[str]:
        gc.collect()
        return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, self._kinds) and self._of(each))


async def left_over(edge: Edge, remains: Remains, allowed: Counter[str] | None = None) -> Counter[str]:
    """What does not go by itself once all clients have gone."""
    clock = asyncio.get_running_loop().time
    ends = clock() + ANSWER_SECONDS
    while True:
        began = clock()
        left = busy(edge) or remains.look() - (allowed or Counter())
        if not left or began > ends:
            return left
        # What is to go needs the loop, which a look holds up: it may run for as long.
        await asyncio.sleep(max(0.005, clock() - began))


def busy(edge: Edge) -> Counter[str]:
    """What an edge says that it is about."""
    origins = edge.upstreams.figures()
    return +Counter(
        flights=len(edge.pipeline.flights),
        to_origins=sum(origin.connections + origin.pending for origin in origins),
        connections=edge.listener.connections,
    )


def defects(records: Iterable[logging.LogRecord], names: tuple[str, ...] = ("edgecache", "aiohttp")) -> list[str]:
    """What has been logged that no peer may make an edge log."""
    return [each.getMessage() for each in records if each.levelno >= logging.ERROR and each.name.startswith(names)]


def total(counted: Iterable[Counter[T]]) -> Counter[T]:
    return sum(counted, Counter[T]())


def not_once(logged: Counter[str], told: Iterable[str] = ()) -> dict[str, int]:
    """Requests that have not one record each, and how many they have; those too whose answers clients were told whole."""
    return {identity: logged[identity] for identity in logged.keys() | set(told) if logged[identity] != 1}


def recorded(edge: Edge) -> Counter[str]:
    return Counter(record.request_id for record in edge.records)


def logged_in(access_log: Path) -> Counter[str]:
    """Request IDs of an access log's lines."""
    return Counter(json.loads(line)["id"] for line in access_log.read_text().splitlines())


async def wrong_pages(edge: Edge, paths: int) -> list[str]:
    """Those that are not right once origins are, after a purge of everything: an edge works as if nothing had been."""
    await edge.pipeline.purge(Purge(everything=True))
    wrong = []
    for path in map("/p{}".format, range(paths)):
        got = await edge.fetch(path, headers={"Host": "e"})
        if got.status != 200 or proven(got.body)[0] != path:
            wrong.append(f"{path}: {got.status} {got.body[:200]!r}")
    return wrong


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def descriptors_beyond(most: int) -> int:
    """How many more it has open, if they are not closed by themselves."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: descriptors() <= most, ANSWER_SECONDS)
    return max(0, descriptors() - most)
