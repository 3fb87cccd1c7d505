"""The fragments of a page: which are fetched, with what, how many at the most, and what stands for those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web

from edgecache.policy.purging import Purge
from edgecache.serve import assembling
from tests.integration.esi_support import ON, asked, fragment, pages, template
from tests.integration.proxy_support import Edge, edge_for, origin_of


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        ('<esi:include src="/none"/>', b"<!-- esi:include failed: status-404 -->"),
        ('<esi:include src="/none" onerror="continue"/>', b""),
        ('<esi:include src="/none" alt="/x"/>', b"X"),
        ('<esi:include src="/none" alt="/none2"/>', b"<!-- esi:include failed: status-404 -->"),
        ('<esi:include src="/none" alt="/none2" onerror="continue"/>', b""),
        ("<esi:include/>", b"<!-- esi:include failed: no-src -->"),
        ('<esi:include src="http://evil.example/x"/>', b"<!-- esi:include failed: foreign -->"),
        ('<esi:include src="//evil.example/x"/>', b"<!-- esi:include failed: foreign -->"),
        ('<esi:include src="http://u:p@127.0.0.1/x"/>', b"<!-- esi:include failed: reference -->"),
        ('<esi:include src="file:///etc/passwd"/>', b"<!-- esi:include failed: reference -->"),
        ('<esi:include src="http://[/"/>', b"<!-- esi:include failed: reference -->"),
        ('<esi:include src="/big"/>', b"<!-- esi:include failed: too-large -->"),
        ('<esi:include src="/coded"/>', b"<!-- esi:include failed: coded -->"),
        ('<esi:include src="/moved"/>', b"<!-- esi:include failed: status-302 -->"),
        ('<esi:include src="/empty"/>', b""),
        ('<esi:include src="/x?a b\r\n&#13;c"/>', b"X"),
        ('<esi:include src="http://127.0.0.1/x"/>', b"X"),
    ],
)
async def test_fragments_that_fail(tag: str, body: bytes) -> None:
    origin_pages = pages(
        page=f"({tag})",
        x=lambda: fragment("X"),
        big=lambda: fragment("x" * (assembling.MAX_FRAGMENT_BYTES + 1)),
        coded=lambda: web.Response(body=b"x", headers={"Content-Encoding": "x"}),
        moved=lambda: web.Response(status=302, headers={"Location": "/x"}),
        empty=lambda: web.Response(status=204),
    )
    async with origin_of(origin_pages) as origin, edge_for(origin.url, rule=ON, hosts=("127.0.0.1",)) as edge:
        for _ in range(2):
            assert (await edge.fetch("/page")).body == b"(" + body + b")"


async def test_a_fragment_is_the_same_with_and_without_its_default_port() -> None:
    page = '<esi:include src="/x"/><esi:include src="http://shop.test:80/x"/><esi:include src="http://SHOP.test./x"/>'
    async with origin_of(pages(page=page, x=lambda: fragment("X"))) as origin, edge_for(origin.url, rule=ON) as edge:
        assert (await edge.fetch("/page", headers={"Host": "shop.test"})).body == b"XXX"
        assert asked(origin) == ["/page", "/x"]


async def test_an_origin_out_of_reach_is_a_failed_fragment() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/page":
            return template('a<esi:include src="/x"/>b')
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        assert (await edge.fetch("/page")).body == b"a<!-- esi:include failed: status-502 -->b"


async def test_fragments_of_fragments_end_somewhere() -> None:
    levels: dict[str, str | Callable[[], web.Response]] = {
        f"level{n}": f'{n}<esi:include src="/level{n + 1}"/>' for n in range(1, 6)
    }
    async with (
        origin_of(pages(page='0<esi:include src="/level1"/>', self='s<esi:include src="/self"/>', **levels)) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        assert (await edge.fetch("/page")).body == b"0123<!-- esi:include failed: depth -->"
        assert (await edge.fetch("/self")).body == b"ssss<!-- esi:include failed: depth -->"


async def test_a_page_has_a_bounded_number_of_fragments() -> None:
    wide = '<esi:include src="/wide"/>' * 8
    async with origin_of(pages(page=wide, wide=wide)) as origin, edge_for(origin.url, rule=ON) as edge:
        got = await edge.fetch("/page")
        assert b"esi:include failed: includes" in got.body
        assert origin.count == 2, "the same fragment is fetched once"
    many = "".join(f'<esi:include src="/f?{n}"/>' for n in range(200))
    async with origin_of(pages(page=many, f=lambda: fragment("f"))) as origin, edge_for(origin.url, rule=ON) as edge:
        got = await edge.fetch("/page")
        assert got.body.startswith(b"f" * assembling.MAX_INCLUDES + b"<!-- esi:include failed: includes -->")
        assert origin.count == 1 + assembling.MAX_INCLUDES


async def test_fragments_are_fetched_in_parallel_and_sent_in_order() -> None:
    both = asyncio.Barrier(3)

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/page":
            return template('<esi:include src="/1"/>-<esi:include src="/2"/>-<esi:include src="/3"/>')
        await both.wait()
        return fragment(request.path)

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        assert (await edge.fetch("/page")).body == b"/1-/2-/3"
        assert origin.count == 4


async def test_a_fragment_that_never_comes_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "MAX_SECONDS", 0.3)
    gone = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/page":
            return template('a<esi:include src="/hangs"/>b')
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()
        return fragment("")

    async with origin_of(answer) as origin, edge_for(origin.url, rule=ON) as edge:
        assert (await edge.fetch("/page")).body == b"a<!-- esi:include failed: timeout -->b"
        await asyncio.wait_for(gone.wait(), 10)


@pytest.mark.parametrize(("where", "sent"), [("/x", True), ("http://127.0.0.1/x", False)])
async def test_credentials_go_to_the_page_s_own_host_only(where: str, sent: bool) -> None:
    async with (
        origin_of(pages(page=f'<esi:include src="{where}"/>', x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON) as edge,
    ):
        await edge.fetch("/page", headers={"Cookie": "a=b", "Accept-Language": "de"})
        seen = origin.seen[-1].headers
        assert ("Cookie" in seen) is sent
        assert seen["Accept-Language"] == "de"


async def test_a_purge_of_a_fragment_shows_on_the_next_page() -> None:
    count = 0

    def counted() -> web.Response:
        nonlocal count
        count += 1
        return fragment(str(count))

    async with origin_of(pages(page='<esi:include src="/x"/>', x=counted)) as origin, edge_for(origin.url, rule=ON) as edge:
        assert [(await edge.fetch("/page")).body for _ in range(2)] == [b"1", b"1"]
        await _purge(edge, "/x")
        assert (await edge.fetch("/page")).body == b"2"
        assert asked(origin).count("/page") == 1


async def _purge(edge: Edge, path: str) -> None:
    await edge.pipeline.purge(Purge(urls=(edge.uri(path),)))


@pytest.mark.parametrize("host", ["SHOP.test:80", "shop.test.", "shop.test.:80", "shop.test:", "shop.test"])
async def test_a_host_written_otherwise_is_the_same_fragment(host: str) -> None:
    text = f'<esi:include src="http://{host}/x"/>'
    async with (
        origin_of(pages(page=text, x=lambda: fragment("X"))) as origin,
        edge_for(origin.url, rule=ON, hosts=("shop.test",)) as edge,
    ):
        for expected in (2, 3):
            assert (await edge.fetch("/page", headers={"Host": "shop.test"})).body == b"X"
            assert origin.count == expected
            await edge.pipeline.purge(Purge(urls=("http://shop.test/x",)))


@pytest.mark.parametrize("host", ["a b", "a\x0bb", "a\\b", "a;b@c", "[::1", "a:b", "ä.test", "a:123456"])
async def test_what_is_no_host_is_never_asked(host: str) -> None:
    async with origin_of(pages(page=f'<esi:include src="http://{host}/x"/>')) as origin, edge_for(origin.url, rule=ON) as edge:
        assert (await edge.fetch("/page")).body == b"<!-- esi:include failed: reference -->"
        assert origin.count == 1
