"""Stored parts beside the rest of the edge: purges, compression, clients that share a flight."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from aiohttp import web

from edgecache.policy.coding import Coding
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from tests.integration.proxy_support import Edge, edge_for, origin_of

TEXT = b"".join(b"line %04d\n" % at for at in range(500))
_PART = {"Range": "bytes=10-19"}


async def serve(request: web.BaseRequest) -> web.Response:
    fields = {"ETag": '"1"', "Cache-Control": "max-age=60", "Cache-Tag": "t", "Content-Type": "text/plain"}
    if "Range" not in request.headers:
        return web.Response(body=TEXT, headers=fields)
    first, _, end = request.headers["Range"].removeprefix("bytes=").partition("-")
    last = int(end or len(TEXT) - 1)
    fields["Content-Range"] = f"bytes {first}-{last}/{len(TEXT)}"
    return web.Response(status=206, body=TEXT[int(first) : last + 1], headers=fields)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("by", ["url", "tag", "site", "prefix"])
async def test_purges_end_parts(by: str, soft: bool) -> None:
    async with origin_of(serve) as origin, edge_for(origin.url, rule=CacheRule(forward_ranges=True)) as edge:
        await edge.fetch("/a", headers=_PART)
        assert "hit" in (await edge.fetch("/a", headers=_PART)).cache
        await edge.pipeline.purge(_purge(edge, by, soft))
        again = await edge.fetch("/a", headers=_PART)
        assert (again.status, again.body) == (206, TEXT[10:20])
        assert "hit" not in again.cache
        assert origin.count == 2


def _purge(edge: Edge, by: str, soft: bool) -> Purge:
    match by:
        case "url":
            return Purge(urls=(edge.uri("/a"),), soft=soft)
        case "tag":
            return Purge(tag="t", soft=soft)
        case "prefix":
            return Purge(prefix=edge.uri("/"), soft=soft)
        case _:
            return Purge(site="site", soft=soft)


async def test_parts_come_uncoded_and_the_whole_coded() -> None:
    """RFC 9110 section 14.2: ranges are of the representation that is sent, whose tag says which it is."""
    rule = CacheRule(forward_ranges=True, compress=(Coding.GZIP,))
    gzip = {"Accept-Encoding": "gzip"}
    async with origin_of(serve) as origin, edge_for(origin.url, rule=rule) as edge:
        part = await edge.fetch("/a", headers={**gzip, "Range": "bytes=0-99"})
        assert (part.status, part.body, part.headers["ETag"]) == (206, TEXT[:100], '"1"')
        whole = await edge.fetch("/a", headers=gzip)
        assert origin.seen[-1].headers["Range"] == "bytes=100-"
        assert whole.headers["Content-Encoding"] == "gzip"
        assert whole.headers["ETag"] == 'W/"1"'
        assert zlib.decompress(whole.body, 31) == TEXT
        coded = await edge.fetch("/a", headers={**gzip, "Range": "bytes=0-9"})
        assert (coded.status, coded.body, coded.headers["ETag"]) == (206, whole.body[:10], 'W/"1"')
        assert origin.count == 2


async def test_clients_wait_for_one_completion() -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.headers.get("Range") == "bytes=20-":
            await gate.wait()
        return await serve(request)

    async with origin_of(answer) as origin, edge_for(origin.url, rule=CacheRule(forward_ranges=True)) as edge:
        await edge.fetch("/a", headers={"Range": "bytes=0-19"})
        waiting = [asyncio.create_task(edge.fetch("/a")) for _ in range(5)]
        while origin.count < 2:
            await asyncio.sleep(0.005)
        inside = await edge.fetch("/a", headers=_PART)
        assert inside.body == TEXT[10:20], "a stored part waits for nobody"
        gate.set()
        assert {(got.status, got.body) for got in await asyncio.gather(*waiting)} == {(200, TEXT)}
        assert origin.count == 2
        assert edge.store.stats().entries == 1, "the parts are not needed any more"
