"""What an edge in front of a real origin tells at a scrape, whether one process serves or two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from edgecache.config import Address, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge
from edgecache.policy.rule import CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.serve.settings import ServeSettings
from edgecache.sites import Site
from tests.integration.proxy_support import origin_of

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: shop.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
Samples = dict[tuple[str, ...], float]


@dataclass
class Scraped:
    url: str
    control: str
    token: str
    broken: asyncio.Event

    async def get(self, path: str) -> str:
        """The body, over a connection of its own."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.get(self.url + path, headers={"Host": "shop.test"}) as response,
        ):
            return await response.text()

    async def purge(self, path: str) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        said = {"urls": [f"http://shop.test{path}"], "refresh": True}
        async with aiohttp.ClientSession() as http, http.post(f"{self.control}/v1/purge", json=said, headers=headers) as response:
            assert response.status == 200, await response.text()

    async def samples(self) -> Samples:
        """By name and the values of the labels in the order of their names."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.control}/metrics") as response:
            text = await response.text()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def until(self, good: Callable[[Samples], bool]) -> Samples:
        async with asyncio.timeout(60):
            while not good(found := await self.samples()):
                await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def scraped(tmp_path: Path, processes: int) -> AsyncIterator[Scraped]:
    broken = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/chat":
            socket = web.WebSocketResponse()
            await socket.prepare(request)  # type: ignore[arg-type]
            async for _ in socket:
                pass
            return socket
        if broken.is_set():
            return web.Response(status=503)
        fields = {"Cache-Control": "max-age=600" if request.path == "/kept" else "max-age=0, stale-while-revalidate=600"}
        return web.Response(text="page", headers=fields)

    async with origin_of(answer) as origin:
        state = tmp_path / "state"
        site = Site(
            name="shop",
            hosts=("shop.test",),
            origins=(origin.url,),
            rule=CacheRule(),
            upgrade=(Upgradable.WEBSOCKET,),
            from_config=True,
        )
        edge = Edge(
            Config(
                listen=Address("127.0.0.1", 0),
                state_dir=state,
                control=ControlSettings(state_dir=state, port=0),
                serve=ServeSettings(processes=processes, drain_timeout=5),
                sites=(site,),
            )
        )
        try:
            served, control = await edge.start()
            token = (state / "operator.token").read_text().strip()
            yield Scraped(f"http://{served}", f"http://{control}", token, broken)
        finally:
            await edge.close()


@pytest.mark.parametrize("processes", [1, 2])
async def test_renewals_routes_and_connections(tmp_path: Path, processes: int) -> None:
    async with scraped(tmp_path, processes) as here:
        # Until whichever process answers has stored it, and has had to renew it.
        while ("edgecache_renewals_total", "stale", "done", "shop") not in (found := await here.samples()):
            assert await here.get("/page") == "page"
        assert found["edgecache_route_requests_total", "stale", "origin", "shop", "2xx"] >= 1
        assert found["edgecache_route_requests_total", "miss", "origin", "shop", "2xx"] >= 1

        await here.get("/kept")
        await here.purge("/kept")
        await here.until(lambda found: found.get(("edgecache_renewals_total", "purge", "done", "shop"), 0) >= 1)

        here.broken.set()
        while ("edgecache_renewals_total", "stale", "failed", "shop") not in await here.samples():
            await here.get("/page")

        reader, writer = await asyncio.open_connection(*here.url.removeprefix("http://").split(":"))
        writer.write(HANDSHAKE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        found = await here.until(lambda found: found.get(("edgecache_tunnels", "shop")) == 1)
        assert found["edgecache_connections",] >= 1
        writer.close()
        await here.until(lambda found: ("edgecache_tunnels", "shop") not in found and found["edgecache_connections",] == 0)
