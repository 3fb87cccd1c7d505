"""Generators and clients that misbehave at random, in one process and in several: each page is its asker's, each request one line
and one count, and no VM is left at work."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edgecache.config import Address, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge
from edgecache.observe.settings import LogSettings
from edgecache.serve.settings import ServeSettings
from origin_sim.server import Shop
from sandbox.sdk import compile_c
from tests.control_support import tar
from tests.integration.aftermath_support import logged_in, not_once, total
from tests.integration.chaos_support import meanwhile, requests, seeds
from tests.integration.proxy_support import read_head

pytestmark = pytest.mark.timeout(900)

REQUESTS = requests(1200)
CLIENTS = 12
ANSWER_SECONDS = 20.0
SOURCE = r"""
#include "edge.h"

int main(void) {
    static edge_request req;
    int more = edge_next(&req);
    while (more) {
        edge_response res;
        const char *path = req.path;
        if (strncmp(path, "/g/loop", 7) == 0) for (;;) __asm__ volatile("");
        if (strncmp(path, "/g/silent", 9) == 0) return 0;
        if (strncmp(path, "/g/wild", 7) == 0) *(volatile int *)16 = 1;
        if (strncmp(path, "/g/prose", 8) == 0) {
            edge_call(EDGE_RESPOND, "not a head\n\nx", 13, NULL, 0);
            more = edge_next(&req);
            continue;
        }
        int private = strncmp(path, "/g/private", 10) == 0;
        edge_begin(&res, 200, "text/plain");
        edge_set(&res, "Cache-Control", private ? "private" : "max-age=60");
        long lines = strncmp(path, "/g/large", 8) == 0 ? 20000 : 1;
        for (long line = 0; line < lines; line++)
            edge_printf(&res, "%s %s\n", path, private ? edge_or_empty(edge_header(&req, "Cookie")) : "-");
        if (strncmp(path, "/g/short", 8) == 0) *(volatile int *)16 = 1;
        more = edge_finish(&res, &req);
    }
    return 1;
}
"""
MANIFEST = b"""
name: chaos
program: chaos
convention: resident
routes: [/g/*]
limits: {cpu: 20ms, wall: 2s}
on_error: [stale, error]
"""
KINDS = ("kept",) * 6 + ("private",) * 4 + ("large", "loop", "silent", "wild", "prose", "short")


@dataclass
class Client:
    """One of many."""

    address: tuple[str, int]
    random: random.Random
    name: str
    told: Counter[str] = field(default_factory=Counter)
    """Request IDs of answers that came whole."""
    good: int = 0

    async def run(self, requests: int) -> None:
        while requests > 0:
            reader, writer = await asyncio.open_connection(*self.address)
            try:
                requests -= await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                requests -= 1
            finally:
                writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        sent = 0
        for _ in range(self.random.randint(1, 12)):
            paths = [f"/g/{self.random.choice(KINDS)}/{self.random.randrange(12)}" for _ in range(self.random.choice((1, 1, 3)))]
            for path in paths:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: shop.test\r\nCookie: {self.name}\r\n\r\n".encode())
            sent += len(paths)
            if self.random.random() < 0.1:
                await asyncio.sleep(self.random.choice((0, 0.001, 0.02)))
                break
            for path in paths:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._read(reader, path)
        return sent

    async def _read(self, reader: asyncio.StreamReader, path: str) -> None:
        lines = (await read_head(reader)).decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        body = b""
        if "transfer-encoding" in fields:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(fields["content-length"]))
        self.told[fields["x-request-id"]] += 1
        if lines[0].startswith("HTTP/1.1 200 "):
            whose = self.name if "/private" in path else "-"
            assert body.decode() == f"{path} {whose}\n" * (20_000 if "/large" in path else 1)
            self.good += 1


async def meddle(call: Any, chance: random.Random) -> None:
    """What operators do meanwhile: purges and activations."""
    version = 1
    while True:
        await asyncio.sleep(chance.random() * 0.2)
        if chance.random() < 0.5:
            await call("POST", "/v1/purge", json={"site": "shop"})
        else:
            version = 3 - version
            await call("POST", "/v1/sites/shop/generators/chaos/activate", json={"version": version})


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("seed", seeds(1))
async def test_whatever_goes_wrong_pages_are_their_askers_and_no_vm_is_left(tmp_path: Path, seed: int, processes: int) -> None:
    chance = random.Random(2 * seed + processes)
    (tmp_path / "chaos.c").write_text(SOURCE)
    compile_c([tmp_path / "chaos.c"], tmp_path / "chaos")
    state, log = tmp_path / "state", tmp_path / "access.log"
    config = Config(
        listen=Address("127.0.0.1", 0),
        state_dir=state,
        control=ControlSettings(state_dir=state, port=0),
        log=LogSettings(access=log),
        serve=ServeSettings(processes=processes),
    )
    async with Shop() as shop, aiohttp.ClientSession() as http:
        edge = Edge(config)
        try:
            served, control = await edge.start()
            token = (state / "operator.token").read_text().strip()

            async def call(method: str, path: str, **more: Any) -> str:
                headers = {"Authorization": f"Bearer {token}"}
                async with http.request(method, f"http://{control}{path}", headers=headers, **more) as response:
                    text = await response.text()
                    assert response.status < 300, text
                    return text

            await call("POST", "/v1/sites", json={"name": "shop", "hosts": ["shop.test"], "origins": [shop.url]})
            bundle = {"generator.yaml": MANIFEST, "chaos": (tmp_path / "chaos").read_bytes()}
            for number in (1, 2):
                pushed = tar({**bundle, "note": b"%d" % number})
                await call("POST", "/v1/sites/shop/generators/chaos/versions", data=pushed)
            await call("POST", "/v1/sites/shop/generators/chaos/activate", json={"version": 1})
            clients = [Client((served.host, served.port), random.Random(chance.random()), f"c{n}") for n in range(CLIENTS)]
            async with meanwhile(meddle(call, chance)):
                await asyncio.gather(*(client.run(REQUESTS // CLIENTS) for client in clients))
            async with asyncio.timeout(ANSWER_SECONDS):
                while any(each.active or each.queued for each in edge._monitor.status().generators):
                    await asyncio.sleep(0.02)
            assert sum(client.good for client in clients) > REQUESTS // 8
            told = total(client.told for client in clients)
            async with asyncio.timeout(ANSWER_SECONDS):
                while told.keys() - (logged := logged_in(log)).keys() or counted(await call("GET", "/metrics")) != logged.total():
                    await asyncio.sleep(0.1)
            assert not_once(logged, told) == {}
            async with http.get(f"http://{served}/g/kept/last", headers={"Host": "shop.test"}) as response:
                assert response.status in {200, 503}
        finally:
            await edge.close()


def counted(metrics: str) -> int:
    return sum(int(float(value)) for value in re.findall(r"^edgecache_requests_total\{[^}]*\} (\S+)$", metrics, re.M))
