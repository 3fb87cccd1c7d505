"""Sites that do not answer everybody, through real sockets."""

from __future__ import annotations

from dataclasses import replace

from edgecache.policy.access import AccessRule
from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import Edge, edge_for, origin_of, plain


def restrict(edge: Edge, rule: AccessRule) -> None:
    (site,) = edge.sites.snapshot.sites
    edge.sites.replace([replace(site, access=rule)])


async def test_a_denied_client_gets_403_also_of_what_is_stored() -> None:
    async with origin_of(plain(Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        for _ in range(3):
            assert (await edge.fetch("/a")).status == 200
        restrict(edge, AccessRule(deny=("127.0.0.0/8",)))
        got = await edge.fetch("/a")
        assert (got.status, got.headers["Content-Type"]) == (403, "application/problem+json")
        assert got.cache == "edgecache; detail=client-denied"
        assert (edge.records[-1].reason, edge.records[-1].status) == ("client-denied", 403)
        restrict(edge, AccessRule(allow=("127.0.0.1",)))
        assert (await edge.fetch("/a")).status == 200
        assert origin.count == 1


async def test_a_browser_gets_its_errors_as_pages() -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    async with edge_for("http://127.0.0.1:1") as edge:
        restrict(edge, AccessRule(client_rate=1, client_burst=2))
        got = await edge.fetch("/<b>", headers=browser)
        assert (got.status, got.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
        assert b"<h1>Bad Gateway</h1><p>The origin could not be reached.</p>" in got.body
        assert got.headers["X-Request-Id"].encode() in got.body
        assert "script" not in got.headers["Content-Security-Policy"]
        assert got.headers["Cache-Control"] == "no-store"
        assert (await edge.fetch("/", "HEAD", headers=browser)).headers["Content-Type"] == "text/html; charset=utf-8"
        late = await edge.fetch("/", headers=browser)
        assert (late.status, late.headers["Retry-After"]) == (429, "1")
        assert b"Please try again in a second." in late.body
        assert (await edge.fetch("/")).headers["Content-Type"] == "application/problem+json"


async def test_a_browser_gets_the_operators_own_error_page() -> None:
    template = "<h1>Sorry ({{status}} {{ reason }})</h1>{{text}}<i>{{request_id}}</i>"
    async with edge_for("http://127.0.0.1:1", settings=ServeSettings(error_page=template)) as edge:
        got = await edge.fetch("/", headers={"Accept": "text/html"})
        number = got.headers["X-Request-Id"]
        said = f"<h1>Sorry (502 Bad Gateway)</h1>The origin could not be reached.<i>{number}</i>"
        assert (got.status, got.body.decode()) == (502, said)
        assert "Content-Security-Policy" not in got.headers
        assert (await edge.fetch("/")).headers["Content-Type"] == "application/problem+json"


async def test_a_client_that_asks_too_often_waits_as_it_is_told() -> None:
    async with origin_of(plain(Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        restrict(edge, AccessRule(client_rate=1, client_burst=3))
        assert [(await edge.fetch("/a")).status for _ in range(4)] == [200, 200, 200, 429]
        got = await edge.fetch("/a")
        assert (got.headers["Retry-After"], got.cache) == ("1", "edgecache; detail=rate-limit")
        edge.clock.advance(1)
        assert [(await edge.fetch("/a")).status for _ in range(2)] == [200, 429]
