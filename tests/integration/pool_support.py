"""Origins of a pool and how they misbehave, for the tests of upstreams. Imported by them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import web

from edgecache.policy.upstream import (
    HealthRule,
)
from tests.integration.proxy_support import Edge, Handler, origin_of, plain, read_head, until
from tests.integration.proxy_support import Origin as Server

NO_STORE = "no-store"
HEALTH = HealthRule(path="/ready", interval=5.0, rise=1, fall=1)


def named(name: str, status: int = 200) -> Handler:
    return plain(name.encode(), status, cache_control=NO_STORE)


def refusing() -> tuple[socket.socket, str]:
    """A port that refuses connections: bound, not listening."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    return port, f"http://127.0.0.1:{port.getsockname()[1]}"


async def bodies(edge: Edge, count: int, prefix: str = "/") -> Counter[bytes]:
    return Counter([(await edge.fetch(f"{prefix}{number}")).body for number in range(count)])


@contextlib.asynccontextmanager
async def servers(*names: str) -> AsyncIterator[list[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(origin_of(named(name))) for name in names]


class Stubborn:
    """An origin that answers when it is let, and tells when it is asked and when it is left."""

    def __init__(self, body: bytes = b"late") -> None:
        self.let = asyncio.Event()
        self.asked = self.left = 0
        self._body = body

    async def __call__(self, _request: web.BaseRequest) -> web.Response:
        self.asked += 1
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return web.Response(body=self._body, headers={"Cache-Control": NO_STORE})


async def checked(edge: Edge, count: int) -> None:
    """Let each of `count` origins be checked once."""
    await until(lambda: edge.ticks.waiting == count)
    edge.ticks.advance(HEALTH.interval * 1.1)
    await until(lambda: edge.ticks.waiting == 0)
    await until(lambda: edge.ticks.waiting == count)


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a request and hangs up."""
    await read_head(reader)
    writer.close()
