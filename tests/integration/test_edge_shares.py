"""Promised and received, as an edge tells them, while VMs loop without end: shares follow weights, also those just changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edgecache.config import Address, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge
from origin_sim.server import Shop
from sandbox.policies import DispatchPolicy, MonitorPolicy
from sandbox.sdk import compile_c
from tests.control_support import tar

pytestmark = pytest.mark.timeout(600)

SOURCE = r"""
#include "edge.h"
static edge_request req;
int main(void) {
    while (edge_next(&req)) {
        if (strcmp(req.path, "/g/loop") == 0) for (;;) __asm__ volatile("");
        edge_respond(200, "text/plain", "ok");
    }
    return 1;
}
"""
MANIFEST = b"""
name: probe
program: probe
convention: resident
routes: [/g/*]
limits: {cpu: 100s, wall: 200s, vms: 1}
on_error: [error]
"""
CEILING = {"cpu": "100s", "wall": "200s"}
NEAR = 0.08


@dataclass(frozen=True)
class Here:
    url: str
    control: str
    token: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.request(method, self.control + path, headers=headers, **more) as response:
            text = await response.text()
            assert response.status < 300, text
            return json.loads(text) if response.content_type.endswith("json") else text

    async def loop(self, site: str) -> None:
        async with self.http.get(self.url + "/g/loop", headers={"Host": f"{site}.test"}) as response:
            await response.read()

    async def sandbox(self) -> dict[str, Any]:
        found = (await self.call("GET", "/v1/status"))["parts"]["sandbox"]
        assert isinstance(found, dict)
        return found

    async def settled(self, group: str, expected: dict[str, float]) -> dict[str, Any]:
        """Once what was promised and what was received are both as expected: after a change, once the window has moved on."""
        async with asyncio.timeout(120):
            while True:
                sandbox = await self.sandbox()
                rows = {name: sandbox[group].get(name, {"promised": 0.0, "received": 0.0}) for name in expected}
                if all(
                    abs(rows[name][what] - part) <= NEAR for name, part in expected.items() for what in ("promised", "received")
                ):
                    return sandbox
                await asyncio.sleep(0.2)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    (tmp_path / "probe.c").write_text(SOURCE)
    compile_c([tmp_path / "probe.c"], tmp_path / "probe")
    bundle = tar({"generator.yaml": MANIFEST, "probe": (tmp_path / "probe").read_bytes()})
    state = tmp_path / "state"
    config = Config(
        listen=Address("127.0.0.1", 0),
        state_dir=state,
        control=ControlSettings(state_dir=state, port=0),
        # One slot: two sites, each in a worker of its own, then compete for it whatever the machine has.
        sandbox=MonitorPolicy(dispatch=DispatchPolicy(slots=1)),
    )
    async with Shop() as shop, aiohttp.ClientSession() as http:
        edge = Edge(config)
        try:
            served, control = await edge.start()
            token = (state / "operator.token").read_text().strip()
            found = Here(f"http://{served}", f"http://{control}", token, http)
            for name, weight in (("heavy", 3), ("light", 1)):
                await found.call("PUT", f"/v1/clusters/{name}", json={"weight": weight})
                site = {"name": name, "hosts": [f"{name}.test"], "origins": [shop.url], "cluster": name, "ceiling": CEILING}
                await found.call("POST", "/v1/sites", json=site)
                await found.call("POST", f"/v1/sites/{name}/generators/probe/versions?activate=true", data=bundle)
            yield found
        finally:
            await edge.close()


async def test_received_follows_promised_and_both_follow_a_live_change(here: Here) -> None:
    loops = [asyncio.create_task(here.loop(name)) for name in ("heavy", "light")]
    try:
        for group, suffix in (("clusters", ""), ("sites", ""), ("generators", "/probe@1")):
            found = await here.settled(group, {f"heavy{suffix}": 0.75, f"light{suffix}": 0.25})
        assert found["clusters"]["heavy"]["weight"] == 3
        assert found["engine"] in {"unicorn", "kvm"}
        metrics = await here.call("GET", "/metrics")
        assert 'edgecache_cluster_cpu_promised_ratio{cluster="heavy"}' in metrics
        assert 'edgecache_site_cpu_received_ratio{site="light"}' in metrics

        await here.call("PATCH", "/v1/clusters/light", json={"weight": 9})
        await here.settled("sites", {"heavy": 0.25, "light": 0.75})

        await here.call("PATCH", "/v1/clusters/light", json={"cap": 10})
        capped = await here.settled("clusters", {"heavy": 0.9, "light": 0.1})
        assert capped["clusters"]["light"]["cap"] == 10
    finally:
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
