"""Ends of plain misses that leave nothing behind: no flight for ever, no place at an origin, one line a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgecache.policy.message import Request
from edgecache.policy.rule import CacheRule
from edgecache.sites import ActiveVersion, GeneratorRoutes, OnError
from edgecache.source import Begun, Body, Culprit, Interim, Reply, SourceError
from tests.integration.proxy_support import Edge, edge_for, until
from tests.integration.test_proxy_errands import always, response, scripted

ROUTES = GeneratorRoutes(
    name="maker", routes=("/*",), active=(ActiveVersion(1, 100, "site/maker@1"),), rule=CacheRule(), on_error=(OnError.ERROR,)
)


def quiet(edge: Edge) -> bool:
    places = [origin.connections + origin.pending for origin in edge.upstreams.figures()]
    return len(edge.pipeline.flights) == 0 and not any(places)


async def test_a_response_to_be_validated_each_time_is_not_a_followers_when_who_asked_has_left() -> None:
    said = response(b"body", "Cache-Control: no-cache", 'ETag: "a"')
    async with scripted(always(said)) as (edge, origin):
        _reader, writer = await edge.connect()
        writer.write(b"GET /held HTTP/1.1\r\nHost: %b\r\n\r\n" % edge.url("").authority.encode())
        await until(lambda: "/held" in origin.asked)
        other = asyncio.create_task(edge.fetch("/held"))
        await until(lambda: edge.pipeline.flights.joined == 1)
        writer.transport.abort()
        await until(lambda: edge.records[-1].status == 499)
        origin.held.set()
        got = await other
        assert (got.status, got.body) == (200, b"body")
        assert origin.asked.count("/held") == 2
        await until(lambda: quiet(edge))


class Broken:
    """A source with a defect."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        raise SourceError(Culprit.GENERATOR, "bad-answer")

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> Begun | None:
        raise self.error


async def test_a_defect_where_a_request_is_begun_is_answered_and_leaves_no_flight() -> None:
    source = Broken(RuntimeError("a defect"))
    async with edge_for(generators={"maker": source}, routes=(ROUTES,)) as edge:
        for _ in range(2):
            async with asyncio.timeout(5):
                assert (await edge.fetch("/a")).status == 502
        assert quiet(edge)
        assert len(edge.records) == 2
