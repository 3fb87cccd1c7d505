"""Pages assembled at the edge, over real sockets (W3C note "ESI Language Specification 1.0")."""

from __future__ import annotations

import asyncio
import zlib

import aiohttp
import pytest
from aiohttp import web

from edgecache.policy.coding import Coding
from edgecache.policy.rule import CacheRule
from tests.integration.esi_support import ON, TEMPLATE, asked, fragment, pages, template
from tests.integration.proxy_support import edge_for, origin_of, until


async def test_fragments_stand_in_their_places_and_live_their_own_lives() -> None:
    lives = {"a": "max-age=60", "b": "no-store", "c": "max-age=5"}

    async def answer(request: web.BaseRequest) -> web.Response:
        name = request.path.strip("/")
        if name in lives:
            return fragment(f"[{name}]", lives[name])
        return template(
            '1<esi:include src="/a"/>2<esi:remove>x</esi:remove><esi:include src="b"/>3<!--esi <esi:include src="/c"/>-->4'
        )

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        first = await edge.fetch("/page")
        assert (first.status, first.body) == (200, b"1[a]2[b]3 [c]4")
        assert sorted(asked(origin)) == ["/a", "/b", "/c", "/page"]
        assert origin.seen[0].headers["Surrogate-Capability"] == 'edgecache="ESI/1.0"'
        assert origin.seen[0].headers["Accept-Encoding"] == "identity"
        again = await edge.fetch("/page")
        assert again.body == first.body
        assert "hit" in again.cache
        assert asked(origin)[4:] == ["/b"]
        edge.clock.advance(10)
        await edge.fetch("/page")
        assert sorted(asked(origin)[5:]) == ["/b", "/c"]


async def test_a_page_has_no_validators_and_is_not_to_be_kept() -> None:
    async with (
        origin_of(pages(page='a<esi:include src="/x"/>', x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        for _ in range(2):
            got = await edge.fetch("/page")
            assert got.headers["Cache-Control"] == "private, no-cache"
            for name in ("ETag", "Age", "Surrogate-Control", "Content-Length", "Accept-Ranges"):
                assert name not in got.headers
            edge.clock.advance(3)


@pytest.mark.parametrize(
    "fields", [{"If-None-Match": '"t"'}, {"Range": "bytes=0-0"}, {"If-Match": '"z"'}, {"If-None-Match": "*"}]
)
async def test_conditions_and_ranges_are_not_of_the_template(fields: dict[str, str]) -> None:
    async with (
        origin_of(pages(page='a<esi:include src="/x"/>', x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        for _ in range(2):
            got = await edge.fetch("/page", headers=fields)
            assert (got.status, got.body) == (200, b"aX")
            assert not set(fields) & set(origin.seen[-1].headers)


async def test_other_responses_of_the_site_are_as_ever() -> None:
    plain = {"Content-Type": "text/html", "Cache-Control": "max-age=60", "ETag": '"p"'}

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=b'<esi:include src="/x"/>', headers=plain)

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        assert (await edge.fetch("/p")).body == b'<esi:include src="/x"/>'
        assert (await edge.fetch("/p", headers={"If-None-Match": '"p"'})).status == 304
        assert (await edge.fetch("/p", headers={"Range": "bytes=0-4"})).body == b"<esi:"
        for _ in range(3):
            await edge.fetch("/p")
        assert edge.fast_hits, "what is no template takes the fast lane"


async def test_the_fast_lane_never_sends_a_template() -> None:
    async with (
        origin_of(pages(page='a<esi:include src="/x"/>', x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        for _ in range(5):
            assert (await edge.fetch("/page")).body == b"aX"
        assert edge.fast_hits == 0


async def test_without_esi_nothing_is_assembled() -> None:
    async with origin_of(pages(page='a<esi:include src="/x"/>')) as origin, edge_for(origin.url) as edge:
        got = await edge.fetch("/page")
        assert got.body == b'a<esi:include src="/x"/>'
        assert "Surrogate-Capability" not in origin.seen[0].headers


async def test_undeclared_templates_where_the_site_says_so() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/x":
            return fragment("X")
        return web.Response(body=b'a<esi:include src="/x"/>', headers={"Content-Type": "text/html"})

    async with origin_of(answer) as origin, edge_for(origin.url, rule=CacheRule(esi=True, esi_undeclared=True)) as edge:
        assert (await edge.fetch("/page")).body == b"aX"


async def test_what_stands_before_a_slow_fragment_is_sent_at_once() -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/page":
            return template('before<esi:include src="/slow"/>after')
        await gate.wait()
        return fragment("slow")

    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, rule=ON) as edge,
        edge.client.get(edge.url("/page")) as response,
    ):
        assert await response.content.readexactly(6) == b"before"
        gate.set()
        assert await response.content.read() == b"slowafter"


async def test_a_client_that_goes_away_takes_its_fragments_along() -> None:
    started, gone = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/page":
            return template('before<esi:include src="/hangs"/>', Cache_Control="no-store")
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()
        return fragment("")

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        async with edge.client.get(edge.url("/page")) as response:
            await response.content.readexactly(6)
            await started.wait()
            response.close()
        await asyncio.wait_for(gone.wait(), 10)
        await until(lambda: len(edge.pipeline.flights) == 0)


async def test_a_template_that_breaks_off_breaks_the_page_off() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/x":
            return fragment("X")
        response = web.StreamResponse(headers=TEMPLATE)
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b'a<esi:include src="/x"/>')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        with pytest.raises(aiohttp.ClientError):
            await edge.fetch("/page")


async def test_a_page_that_is_not_stored_is_assembled_too() -> None:
    async with (
        origin_of(
            pages(page=lambda: template('a<esi:include src="/x"/>', Cache_Control="private"), x=lambda: fragment("X"))
        ) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        for _ in range(2):
            assert (await edge.fetch("/page")).body == b"aX"
        assert asked(origin) == ["/page", "/x", "/page"]


async def test_a_page_is_coded_once_it_is_assembled() -> None:
    rule = CacheRule(esi=True, compress=(Coding.GZIP,))
    async with (
        origin_of(pages(page='a<esi:include src="/x"/>b' * 3, x=lambda: fragment("X" * 2000))) as origin,
        edge_for(origin.url, rule=rule) as edge,
    ):
        for _ in range(2):
            got = await edge.fetch("/page", headers={"Accept-Encoding": "gzip"})
            assert (got.headers["Content-Encoding"], got.headers["Vary"]) == ("gzip", "Accept-Encoding")
            assert zlib.decompress(got.body, 31) == (b"a" + b"X" * 2000 + b"b") * 3
            plain = await edge.fetch("/page", headers={"Accept-Encoding": "identity"})
            assert plain.body == (b"a" + b"X" * 2000 + b"b") * 3
        assert origin.count == 2, "the coding is none of the template's"


async def test_head_asks_for_no_fragments() -> None:
    async with (
        origin_of(pages(page='a<esi:include src="/x"/>', x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        for _ in range(2):
            got = await edge.fetch("/page", "HEAD")
            assert (got.status, got.body) == (200, b"")
            assert "ETag" not in got.headers
        assert "/x" not in asked(origin)


async def test_http_1_0_gets_a_page_too() -> None:
    async with (
        origin_of(pages(page='a<esi:include src="/x"/>b', x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        said = await edge.raw(b"GET /page HTTP/1.0\r\nHost: a\r\n\r\n")
        assert said.endswith(b"\r\n\r\naXb")


async def test_surrogate_control_about_processing_leaves_cache_control_in_force() -> None:
    async with origin_of(pages(page="a")) as origin, edge_for(origin.url, rule=ON) as edge:
        await edge.fetch("/page")
        edge.clock.advance(30)
        assert "hit" in (await edge.fetch("/page")).cache
        edge.clock.advance(31)
        assert "hit" not in (await edge.fetch("/page")).cache


@pytest.mark.parametrize("tag", ["<esi:x>", '<esi:include src="/none"/>', "<esi:include/>"])
async def test_others_have_their_turns_while_a_large_template_is_read(tag: str) -> None:
    """Turns are counted, not timed: a generator's output must not have the loop that serves everybody to itself."""
    large = tag * ((1 << 20) // len(tag))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with origin_of(pages(page="<esi:include src='/inner'/>", inner=large)) as origin, edge_for(origin.url, rule=ON) as edge:
        await edge.fetch("/inner")
        counting = asyncio.create_task(others())
        try:
            await edge.fetch("/inner", "HEAD")
            before = turns
            await edge.fetch("/page")
            assert turns - before > 60
        finally:
            counting.cancel()
