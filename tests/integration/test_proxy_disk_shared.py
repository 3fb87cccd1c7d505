"""An edge whose disk tier others share: a purge of theirs holds for what this one had asked for before it heard of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.integration.disk_support import content, settings, written
from tests.integration.proxy_support import Edge, Got, edge_for, origin_of, until

PURGE = """
import asyncio, sys
from pathlib import Path
from edgecache.policy.purging import Purge
from edgecache.store.disk import DiskSettings, DiskTier

async def main():
    tier = DiskTier(DiskSettings(path=Path(sys.argv[1]), capacity_bytes=64 << 20))
    await tier.start()
    await tier.purge(Purge(tag=sys.argv[2]))
    await tier.close()

asyncio.run(main())
"""


class Origin:
    """Holds its answer to `/SIZE/held...` back, and says 304 where it can."""

    def __init__(self) -> None:
        self.held, self.go_on = asyncio.Event(), asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if "held" in request.path:
            self.held.set()
            await self.go_on.wait()
        headers = {"Cache-Control": "max-age=60", "ETag": '"1"', "Cache-Tag": "page"}
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content(request.path, int(request.path.split("/")[1])), headers=headers)


async def purge_elsewhere(path: Path, tag: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PURGE, str(path / "cache"), tag)
    assert await process.wait() == 0


async def fetch(edge: Edge, path: str) -> Got:
    return await edge.fetch(path, headers={"Host": "e"})


async def fetched_while_purged(edge: Edge, origin: Origin, path: str, purging: Path, tag: str) -> None:
    origin.go_on.clear()
    origin.held.clear()
    asking = asyncio.create_task(fetch(edge, path))
    await origin.held.wait()
    await purge_elsewhere(purging, tag)
    origin.go_on.set()
    assert (await asking).status == 200
    assert edge.tier is not None
    tier = edge.tier
    await until(lambda: not tier._pending._waiting)


@pytest.mark.parametrize("size", [100, 3_000_000])
@pytest.mark.parametrize(("tag", "kept"), [("page", False), ("another", True)])
async def test_what_was_asked_for_before_a_purge_of_another_process_is_not_on_disk(
    tmp_path: Path, size: int, tag: str, kept: bool
) -> None:
    origin = Origin()
    async with origin_of(origin.answer) as server:
        async with edge_for(server.url, disk=settings(tmp_path)) as edge:
            await fetch(edge, "/10/first")
            await written(edge, 1)
            await fetched_while_purged(edge, origin, f"/{size}/held", tmp_path, tag)
        async with edge_for(server.url, disk=settings(tmp_path)) as edge:
            assert ("hit" in (await fetch(edge, f"/{size}/held")).cache) is kept


@pytest.mark.parametrize(("tag", "kept"), [("page", False), ("another", True)])
async def test_what_was_validated_before_a_purge_of_another_process_is_not_on_disk(tmp_path: Path, tag: str, kept: bool) -> None:
    origin = Origin()
    origin.go_on.set()
    async with origin_of(origin.answer) as server:
        async with edge_for(server.url, disk=settings(tmp_path)) as edge:
            await fetch(edge, "/100/held")
            await written(edge, 1)
            edge.clock.advance(100)
            await fetched_while_purged(edge, origin, "/100/held", tmp_path, tag)
        async with edge_for(server.url, disk=settings(tmp_path)) as edge:
            assert ("hit" in (await fetch(edge, "/100/held")).cache) is kept


async def test_what_is_asked_for_after_a_purge_of_another_process_is_on_disk(tmp_path: Path) -> None:
    origin = Origin()
    async with origin_of(origin.answer) as server:
        async with edge_for(server.url, disk=settings(tmp_path)) as edge:
            await fetch(edge, "/10/first")
            await written(edge, 1)
            await purge_elsewhere(tmp_path, "page")
            await fetch(edge, "/100/next")
            await until(lambda: edge.tier is not None and not edge.tier._pending._waiting)
        async with edge_for(server.url, disk=settings(tmp_path)) as edge:
            assert "hit" in (await fetch(edge, "/100/next")).cache
