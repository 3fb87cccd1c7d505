"""An origin whose every path has bytes of its own, and an edge with a disk tier. Imported by the tests of that tier."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from aiohttp import web

from edgecache.policy.rule import CacheRule
from edgecache.store.disk import DiskSettings
from tests.integration.proxy_support import Edge

MIB = 1 << 20
RULE = CacheRule(max_object_bytes=1 << 30)


def settings(path: Path, capacity: int = 64 * MIB, **more: int) -> DiskSettings:
    return DiskSettings(path=path / "cache", capacity_bytes=capacity, **more)


def content(path: str, size: int) -> bytes:
    return random.Random(path).randbytes(size)


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    """`/SIZE/...`: so many bytes that only this path has. `?tags=`: its tags; `?chunked`: no length."""
    size = int(request.path.split("/")[1])
    headers = {"Cache-Control": "max-age=3600", "ETag": f'"{request.path}"', "Cache-Tag": request.query.get("tags", "none")}
    if "vary" in request.query:
        headers["Vary"] = request.query["vary"]
    body = content(request.path_qs + request.headers.get("X-Variant", ""), size)
    if "chunked" not in request.query:
        return web.Response(body=body, headers=headers)
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for start in range(0, size, 100_000):
        await response.write(body[start : start + 100_000])
    await response.write_eof()
    return response


async def written(edge: Edge, count: int) -> None:
    """Wait until so many responses are on disk."""
    assert edge.tier is not None
    async with asyncio.timeout(10):
        while edge.tier.stats().objects < count:
            await asyncio.sleep(0.01)
