"""Pages assembled at the edge, over real sockets (W3C note "ESI Language Specification 1.0")."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web

from edgecache.policy.coding import Coding
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.serve import assembling
from tests.integration.proxy_support import Edge, Handler, edge_for, origin_of, until

ON = CacheRule(esi=True)
_TEMPLATE = {"Content-Type": "text/html", "Cache-Control": "max-age=60", "Surrogate-Control": 'content="ESI/1.0"', "ETag": '"t"'}


def template(text: str, **fields: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return web.Response(body=text.encode(), headers={**_TEMPLATE, **named})


def fragment(text: str, cache: str = "max-age=60") -> web.Response:
    return web.Response(body=text.encode(), headers={"Cache-Control": cache})


def pages(**by_name: str | Callable[[], web.Response]) -> Handler:
    """An origin of templates (text) and fragments (functions); `{edge}` in a template is the host it was asked of."""

    async def answer(request: web.BaseRequest) -> web.Response:
        found = by_name.get(request.path.strip("/").replace("/", "_"))
        if found is None:
            return web.Response(status=404, body=b"none", headers={"Cache-Control": "max-age=60"})
        return template(found.replace("{edge}", request.host)) if isinstance(found, str) else found()

    return answer


def asked(origin: object) -> list[str]:
    return [request.path for request in origin.seen]  # type: ignore[attr-defined]


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
        response = web.StreamResponse(headers=_TEMPLATE)
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


async def test_surrogate_control_about_processing_leaves_cache_control_in_force() -> None:
    async with origin_of(pages(page="a")) as origin, edge_for(origin.url, rule=ON) as edge:
        await edge.fetch("/page")
        edge.clock.advance(30)
        assert "hit" in (await edge.fetch("/page")).cache
        edge.clock.advance(31)
        assert "hit" not in (await edge.fetch("/page")).cache


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
