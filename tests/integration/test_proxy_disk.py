"""What is on disk answers after a restart, whole or not at all; purges and the bound hold there; long bodies pass by memory."""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from edgecache.policy.purging import Purge
from tests.integration.disk_support import MIB, RULE, answer, content, settings, written
from tests.integration.proxy_support import Edge, edge_for, origin_of


@pytest.mark.parametrize(
    "path", ["/0/a", "/1/a", "/65536/a", "/65537/a", "/300000/a?chunked", "/6000000/a", "/6000000/a?chunked"]
)
async def test_what_was_stored_answers_after_a_restart(tmp_path: Path, path: str) -> None:
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            first = await edge.fetch(path, headers={"Host": "a.test"})
            await written(edge, 1)
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for _ in range(2):
                again = await edge.fetch(path, headers={"Host": "a.test"})
                assert again.status == 200 and again.body == first.body == content(path, len(first.body))
                assert "hit" in again.cache and again.headers["ETag"] == first.headers["ETag"]
                assert again.headers["Content-Length"] == str(len(first.body))
    assert origin.count == 1


async def test_ranges_and_head_of_a_long_body(tmp_path: Path) -> None:
    path, host = "/6000000/a", {"Host": "a.test"}
    whole = content(path, 6_000_000)
    async with origin_of(answer) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        await edge.fetch(path, headers=host)
        await written(edge, 1)
        assert edge.store.stats().entries == 0, "too long for memory"
        head = await edge.fetch(path, "HEAD", headers=host)
        assert head.headers["Content-Length"] == "6000000" and head.body == b""
        part = await edge.fetch(path, headers={**host, "Range": "bytes=5000000-5999998"})
        assert part.status == 206 and part.body == whole[5_000_000:5_999_999]
        assert part.headers["Content-Range"] == "bytes 5000000-5999998/6000000"
        parts = await edge.fetch(path, headers={**host, "Range": "bytes=0-9,3000000-3000009"})
        assert parts.status == 206 and whole[:10] in parts.body and whole[3_000_000:3_000_010] in parts.body
        assert len(parts.body) == int(parts.headers["Content-Length"])
        unchanged = await edge.fetch(path, headers={**host, "If-None-Match": '"/6000000/a"'})
        assert unchanged.status == 304
    assert origin.count == 1


async def test_a_range_of_what_is_not_stored_yet_stores_all_of_it(tmp_path: Path) -> None:
    path, host = "/6000000/a", {"Host": "a.test"}
    async with origin_of(answer) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        part = await edge.fetch(path, headers={**host, "Range": "bytes=100-199"})
        assert part.body == content(path, 6_000_000)[100:200]
        await written(edge, 1)
        assert "hit" in (await edge.fetch(path, headers={**host, "Range": "bytes=100-199"})).cache
    assert origin.count == 1


@pytest.mark.parametrize("path", ["/3000/a", "/300000/a", "/6000000/a"])
async def test_a_body_that_changed_on_disk_is_fetched_anew(tmp_path: Path, path: str) -> None:
    host = {"Host": "a.test"}
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            first = await edge.fetch(path, headers=host)
            await written(edge, 1)
        for segment in (tmp_path / "cache").glob("*.seg"):
            data = bytearray(segment.read_bytes())
            at = data.find(first.body[-100:])
            if at >= 0:
                data[at + 50] ^= 1
                segment.write_bytes(data)
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            again = await edge.fetch(path, headers=host)
            assert again.body == first.body and "fwd" in again.cache
            assert edge.tier is not None
            async with asyncio.timeout(10):
                while not edge.tier.stats().corrupt:
                    await asyncio.sleep(0.01)
            assert edge.tier.stats().corrupt == 1
    assert origin.count == 2


@pytest.mark.parametrize("damage", ["truncate", "remove"])
async def test_segments_that_are_cut_or_gone_are_no_answers(tmp_path: Path, damage: str) -> None:
    host = {"Host": "a.test"}
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for n in range(20):
                await edge.fetch(f"/20000/{n}", headers=host)
            await written(edge, 20)
        for segment in (tmp_path / "cache").glob("*.seg"):
            if damage == "remove":
                segment.unlink()
            else:
                with segment.open("r+b") as file:
                    file.truncate(segment.stat().st_size // 2)
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for n in range(20):
                assert (await edge.fetch(f"/20000/{n}", headers=host)).body == content(f"/20000/{n}", 20_000)
    assert 20 < origin.count <= 40


async def test_an_index_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    host = {"Host": "a.test"}
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            await edge.fetch("/10/a", headers=host)
            await written(edge, 1)
        (tmp_path / "cache" / "index" / "data.mdb").write_bytes(b"no index at all " * 4096)
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            assert "fwd" in (await edge.fetch("/10/a", headers=host)).cache
            await written(edge, 1)


PURGES = [
    (Purge(tag="t"), True),
    (Purge(tag="t", site="site"), True),
    (Purge(site="site"), True),
    (Purge(site="other"), False),
    (Purge(host="a.test"), True),
    (Purge(host="b.test"), False),
    (Purge(prefix="http://a.test/10/"), True),
    (Purge(everything=True), True),
    (Purge(urls=("http://a.test/10/a?tags=t",)), True),
]


@pytest.mark.parametrize(("purge", "concerned"), PURGES)
async def test_a_purge_reaches_what_only_the_disk_has(tmp_path: Path, purge: Purge, concerned: bool) -> None:
    host = {"Host": "a.test"}
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            await edge.fetch("/10/a?tags=t", headers=host)
            await written(edge, 1)
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            assert await edge.pipeline.purge(purge) == concerned
            assert ("hit" in (await edge.fetch("/10/a?tags=t", headers=host)).cache) != concerned
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            assert "hit" in (await edge.fetch("/10/a?tags=t", headers=host)).cache
    assert origin.count == 1 + concerned


@pytest.mark.parametrize("kind", ["soft", "refresh"])
async def test_what_is_purged_softly_on_disk_is_stale_there(tmp_path: Path, kind: str) -> None:
    host = {"Host": "a.test"}
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            await edge.fetch("/10/a?tags=t", headers=host)
            await written(edge, 1)
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            assert await edge.pipeline.purge(Purge(tag="t", **{kind: True})) == 1
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            got = await edge.fetch("/10/a?tags=t", headers=host)
            assert "fwd=stale" in got.cache if kind == "soft" else "detail=refresh" in got.cache


async def test_the_tier_stays_within_its_bytes(tmp_path: Path) -> None:
    host = {"Host": "a.test"}
    capacity = 16 * MIB
    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, disk=settings(tmp_path, capacity), capacity_bytes=MIB) as edge,
    ):
        for n in range(600):
            await edge.fetch(f"/{(n * 7919) % 100_000}/{n}", headers=host)
        await edge.fetch("/5000000/long", headers=host)
        used = subprocess.run(["du", "-sB1", tmp_path / "cache"], capture_output=True, check=True, text=True)
        assert int(used.stdout.split()[0]) <= capacity
        assert edge.tier is not None
        stats = edge.tier.stats()
        assert stats.evicted > 0 and stats.failures == 0 and stats.used_bytes <= capacity
        before = origin.count
        assert (await edge.fetch("/5000000/long", headers=host)).body == content("/5000000/long", 5_000_000)
        assert origin.count == before


async def test_variants_are_apart_on_disk_too(tmp_path: Path) -> None:
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            for variant in ("x", "y"):
                await edge.fetch("/10/a?vary=x-variant", headers={"Host": "a.test", "X-Variant": variant})
            await written(edge, 2)
        async with edge_for(origin.url, disk=settings(tmp_path)) as edge:
            for variant in ("y", "x"):
                got = await edge.fetch("/10/a?vary=x-variant", headers={"Host": "a.test", "X-Variant": variant})
                assert "hit" in got.cache and got.body == content(f"/10/a?vary=x-variant{variant}", 10)
            other = await edge.fetch("/10/a?vary=x-variant", headers={"Host": "a.test", "X-Variant": "z"})
            assert "hit" not in other.cache
    assert origin.count == 3


async def test_memory_stays_flat_while_a_long_body_comes_and_goes(tmp_path: Path) -> None:
    size = 200 * MIB
    piece = random.Random(1).randbytes(MIB)

    async def long(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=3600", "Content-Length": str(size)})
        await response.prepare(request)
        for _ in range(size // MIB):
            await response.write(piece)
        return response

    expected = hashlib.sha256(piece * (size // MIB)).hexdigest()
    async with origin_of(long) as origin, edge_for(origin.url, disk=settings(tmp_path, 512 * MIB), rule=RULE) as edge:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for turn in range(3):
            digest = hashlib.sha256()
            async with edge.client.get(edge.url("/long"), headers={"Host": "a.test"}) as response:
                async for chunk in response.content.iter_chunked(MIB):
                    digest.update(chunk)
            assert digest.hexdigest() == expected, turn
            await written(edge, 1)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 * 1024
    assert origin.count == 1


async def test_a_long_body_that_breaks_off_is_not_stored(tmp_path: Path) -> None:
    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=3600", "Content-Length": "9000000"})
        await response.prepare(request)
        await response.write(bytes(6_000_000))
        assert request.transport is not None
        request.transport.close()
        return response

    async with origin_of(broken) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        assert edge.tier is not None
        with pytest.raises(Exception, match=r"payload|Payload|reset"):
            await edge.fetch("/x", headers={"Host": "a.test"})
        async with asyncio.timeout(10):
            while edge.tier.stats().segments:
                await asyncio.sleep(0.05)
        assert edge.tier.stats().objects == 0
        assert not list((tmp_path / "cache").glob("*.seg"))


async def test_a_long_body_is_fetched_once_though_many_ask_while_it_comes(tmp_path: Path) -> None:
    body = content("/long", 12_000_000)

    async def slowly(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=3600", "Content-Length": str(len(body))})
        await response.prepare(request)
        for start in range(0, len(body), 1_000_000):
            await response.write(body[start : start + 1_000_000])
            await asyncio.sleep(0.05)
        return response

    async def late(edge: Edge, seconds: float) -> bytes:
        await asyncio.sleep(seconds)
        return (await edge.fetch("/long", headers={"Host": "a.test"})).body

    async with origin_of(slowly) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        got = await asyncio.gather(*(late(edge, seconds) for seconds in (0.0, 0.02, 0.3, 0.4, 0.5)))
        assert all(one == body for one in got)
    assert origin.count == 1
