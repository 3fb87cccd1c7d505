"""Purges as clients see them, through real sockets, with every purge worked off in slices."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from edgecache.policy.access import AccessRule
from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.purging import Purge
from tests.integration.proxy_support import Edge, edge_for, origin_of, until


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


@pytest.mark.parametrize("asked", ["shop.test", "Shop.test:80", "shop.test.", "shop.test:"])
@pytest.mark.parametrize(
    "purge",
    [
        Purge(urls=("http://shop.test:80/page",)),
        Purge(urls=("HTTP://Shop.test./page",)),
        Purge(prefix="http://shop.test:80/p"),
        Purge(host="shop.test:80"),
    ],
    ids=repr,
)
async def test_a_default_port_names_the_same_url_as_none(asked: str, purge: Purge) -> None:
    """RFC 9110 section 4.2.3: one URL, one entry, and every way to write it purges it."""
    async with origin_of(_tagged) as origin, edge_for(origin.url) as edge:
        assert (await edge.fetch("/page", headers={"Host": asked})).cache.endswith("stored")
        assert (await edge.fetch("/page", headers={"Host": "shop.test"})).cache.startswith("edgecache; hit")
        assert await edge.pipeline.purge(purge) == 1
        assert (await edge.fetch("/page", headers={"Host": "shop.test:80"})).cache.endswith("stored")
        assert origin.count == 2


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


class Versions:
    """An origin whose answers carry a number that goes up, and which counts how many it is asked for at once."""

    def __init__(self, cache_control: str = "max-age=60, must-revalidate") -> None:
        self.version = 1
        self.gate = asyncio.Event()
        self.gate.set()
        self.most_at_once = 0
        self._cache_control = cache_control
        self._at_once = 0

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        version = self.version
        try:
            await self.gate.wait()
        finally:
            self._at_once -= 1
        fields = {"Cache-Control": self._cache_control, "Cache-Tag": "t", "Vary": "Accept-Language, Accept-Encoding, Cookie"}
        if request.path.startswith("/plain"):
            del fields["Vary"]
        return web.Response(text=f"{version} {request.headers.get('Accept-Language')}", headers=fields)


@pytest.mark.parametrize("at_once", [0, 500])
async def test_a_refresh_answers_on_while_everything_is_fetched_anew(at_once: int) -> None:
    answer = Versions()
    async with origin_of(answer) as origin, edge_for(origin.url, purge_at_once=at_once) as edge:
        paths = [f"/plain{number}" for number in range(30)]
        for path in paths:
            await edge.fetch(path)
        answer.version, answer.most_at_once = 2, 0
        answer.gate.clear()
        assert await edge.pipeline.purge(Purge(tag="t", refresh=True)) == 30
        await until(lambda: origin.count == 38)
        meanwhile = await asyncio.gather(*(edge.fetch("/plain29") for _ in range(20)), edge.fetch("/plain0"))
        assert {(got.body, got.cache) for got in meanwhile} == {(b"1 None", "edgecache; hit; ttl=60; detail=refresh")}
        answer.gate.set()
        await until(lambda: origin.count == 60)
        await until(lambda: not edge.pipeline._background)
        assert answer.most_at_once <= 9, "eight by itself, and the one that a client asked for"
        for path in paths:
            got = await edge.fetch(path)
            assert (got.body, got.cache) == (b"2 None", "edgecache; hit; ttl=60")
        assert origin.count == 60


async def test_a_refresh_asks_as_the_variant_does_and_never_with_a_clients_credentials() -> None:
    answer = Versions()
    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        for fields in ({"Accept-Language": "de"}, {"Accept-Language": "en"}, {"Accept-Language": "fr", "Cookie": "id=1"}):
            await edge.fetch("/a", headers=fields)
        answer.version = 2
        assert await edge.pipeline.purge(Purge(tag="t", refresh=True)) == 3
        assert (await edge.fetch("/a", headers={"Accept-Language": "fr", "Cookie": "id=1"})).body == b"1 fr"
        await until(lambda: origin.count == 6)
        await until(lambda: not edge.pipeline._background)
        for language, cookie in (("de", {}), ("en", {}), ("fr", {"Cookie": "id=1"})):
            got = await edge.fetch("/a", headers={"Accept-Language": language} | cookie)
            assert (got.body.decode(), got.cache) == (f"2 {language}", "edgecache; hit; ttl=60")
        asked = [seen.headers["Accept-Language"] for seen in origin.seen[3:]]
        assert sorted(asked) == ["de", "en", "fr"]
        assert [seen.headers.get("Cookie") for seen in origin.seen].count("id=1") == 2, "the client's own two requests"


async def test_what_expired_before_its_refresh_does_not_answer() -> None:
    answer = Versions()
    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/plain")
        origin_down = answer.gate
        origin_down.clear()
        await edge.pipeline.purge(Purge(tag="t", refresh=True))
        await until(lambda: origin.count == 2)
        edge.clock.advance(61)
        waiting = asyncio.create_task(edge.fetch("/plain"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        origin_down.set()
        assert not (await waiting).cache.startswith("edgecache; hit")


async def test_a_soft_purge_is_not_undone_by_a_refresh() -> None:
    answer = Versions("max-age=60")
    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/plain")
        await edge.pipeline.purge(Purge(tag="t", soft=True))
        answer.version = 2
        await edge.pipeline.purge(Purge(tag="t", refresh=True))
        assert (await edge.fetch("/plain")).body == b"2 None"


def _let_purge(edge: Edge, *networks: str) -> None:
    (site,) = edge.sites.snapshot.sites
    edge.sites.replace([replace(site, access=AccessRule(purge=networks))])


async def test_the_method_purge_is_not_allowed_unless_a_site_names_who_may() -> None:
    async with origin_of(_tagged) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/a")
        got = await edge.fetch("/a", "PURGE")
        assert (got.status, got.headers["Content-Type"]) == (405, "application/problem+json")
        _let_purge(edge, "192.0.2.0/24", "::1")
        assert (await edge.fetch("/a", "PURGE")).status == 403
        assert edge.records[-1].reason == "purge-denied"
        assert (await edge.fetch("/a")).cache.startswith("edgecache; hit")
        assert [seen.method for seen in origin.seen] == ["GET"], "no PURGE reaches the origin"


async def test_the_method_purge_removes_all_variants_of_its_url_and_nothing_else() -> None:
    async with origin_of(Versions()) as origin, edge_for(origin.url) as edge:
        _let_purge(edge, "127.0.0.0/8")
        for path, language in (("/a", "de"), ("/a", "en"), ("/a?b", "de")):
            await edge.fetch(path, headers={"Accept-Language": language})
        got = await edge.fetch("/a", "PURGE")
        assert (got.status, got.body, got.headers["Cache-Control"]) == (200, b'{"purged": 2}\n', "no-store")
        assert edge.store.stats().entries == 1
        assert (await edge.fetch("/a?b", headers={"Accept-Language": "de"})).cache.startswith("edgecache; hit")
        assert (await edge.fetch("/none", "PURGE")).body == b'{"purged": 0}\n'
        assert origin.count == 3


async def test_a_generators_sub_request_cannot_purge() -> None:
    async with origin_of(_tagged) as origin, edge_for(origin.url) as edge:
        _let_purge(edge, "0.0.0.0/0", "::/0")
        await edge.fetch("/a")
        (site,) = edge.sites.snapshot.sites
        authority = edge.uri("/").split("/")[2]
        asked = Request("PURGE", "http", authority, "/a", freeze([("Host", authority)]))
        assert (await edge.pipeline.fetch_through(site, asked)).response.status == 403
        assert edge.store.stats().entries == 1


async def test_who_asks_after_a_purge_does_not_board_a_flight_from_before_it() -> None:
    gate, version, asked = asyncio.Event(), 1, 0

    async def slow(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        said = version
        await gate.wait()
        return web.Response(text=str(said), headers={"Cache-Control": "max-age=60", "Cache-Tag": "all"})

    async with origin_of(slow) as origin, edge_for(origin.url) as edge:
        before = asyncio.create_task(edge.fetch("/page"))
        await until(lambda: asked == 1)
        version = 2
        await edge.pipeline.purge(Purge(tag="other"))
        with_it = asyncio.create_task(edge.fetch("/page"))
        await until(
            lambda: len(edge.pipeline.flights) == 1 and sum(len(f.seats) for f in edge.pipeline.flights._flights.values()) == 2
        )
        await edge.pipeline.purge(Purge(tag="all"))
        after = [asyncio.create_task(edge.fetch("/page")) for _ in range(5)]
        await until(lambda: sum(len(f.seats) for f in edge.pipeline.flights._flights.values()) == 7)
        gate.set()
        assert (await before).body == b"1"
        await with_it
        assert {got.body for got in await asyncio.gather(*after)} == {b"2"}
        assert asked <= 3, "those who asked after the purge share one flight"
        assert (await edge.fetch("/page")).body == b"2"
