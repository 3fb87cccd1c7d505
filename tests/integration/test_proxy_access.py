"""Sites that do not answer everybody, through real sockets."""

from __future__ import annotations

from dataclasses import replace

from edgecache.policy.access import AccessRule
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


async def test_a_client_that_asks_too_often_waits_as_it_is_told() -> None:
    async with origin_of(plain(Cache_Control="max-age=60")) as origin, edge_for(origin.url) as edge:
        restrict(edge, AccessRule(client_rate=1, client_burst=3))
        assert [(await edge.fetch("/a")).status for _ in range(4)] == [200, 200, 200, 429]
        got = await edge.fetch("/a")
        assert (got.headers["Retry-After"], got.cache) == ("1", "edgecache; detail=rate-limit")
        edge.clock.advance(1)
        assert [(await edge.fetch("/a")).status for _ in range(2)] == [200, 429]
