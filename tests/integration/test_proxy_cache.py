"""What the cache answers, through real sockets."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from edgecache.policy.dates import format_date
from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.purging import Purge
from tests.integration.proxy_support import edge_for, origin_of, plain, until


async def test_second_request_is_a_hit_with_age() -> None:
    async with origin_of(plain(b"page", Cache_Control="max-age=60", ETag='"1"')) as origin, edge_for(origin.url) as edge:
        first = await edge.fetch("/a?b=c")
        edge.clock.advance(5)
        second = await edge.fetch("/a?b=c")
        assert (first.status, first.body, origin.count) == (200, b"page", 1)
        assert first.cache == "edgecache; fwd=uri-miss; stored"
        assert second.body == b"page"
        assert second.headers["Age"] == "5"
        assert second.cache == "edgecache; hit; ttl=55"
        assert [r.cache for r in edge.records] == ["miss", "hit"]
        assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]


async def test_head_is_answered_from_a_stored_get() -> None:
    async with origin_of(plain(b"page", Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        got = await edge.fetch("/a", "HEAD")
        assert (got.status, got.headers["Content-Length"], got.body) == (200, "4", b"")
        assert got.cache.startswith("edgecache; hit")
        assert origin.count == 1


async def test_head_without_a_stored_get_goes_to_the_origin() -> None:
    async with origin_of(plain(b"page", Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        got = await edge.fetch("/a", "HEAD")
        assert (got.status, got.headers["Content-Length"]) == (200, "4")
        assert origin.seen[0].method == "HEAD"
        await edge.fetch("/a", "HEAD")
        assert origin.count == 2


async def test_client_conditions_are_answered_here() -> None:
    async with origin_of(plain(b"page", Cache_Control="max-age=60", ETag='"1"')) as origin, edge_for(origin.url) as edge:
        for _ in range(2):
            got = await edge.fetch("/a", headers={"If-None-Match": '"1"'})
            assert (got.status, got.body) == (304, b"")
            assert got.headers["ETag"] == '"1"'
            await until(lambda: edge.store.stats().entries == 1)
        assert (await edge.fetch("/a", headers={"If-None-Match": '"2"'})).status == 200
        assert origin.count == 1
        assert "If-None-Match" not in origin.seen[0].headers


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=20-", 416, b"", "bytes */10"),
        ("lines=0-1", 200, b"0123456789", None),
        ("bytes=3-1", 200, b"0123456789", None),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
async def test_ranges_of_stored_and_streaming_bodies(
    asked: str, status: int, body: bytes, content_range: str | None, stored: bool
) -> None:
    async with origin_of(plain(b"0123456789", Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        if stored:
            await edge.fetch("/a")
        got = await edge.fetch("/a", headers={"Range": asked})
        assert (got.status, got.body, got.headers.get("Content-Range")) == (status, body, content_range)
        assert "Range" not in origin.seen[0].headers
        await until(lambda: edge.store.stats().entries == 1)
        assert (await edge.fetch("/a")).body == b"0123456789"
        assert origin.count == 1


async def test_several_ranges_make_a_multipart_body() -> None:
    async with origin_of(plain(b"0123456789", Cache_Control="max-age=60", ETag='"1"')) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        got = await edge.fetch("/a", headers={"Range": "bytes=0-1,5-6"})
        assert got.status == 206
        boundary = got.headers["Content-Type"].partition("boundary=")[2].encode()
        parts = got.body.split(b"--" + boundary)
        assert [part.partition(b"\r\n\r\n")[2].strip() for part in parts[1:-1]] == [b"01", b"56"]
        assert (await edge.fetch("/a", headers={"Range": "bytes=0-1", "If-Range": '"2"'})).status == 200
        assert (await edge.fetch("/a", headers={"Range": "bytes=0-1", "If-Range": '"1"'})).status == 206
        assert origin.count == 1


async def test_vary_keeps_variants_apart_and_normalises_accept_encoding() -> None:
    async def coded(request: web.BaseRequest) -> web.Response:
        gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        fields = {"Cache-Control": "max-age=60", "Vary": "Accept-Encoding"}
        return web.Response(body=b"gzip" if gzip else b"plain", headers=fields)

    async with origin_of(coded) as origin, edge_for(origin.url) as edge:
        for coding, body in (("gzip", b"gzip"), ("GZIP;q=1.0", b"gzip"), ("identity", b"plain"), ("gzip , identity", b"gzip")):
            assert (await edge.fetch("/a", headers={"Accept-Encoding": coding})).body == body
        assert origin.count == 2


async def test_304_of_the_origin_freshens_the_stored_response() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        fields = {"Cache-Control": "max-age=10", "ETag": '"1"', "X-Count": str(origin.count)}
        fields["Date"] = format_date(edge.clock())
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304, headers=fields)
        return web.Response(body=b"page", headers=fields)

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        edge.clock.advance(20)
        got = await edge.fetch("/a")
        assert (got.status, got.body, got.headers["X-Count"]) == (200, b"page", "2")
        assert got.cache.startswith("edgecache; fwd=stale; fwd-status=304")
        assert edge.records[-1].cache == "revalidated"
        assert (await edge.fetch("/a")).cache.startswith("edgecache; hit")
        assert origin.count == 2


async def test_stale_if_error_covers_refused_connections_and_5xx() -> None:
    failing = False

    async def answer(_request: web.BaseRequest) -> web.Response:
        if failing:
            return web.Response(status=503)
        return web.Response(body=b"page", headers={"Cache-Control": "max-age=10, stale-if-error=100"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        failing = True
        edge.clock.advance(50)
        got = await edge.fetch("/a")
        assert (got.status, got.body) == (200, b"page")
        assert got.headers["Age"] == "50"
        assert edge.records[-1].cache == "stale"
        edge.clock.advance(100)
        assert (await edge.fetch("/a")).status == 503


async def test_a_dead_origin_is_a_problem_document_and_stale_content_where_allowed() -> None:
    async with origin_of(plain(b"page", Cache_Control="max-age=10, stale-if-error=100")) as origin:
        url = origin.url
        async with edge_for(url) as edge:
            await edge.fetch("/a")
            async with edge_for("http://127.0.0.1:1") as other:
                got = await other.fetch("/a")
                assert got.status == 502
                assert got.headers["Content-Type"] == "application/problem+json"
                assert "127.0.0.1" not in got.body.decode()
                assert other.records[0].reason == "connect"
            async with edge_for("http://127.0.0.1:1", url) as second:
                assert (await second.fetch("/a")).body == b"page"
                assert (await second.fetch("/a", "POST", data=b"x" * 1000)).status == 200


async def test_stale_while_revalidate_answers_at_once_and_revalidates_once() -> None:
    gate = asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.Response:
        count = origin.count
        if count > 1:
            await gate.wait()
        return web.Response(body=b"v%d" % count, headers={"Cache-Control": "max-age=10, stale-while-revalidate=100"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        edge.clock.advance(20)
        for _ in range(5):
            assert (await edge.fetch("/a")).body == b"v1"
        await until(lambda: origin.count == 2)
        gate.set()
        await until(lambda: len(edge.pipeline._background) == 0)
        got = await edge.fetch("/a")
        assert (got.body, origin.count) == (b"v2", 2)


async def test_unsafe_methods_invalidate() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"%d" % origin.count, headers={"Cache-Control": "max-age=60", "Location": "/b"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        for path in ("/a", "/b", "/c"):
            await edge.fetch(path)
        got = await edge.fetch("/a", "POST", data=b"x")
        assert got.cache == "edgecache; fwd=method"
        assert origin.count == 4
        for path, count in (("/c", 4), ("/a", 5), ("/b", 6)):
            await edge.fetch(path)
            assert origin.count == count


async def test_purges_hard_and_soft_and_by_tag() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        fields = {"Cache-Control": "max-age=60, stale-if-error=60", "Cache-Tag": f"all, {request.path[1:]}", "ETag": '"1"'}
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers=fields)
        return web.Response(body=b"x", headers=fields)

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        for path in ("/a", "/b"):
            await edge.fetch(path)
        assert await edge.pipeline.purge(Purge(tag="a")) == 1
        assert (await edge.fetch("/a")).cache == "edgecache; fwd=uri-miss; stored"
        assert (await edge.fetch("/b")).cache.startswith("edgecache; hit")
        assert await edge.pipeline.purge(Purge(tag="all", soft=True)) == 2
        assert (await edge.fetch("/b")).cache.startswith("edgecache; fwd=stale; fwd-status=304")
        assert (await edge.fetch("/b")).cache.startswith("edgecache; hit")
        assert await edge.pipeline.purge(Purge(urls=(edge.uri("/b"),))) == 1
        assert await edge.pipeline.purge(Purge(site="site")) == 1
        assert edge.store.stats().used_bytes == 0


async def test_what_was_asked_for_before_a_purge_is_not_stored_after_it() -> None:
    gate = asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response(body=b"old", headers={"Cache-Control": "max-age=60"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        fetch = asyncio.create_task(edge.fetch("/a"))
        await until(lambda: origin.count == 1)
        await edge.pipeline.purge(Purge(urls=(edge.uri("/a"),)))
        gate.set()
        assert (await fetch).body == b"old"
        assert edge.store.stats().entries == 0


async def test_only_if_cached_without_a_stored_response_is_504() -> None:
    async with origin_of(plain()) as origin, edge_for(origin.url) as edge:
        assert (await edge.fetch("/a", headers={"Cache-Control": "only-if-cached"})).status == 504
        assert origin.count == 0


async def test_authorization_is_not_shared() -> None:
    async with origin_of(plain(b"x", Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        for _ in range(2):
            await edge.fetch("/a", headers={"Authorization": "Basic x"})
        assert origin.count == 2
        assert edge.store.stats().entries == 0


async def test_fetch_through_uses_the_cache_and_never_the_generator() -> None:
    async with origin_of(plain(b"x", Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        site = edge.pipeline._sites.snapshot.sites[0]
        request = Request("GET", "http", "a", "/x", freeze([("Host", "a")]))
        for _ in range(2):
            answer = await edge.pipeline.fetch_through(site, request, request_id="r1")
            assert await answer.read(100) == b"x"
            assert answer.response.headers["Via"] == "1.1 edgecache"
        assert origin.count == 1
        assert origin.seen[0].headers["X-Request-Id"] == "r1"


async def test_provenance_is_sent_to_the_origin() -> None:
    async with origin_of(plain()) as origin, edge_for(origin.url) as edge:
        got = await edge.fetch("/a", headers={"X-Request-Id": "mine", "Connection": "x-hop", "X-Hop": "1", "Host": "shop.test"})
        seen = origin.seen[0].headers
        assert seen["Via"] == "1.1 edgecache"
        assert seen["X-Forwarded-For"] == "127.0.0.1"
        assert seen["Host"] == "shop.test"
        assert "X-Hop" not in seen
        assert seen["X-Request-Id"] == got.headers["X-Request-Id"] == edge.records[0].request_id
        assert "edgecache" in got.headers["Via"]


async def test_a_stored_204_has_no_content_length() -> None:
    async with origin_of(plain(b"", 204, Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        for _ in range(2):
            got = await edge.fetch("/a")
            assert (got.status, "Content-Length" in got.headers) == (204, False)
        assert origin.count == 1
