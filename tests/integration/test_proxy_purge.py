"""Purges as clients see them, through real sockets, with every purge worked off in slices."""

from __future__ import annotations

import asyncio

from aiohttp import web

from edgecache.policy.purging import Purge
from tests.integration.proxy_support import edge_for, origin_of, until


async def _tagged(request: web.BaseRequest) -> web.Response:
    return web.Response(
        body=request.path.encode(), headers={"Cache-Control": "max-age=60", "Cache-Tag": f"all, {request.path[1:]}"}
    )


async def test_large_purges_are_in_force_before_they_are_worked_off() -> None:
    async with origin_of(_tagged) as origin, edge_for(origin.url, purge_at_once=0) as edge:
        paths = [f"/{number}" for number in range(5)]
        for path in paths:
            await edge.fetch(path)
        head = f"GET /0 HTTP/1.1\r\nHost: {edge.uri('/').split('/')[2]}\r\n\r\n".encode()
        assert edge.store.purge(Purge(tag="all", soft=True)).count == 5
        assert edge.store.purge(Purge(tag="all")).count is None
        assert edge.pipeline.fast_lane.answer(head, "::1") is None
        for path in paths[:2]:
            assert (await edge.fetch(path)).cache == "edgecache; fwd=uri-miss; stored"
        assert edge.store.stats().entries == 5, "nothing has swept the others yet"
        assert await edge.pipeline.purge(Purge(tag="3")) == 0
        await until(lambda: edge.store.stats().entries == 2)
        for path in paths[:2]:
            assert (await edge.fetch(path)).cache.startswith("edgecache; hit")
        assert edge.store.stats().purged == 10


async def test_a_count_that_only_the_sweep_knows_is_waited_for() -> None:
    async with origin_of(_tagged) as origin, edge_for(origin.url, purge_at_once=0) as edge:
        for number in range(250):
            await edge.fetch(f"/{number}")
        counts = await asyncio.gather(
            edge.pipeline.purge(Purge(prefix=edge.uri("/1"))),
            edge.pipeline.purge(Purge(site="site")),
            edge.pipeline.purge(Purge(everything=True)),
        )
        assert counts == [111, 139, 0]
        assert edge.store.stats().used_bytes == 0


async def test_more_large_purges_than_are_kept_wait_for_their_turn() -> None:
    async with origin_of(_tagged) as origin, edge_for(origin.url, purge_at_once=0) as edge:
        await edge.fetch("/a")
        counts = await asyncio.gather(*(edge.pipeline.purge(Purge(tag="a")) for _ in range(200)))
        assert sum(counts) == 1
        assert not edge.store.crowded
