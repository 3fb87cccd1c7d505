"""Stored parts beside the rest of the edge: purges, compression, clients that share a flight."""

from __future__ import annotations

import asyncio
import zlib

import aiohttp
import pytest
from aiohttp import web

from edgecache.policy.coding import Coding
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from tests.integration.proxy_support import Edge, Handler, edge_for, origin_of, until

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


async def test_parts_that_are_purged_while_they_are_completed_are_asked_for_anew() -> None:
    """Though what completes them has another tag by then."""
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        response = await serve(request)
        if request.headers.get("Range") == "bytes=20-":
            response.headers["Cache-Tag"] = "other"
            await gate.wait()
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=CacheRule(forward_ranges=True)) as edge:
        await edge.fetch("/a", headers={"Range": "bytes=0-19"})
        waiting = asyncio.create_task(edge.fetch("/a"))
        await until(lambda: origin.count == 2)
        await edge.pipeline.purge(Purge(tag="t"))
        gate.set()
        assert (await waiting).body == TEXT
        assert "Range" not in origin.seen[-1].headers
        assert origin.count == 3


BIG = bytes(range(256)) * 4096


def _resuming(fields: dict[str, str], stop: asyncio.Event) -> Handler:
    """An origin of a megabyte that breaks off, or waits, after a third of it until `stop` is set."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        if wanted is not None and request.headers.get("If-Range") == fields.get("ETag"):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            said = {**fields, "Content-Range": f"bytes {first}-{len(BIG) - 1}/{len(BIG)}"}
            return web.Response(status=206, body=BIG[first:], headers=said)
        if stop.is_set():
            return web.Response(body=BIG, headers=fields)
        response = web.StreamResponse(headers=fields)
        response.content_length = len(BIG)
        await response.prepare(request)
        await response.write(BIG[:350_000])
        await stop.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


RANGES = {"ETag": '"big"', "Cache-Control": "max-age=60", "Accept-Ranges": "bytes"}


@pytest.mark.parametrize("gives_up", ["origin", "client"])
async def test_what_broke_off_goes_on_where_it_broke_off(gives_up: str) -> None:
    """RFC 9111 section 3.3."""
    stop = asyncio.Event()
    async with origin_of(_resuming(RANGES, stop)) as origin, edge_for(origin.url) as edge:
        response = await edge.client.get(edge.url("/big"))
        await response.content.readexactly(340_000)
        if gives_up == "client":
            response.close()
            await until(lambda: len(edge.pipeline.flights) == 0)
            stop.set()
        else:
            stop.set()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        again = await edge.fetch("/big")
        assert (again.status, again.body) == (200, BIG)
        resumed = int(origin.seen[-1].headers["Range"].removeprefix("bytes=").removesuffix("-"))
        assert 340_000 <= resumed <= 350_000
        assert origin.count == 2
        assert "hit" in (await edge.fetch("/big", headers={"Range": "bytes=5-9"})).cache


@pytest.mark.parametrize("without", ["ETag", "Accept-Ranges"])
async def test_what_cannot_be_resumed_begins_anew(without: str) -> None:
    stop = asyncio.Event()
    fields = {name: value for name, value in RANGES.items() if name != without}
    async with origin_of(_resuming(fields, stop)) as origin, edge_for(origin.url) as edge:
        response = await edge.client.get(edge.url("/big"))
        await response.content.readexactly(340_000)
        response.close()
        await until(lambda: len(edge.pipeline.flights) == 0)
        stop.set()
        assert edge.store.stats().entries == 0
        assert (await edge.fetch("/big")).body == BIG
        assert "Range" not in origin.seen[-1].headers


async def test_a_purge_while_it_is_on_its_way_leaves_nothing_to_go_on_with() -> None:
    stop = asyncio.Event()
    async with origin_of(_resuming(RANGES, stop)) as origin, edge_for(origin.url) as edge:
        response = await edge.client.get(edge.url("/big"))
        await response.content.readexactly(340_000)
        await edge.pipeline.purge(Purge(urls=(edge.uri("/big"),)))
        response.close()
        await until(lambda: len(edge.pipeline.flights) == 0)
        assert edge.store.stats().entries == 0


async def test_clients_that_ask_for_the_same_range_wait_for_the_same_answer() -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return await serve(request)

    async with origin_of(answer) as origin, edge_for(origin.url, rule=CacheRule(forward_ranges=True)) as edge:
        same = [asyncio.create_task(edge.fetch("/a", headers=_PART)) for _ in range(5)]
        other = [asyncio.create_task(edge.fetch("/a", headers={"Range": f"bytes={at}-{at}"})) for at in (1, 2)]
        await until(lambda: origin.count == 3)
        await asyncio.sleep(0.05)
        gate.set()
        assert {(got.status, got.body) for got in await asyncio.gather(*same)} == {(206, TEXT[10:20])}
        assert [got.body for got in await asyncio.gather(*other)] == [TEXT[1:2], TEXT[2:3]]
        assert origin.count == 3


async def test_ranges_that_are_not_stored_are_nobody_else_s() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        response = await serve(request)
        response.headers["Cache-Control"] = "private"
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=CacheRule(forward_ranges=True)) as edge:
        got = await asyncio.gather(*(edge.fetch("/a", headers=_PART) for _ in range(5)))
        assert {each.body for each in got} == {TEXT[10:20]}
        assert origin.count == 5


@pytest.mark.parametrize("first", [_PART, {}], ids=["the range first", "the whole first"])
async def test_who_waits_for_the_whole_gets_no_part(first: dict[str, str]) -> None:
    """What is too large to be stored is asked for again as the first of those who wait wants it."""
    gate = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return await serve(request)

    async with origin_of(slow) as origin, edge_for(origin.url, rule=CacheRule(max_object_bytes=len(TEXT) - 1)) as edge:
        asking = [asyncio.create_task(edge.fetch("/a", headers=first))]
        await until(lambda: origin.count == 1)
        others = ({}, {"Range": "bytes=20-29"}, _PART, {})
        asking += [asyncio.create_task(edge.fetch("/a", headers=fields)) for fields in others]
        await asyncio.sleep(0.05)
        gate.set()
        for fields, got in zip((first, *others), await asyncio.gather(*asking), strict=True):
            start, _, end = fields.get("Range", "bytes=-").removeprefix("bytes=").partition("-")
            assert got.body == (TEXT[int(start) : int(end) + 1] if start else TEXT)
            assert got.status == (206 if start else 200)
