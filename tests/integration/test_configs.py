"""Each file of configs/ starts an edge that serves, caches and stops when told. Only its ports and its state are others."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from origin_sim import proof
from origin_sim.server import Shop

CONFIGS = Path(__file__).parents[2] / "configs"
EDGECACHE = Path(sys.executable).with_name("edgecache")
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


@asynccontextmanager
async def edge(config: Path, state: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A running edge's URL and its process; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(EDGECACHE, "serve", str(config), "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"),
        *("--state", str(state), "--engine", "unicorn"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield await ready_url(process), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready_url(process: asyncio.subprocess.Process) -> str:
    """Where clients connect, from the ready line."""
    assert process.stdout is not None
    seen: list[str] = []
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            seen.append(line)
            if "serving on" in line and (found := re.search(r"http://127\.0\.0\.1:[0-9]+", line)):
                return found[0]
    raise AssertionError("the edge ended before it was ready:\n" + "".join(seen))


@pytest.mark.parametrize("name", NAMES)
async def test_the_example_starts_an_edge_that_caches(name: str, tmp_path: Path) -> None:
    async with Shop() as shop:
        config = tmp_path / name
        config.write_text((CONFIGS / name).read_text().replace("http://127.0.0.1:8090", shop.url))
        async with edge(config, tmp_path / "state") as (url, process), aiohttp.ClientSession() as client:
            for expected in ("miss", "hit"):
                async with client.get(f"{url}/products", headers={"Host": "shop.example"}) as response:
                    body = await response.read()
                    assert response.status == 200
                    assert proof.mismatch("/products", response.headers, body) is None
                    assert ("hit" in response.headers["Cache-Status"].split(";", 1)[1]) == (expected == "hit")
            # Where the machine is slow, hedging asks a second time.
            assert shop.requests["/products"] <= (2 if "hedge:" in config.read_text() else 1)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await process.wait() == 0


@pytest.mark.parametrize("name", NAMES)
async def test_the_example_passes_the_check(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(EDGECACHE, "check", str(CONFIGS / name)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
