"""Pools of origins through a whole edge: shares, changes, names, timeouts, outages. Time passes when told to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp.abc import ResolveResult

from edgecache.policy.upstream import (
    Balance,
    BreakerRule,
    EjectionRule,
    HedgeRule,
    Origin,
    RetryOn,
    RetryRule,
    Timeouts,
    UpstreamRule,
)
from edgecache.upstream.resolving import Lookup
from origin_sim import proof
from origin_sim.server import Shop
from tests.integration.pool_support import bodies, named, refusing, servers
from tests.integration.proxy_support import edge_for, origin_of, raw_origin, read_head


class TestBalance:
    async def test_origins_have_turns_by_weight(self) -> None:
        async with servers("a", "b") as (a, b):
            rule = UpstreamRule(origins=(Origin(a.url, weight=3),))
            async with edge_for(a.url, b.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 12) == {b"a": 9, b"b": 3}

    async def test_without_weights_the_first_is_asked(self) -> None:
        async with servers("a", "b") as (a, b), edge_for(a.url, b.url) as edge:
            assert await bodies(edge, 4) == {b"a": 4}

    async def test_by_hash_a_url_keeps_its_origin(self) -> None:
        async with (
            servers("a", "b", "c") as (a, b, c),
            edge_for(a.url, b.url, c.url, upstream_rule=UpstreamRule(balance=Balance.HASH)) as edge,
        ):
            first = [(await edge.fetch(f"/{number}")).body for number in range(20)]
            assert [(await edge.fetch(f"/{number}")).body for number in range(20)] == first
            assert len(set(first)) == 3

    async def test_a_backup_is_asked_only_while_no_other_is_healthy(self) -> None:
        port, dead = refusing()
        async with servers("b", "backup") as (b, backup):
            rule = UpstreamRule(balance=Balance.WEIGHT, origins=(Origin(backup.url, backup=True),))
            async with edge_for(b.url, backup.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 4) == {b"b": 4}
            async with edge_for(dead, backup.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 4) == {b"backup": 4}
        port.close()


class TestChanges:
    async def test_what_is_known_of_an_origin_outlives_a_change_of_its_site(self) -> None:
        async with origin_of(named("bad", 503)) as bad, origin_of(named("good")) as good:
            rule = UpstreamRule(ejection=EjectionRule(errors=1))
            async with edge_for(bad.url, good.url, upstream_rule=rule) as edge:
                assert await bodies(edge, 2) == {b"bad": 1, b"good": 1}
                (site,) = edge.sites.snapshot.sites
                edge.sites.replace([dataclasses.replace(site, weight=7, upstream=dataclasses.replace(rule, hedge=HedgeRule()))])
                assert await bodies(edge, 2, "/again") == {b"good": 2}

    async def test_an_origin_that_is_taken_away_is_not_asked_any_more(self) -> None:
        async with servers("a", "b") as (a, b), edge_for(a.url, upstream_rule=UpstreamRule()) as edge:
            assert await bodies(edge, 1) == {b"a": 1}
            (site,) = edge.sites.snapshot.sites
            edge.sites.replace([dataclasses.replace(site, origins=(b.url,))])
            assert await bodies(edge, 1, "/again") == {b"b": 1}
            assert [row.url for row in edge.upstreams.figures()] == [b.url]


class TestNames:
    async def test_a_changed_address_is_used_for_new_connections(self) -> None:
        async with named_servers() as (port, addresses, lookup), edge_for(f"http://origin.test:{port}", lookup=lookup) as edge:
            addresses[:] = ["127.0.0.1"]
            assert await bodies(edge, 2) == {b"127.0.0.1": 2}
            addresses[:] = ["127.0.0.2"]
            edge.ticks.advance(30.0)
            assert await bodies(edge, 2, "/new") == {b"127.0.0.2": 2}
            addresses.clear()
            edge.ticks.advance(30.0)
            assert await bodies(edge, 2, "/gone") == {b"127.0.0.2": 2}

    async def test_an_address_that_refuses_is_no_failure_while_another_does_not(self) -> None:
        async with named_servers() as (port, addresses, lookup), edge_for(f"http://origin.test:{port}", lookup=lookup) as edge:
            addresses[:] = ["127.0.0.3", "127.0.0.1"]
            assert await bodies(edge, 4) == {b"127.0.0.1": 4}

    async def test_a_name_that_never_resolved_fails_as_a_connection_does(self) -> None:
        async with named_servers() as (port, _, lookup), edge_for(f"http://origin.test:{port}", lookup=lookup) as edge:
            got = await edge.fetch("/")
            assert got.status == 502
            assert "connect" in got.cache


@contextlib.asynccontextmanager
async def named_servers() -> AsyncIterator[tuple[int, list[str], Lookup]]:
    """Servers on one port of two addresses, each connection for one request, and the addresses that any name has."""
    addresses: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        own = writer.get_extra_info("sockname")[0].encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%b" % (len(own), own)
        )
        await writer.drain()
        writer.close()

    async def lookup(host: str, port: int, _family: int) -> list[ResolveResult]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    first = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    async with first, await asyncio.start_server(answer, "127.0.0.2", port):
        yield port, addresses, lookup


class TestTimeouts:
    async def test_a_site_waits_for_a_connection_as_long_as_it_says(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
            address = listening.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            rule = UpstreamRule(timeouts=Timeouts(connect=0.05))
            async with edge_for(f"http://127.0.0.1:{address[1]}", upstream_rule=rule) as edge:
                got = await edge.fetch("/")
            assert got.status == 504
            assert "connect" in got.cache
            for filler in fillers:
                filler.close()

    async def test_a_site_waits_between_two_reads_as_long_as_it_says(self) -> None:
        async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
            await writer.drain()
            await reader.read()

        async with (
            raw_origin(stalls) as url,
            edge_for(url, upstream_rule=UpstreamRule(timeouts=Timeouts(between_bytes=0.05))) as edge,
        ):
            with pytest.raises(aiohttp.ClientPayloadError):
                await edge.fetch("/")


class TestOutages:
    """One of two real shops misbehaves; what clients get is right all the same."""

    @pytest.mark.parametrize(
        ("faults", "errors"),
        [({"broken": "no-answer"}, 3), ({"broken": "close-in-head"}, 3), ({"status": 503}, 3), ({"delay": "60s"}, 1)],
        ids=["no-answer", "close-in-head", "503", "delay"],
    )
    async def test_clients_notice_nothing(self, faults: dict[str, object], errors: int) -> None:
        rule = UpstreamRule(
            balance=Balance.WEIGHT,
            ejection=EjectionRule(errors=errors, time=3600.0),
            retries=RetryRule(on=tuple(RetryOn), statuses=(503,)),
            timeouts=Timeouts(first_byte=3.0),
        )
        async with Shop() as bad, Shop() as good, edge_for(bad.url, good.url, upstream_rule=rule) as edge:
            async with edge.client.post(f"{bad.url}/_admin/faults", json={"prefix": "/", "faults": faults}) as answer:
                assert answer.status == 200
            for number in range(30):
                target = f"/products?_cc=no-store&n={number}"
                got = await edge.fetch(target)
                assert got.status == 200
                assert proof.mismatch(target, got.headers, got.body) is None
            figures = {row.url: row for row in edge.upstreams.figures()}
            assert (figures[bad.url].state, figures[bad.url].failures) == ("ejected", errors)
            assert (figures[good.url].state, figures[good.url].requests) == ("healthy", 30)

    async def test_an_outage_of_both_is_answered_stale_then_by_name_and_ends(self) -> None:
        rule = UpstreamRule(breaker=BreakerRule(max_failures=2, pause=5.0))
        async with Shop() as shop, edge_for(shop.url, upstream_rule=rule) as edge:
            assert (await edge.fetch("/products?_cc=max-age=1")).status == 200
            edge.clock.advance(10)
            async with edge.client.post(f"{shop.url}/_admin/faults", json={"prefix": "/", "faults": {"broken": "no-answer"}}):
                pass
            got = [await edge.fetch("/products?_cc=max-age=1") for _ in range(4)]
            assert {answer.status for answer in got} == {200}
            assert ["detail=reset" in answer.cache for answer in got] == [True, True, False, False]
            assert all("detail=breaker-open" in answer.cache for answer in got[2:])
            async with edge.client.delete(f"{shop.url}/_admin/faults"):
                pass
            edge.ticks.advance(5.0)
            recovered = await edge.fetch("/products?_cc=max-age=1")
            assert recovered.status == 200
            assert "detail" not in recovered.cache
