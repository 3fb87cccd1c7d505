"""Clients who try to have others served what is not theirs: inputs that the source sees and the key does not, or the reverse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.generate.edge_calls import parse_fetch
from edgecache.policy.message import Request, Response
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.sites import ActiveVersion, GeneratorRoutes
from edgecache.source import Body, Interim, Reply
from edgecache.upstream.http1.body import BytesBody
from tests.integration.proxy_support import Edge, edge_for, origin_of, plain

ROUTES = GeneratorRoutes(name="g", routes=("/g/*",), active=(ActiveVersion(1, 100, "site/g@1"),), rule=CacheRule())


class Transformer:
    """A generator that fetches its own URL from the origin and makes another page of it."""

    def __init__(self, cache_control: str) -> None:
        self.edge: Edge | None = None
        self._cache_control = cache_control

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> None:
        return None

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        assert self.edge is not None
        site = self.edge.sites.snapshot.sites[0]
        host = CIMultiDictProxy(CIMultiDict(Host=request.authority))
        answer = await self.edge.pipeline.fetch_through(
            site, Request("GET", request.scheme, request.authority, request.target, host)
        )
        content = await answer.read(1 << 20)
        await answer.close()
        fields = CIMultiDictProxy(CIMultiDict({"Cache-Control": self._cache_control, "Content-Type": "text/plain"}))
        return Reply(Response(200, "OK", fields), BytesBody(b"made of " + content))


@pytest.mark.parametrize("cache_control", ["no-store", "max-age=60"])
async def test_what_a_generator_fetches_of_its_own_url_is_not_what_clients_get(cache_control: str) -> None:
    generator = Transformer(cache_control)
    async with (
        origin_of(plain(b"paid content", cache_control="max-age=3600")) as origin,
        edge_for(origin.url, generators={"g": generator}, routes=(ROUTES,)) as edge,
    ):
        generator.edge = edge
        bodies = {(await edge.fetch("/g/page")).body for _ in range(3)}
        edge.clock.advance(120)
        bodies.add((await edge.fetch("/g/page")).body)
        assert bodies == {b"made of paid content"}
        assert origin.count == 1, "the sub-request is cached, apart from the page"
        edge.pipeline.invalidate(edge.uri("/g/page"))
        assert (await edge.fetch("/g/page")).body == b"made of paid content"
        assert origin.count == 2, "what is invalidated is the URL, however it is asked for"


async def test_what_a_generator_fetches_of_other_urls_is_shared_with_clients() -> None:
    generator = Transformer("no-store")
    async with origin_of(plain(b"x", cache_control="max-age=60")) as origin, edge_for(origin.url) as edge:
        generator.edge = edge
        assert (await edge.fetch("/page")).body == b"x"
        await generator.fetch(Request("GET", "http", edge.uri("").removeprefix("http://"), "/page", _NONE), None, "")
        assert origin.count == 1


_NONE = CIMultiDictProxy(CIMultiDict[str]())


async def by_language(request: web.BaseRequest) -> web.Response:
    language = request.headers.get("Accept-Language", "none")
    return web.Response(text=language, headers={"Cache-Control": "max-age=60", "Vary": "Accept-Language"})


@pytest.mark.parametrize("listed", ["Accept-Language", "close, accept-language", "keep-alive,,ACCEPT-LANGUAGE"])
async def test_a_field_that_the_source_does_not_get_does_not_select_a_variant(listed: str) -> None:
    async with origin_of(by_language) as origin, edge_for(origin.url) as edge:
        poison = await edge.fetch("/", headers={"Accept-Language": "de", "Connection": listed})
        assert poison.body == b"none", "Connection says that the field ends at this hop"
        assert (await edge.fetch("/", headers={"Accept-Language": "de"})).body == b"de"
        assert (await edge.fetch("/")).body == b"none"
        assert origin.count == 2


async def test_a_field_that_a_guest_sends_for_one_hop_does_not_select_a_variant() -> None:
    async with origin_of(by_language) as origin, edge_for(origin.url) as edge:
        poison, _ = parse_fetch(b"GET /\nConnection: accept-language\nAccept-Language: de", "http", edge.uri("/").split("/")[2])
        (site,) = edge.sites.snapshot.sites
        await (await edge.pipeline.fetch_through(site, poison)).read(100)
        assert (await edge.fetch("/", headers={"Accept-Language": "de"})).body == b"de"


async def linking(request: web.BaseRequest) -> web.Response:
    """As Spring's ForwardedHeaderFilter and others: the first host that is named is the one asked for."""
    said = request.headers["Forwarded"].partition("host=")[2].partition(";")[0].partition(",")[0]
    return web.Response(text=f"http://{said}/", headers={"Cache-Control": "max-age=60"})


async def test_no_client_says_for_others_which_host_was_asked_for() -> None:
    async with origin_of(linking) as origin, edge_for(origin.url) as edge:
        for named in ({"Forwarded": "for=1.2.3.4;host=evil.test;proto=https"}, {}):
            assert "evil" not in (await edge.fetch("/", headers=named)).body.decode()
        assert origin.count == 1


@pytest.mark.parametrize(
    "name", ["X_Forwarded_Host", "x-forwarded_for", "ACCEPT_LANGUAGE", "X_Original_URL", "Transfer_Encoding"]
)
async def test_no_field_is_said_past_the_key_by_its_name_in_cgi(name: str) -> None:
    async with origin_of(plain(b"page")) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/", headers={name: "evil", "Own_Field": "fine"})
        (seen,) = origin.seen
        assert not [value for field, value in seen.headers.items() if "_" in field and field != "Own_Field"]
        assert seen.headers["Own_Field"] == "fine"


@pytest.mark.parametrize("name", ["Proxy", "proxy", "PROXY"])
async def test_no_client_says_where_an_origin_sends_its_own_requests(name: str) -> None:
    async with origin_of(plain(b"page")) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/", headers={name: "evil.test:8080", "Proxied": "fine"})
        (seen,) = origin.seen
        assert "Proxy" not in seen.headers
        assert seen.headers["Proxied"] == "fine"


async def by_client(request: web.BaseRequest) -> web.Response:
    field = request.path.removeprefix("/")
    return web.Response(text=request.headers.get(field, ""), headers={"Cache-Control": "max-age=60", "Vary": field})


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded", "X-Request-Id"])
async def test_a_response_that_varies_on_who_asks_is_not_shared(field: str) -> None:
    """The edge itself says who asks: to the key, all clients who say nothing of it would look the same."""
    async with origin_of(by_client) as origin, edge_for(origin.url) as edge:
        for _ in range(2):
            got = await edge.fetch(f"/{field}")
            assert got.body
            assert "stored" not in got.cache
        assert origin.count == 2


REWRITING = [
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Host",
    "X-HTTP-Host-Override",
    "X-HTTP-Method-Override",
    "X-Original-URI",
    "X-Original-URL",
    "X-Override-URL",
    "X-Rewrite-URL",
]


async def echoing(request: web.BaseRequest) -> web.Response:
    """As frameworks do that believe whoever stands before them."""
    told = ",".join(request.headers[name] for name in REWRITING if name in request.headers)
    return web.Response(text=told, headers={"Cache-Control": "max-age=60"})


@pytest.mark.parametrize("name", REWRITING)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_client_cannot_have_another_url_or_method_answered_under_a_key(name: str, method: str) -> None:
    async with origin_of(echoing) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/", method, headers={name: "/evil"})
        assert name not in origin.seen[0].headers
        assert (await edge.fetch("/")).body == b""


async def test_what_the_key_holds_is_passed_on() -> None:
    async with origin_of(echoing) as origin, edge_for(origin.url, rule=CacheRule(vary=("x-forwarded-port",))) as edge:
        assert (await edge.fetch("/", headers={"X-Forwarded-Port": "444"})).body == b"444"
        assert (await edge.fetch("/")).body == b""


async def test_what_is_never_shared_may_override_its_method() -> None:
    async with origin_of(echoing) as origin, edge_for(origin.url) as edge:
        assert (await edge.fetch("/", "POST", headers={"X-HTTP-Method-Override": "PATCH"})).body == b"PATCH"
        assert (await edge.fetch("/", "POST", headers={"X-Original-URL": "/g/page"})).body == b"", "it is routed by what it names"


class Guard:
    """A generator that shows nothing of what lies behind it."""

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> None:
        return None

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        fields = CIMultiDictProxy(CIMultiDict({"Cache-Control": "no-store", "Content-Type": "text/plain"}))
        return Reply(Response(200, "OK", fields), BytesBody(request.target.encode()))


@pytest.mark.parametrize(
    "path",
    ["/g/page", "/%67/page", "//g/page", "/x/../g/page", "/x/%2e%2e/g/page", "/./g/page", "/g/%70age?q=/../..", "/g/../g/p"],
)
async def test_no_spelling_of_a_path_reaches_the_origin_past_its_generator(path: str) -> None:
    async with (
        origin_of(plain(b"secret", cache_control="max-age=60")) as origin,
        edge_for(origin.url, generators={"g": Guard()}, routes=(ROUTES,)) as edge,
    ):
        said = await edge.raw(f"GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n".encode())
        assert path.encode() in said, "the generator sees the target as it came"
        assert origin.count == 0


@pytest.mark.parametrize("path", ["/", "/gg/page", "/%2567/page", "/x/g/page", "/g%2Fpage"])
async def test_other_paths_are_the_origins(path: str) -> None:
    async with (
        origin_of(plain(b"public")) as origin,
        edge_for(origin.url, generators={"g": Guard()}, routes=(ROUTES,)) as edge,
    ):
        assert (await edge.raw(f"GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n".encode())).endswith(b"public")
        assert origin.seen[0].raw_path == path


@pytest.mark.parametrize("host", ["shop.test.", "SHOP.TEST.", "shop.test.:80", "shop.test:80", "shop.test:"])
async def test_a_host_has_one_key_and_is_purged_by_it(host: str) -> None:
    """A name that ends in a dot is the same name (RFC 1034 section 3.1): what is purged must not live on under it."""
    async with origin_of(plain(b"leaked", cache_control="max-age=60")) as origin, edge_for(origin.url) as edge:
        for named in ("shop.test", host):
            await edge.raw(f"GET /a HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n".encode())
        assert origin.count == 1
        assert edge.records[-1].uri == "http://shop.test/a"
        assert await edge.pipeline.purge(Purge(urls=("http://shop.test/a",))) == 1
        await edge.raw(f"GET http://{host}/a HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n".encode())
        assert [seen.headers["Host"].removesuffix(":80").removesuffix(":") for seen in origin.seen] == ["shop.test"] * 2
