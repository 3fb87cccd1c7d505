"""An edge with programs that can loop without end, one on each of some sites, and who asks it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yarl

from edgecache.config import Address, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge
from origin_sim.server import Shop
from sandbox.dispatch.policies import MonitorPolicy
from tests.control_support import tar
from tests.integration.monitor_support import built

SOURCE = r"""
#include "edge.h"
static edge_request req;
int main(void) {
    while (edge_next(&req)) {
        if (strcmp(req.path, "/g/loop") == 0) for (;;) __asm__ volatile("");
        edge_response res;
        edge_begin(&res, 200, "text/plain");
        edge_print(&res, "ok");
        if (req.query && *req.query) { edge_print(&res, " "); edge_print(&res, req.query); }
        edge_end(&res);
    }
    return 1;
}
"""
MANIFEST = b"""
name: probe
program: probe
convention: resident
routes: [/g/*]
limits: {cpu: 100s, wall: %b, vms: 1}
on_error: [error]
"""
CEILING = {"cpu": "100s", "wall": "200s"}


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

    async def get(self, site: str, path: str) -> tuple[int, str, Mapping[str, str]]:
        """The path is sent as it is written."""
        url = yarl.URL(self.url + path, encoded=True)
        async with self.http.get(url, headers={"Host": f"{site}.test"}) as response:
            return response.status, await response.text(), response.headers


@contextlib.asynccontextmanager
async def looping_edge(
    state: Path, sandbox: MonitorPolicy, sites: Mapping[str, Mapping[str, Any]], *, wall: str = "200s"
) -> AsyncIterator[Here]:
    """`sites`: what each has beside host and origin, by name; where `cluster` gives a weight, it is in one of its own name."""
    bundle = tar({"generator.yaml": MANIFEST % wall.encode(), "probe": built(SOURCE)})
    config = Config(
        listen=Address("127.0.0.1", 0), state_dir=state, control=ControlSettings(state_dir=state, port=0), sandbox=sandbox
    )
    async with Shop() as shop, aiohttp.ClientSession() as http:
        edge = Edge(config)
        try:
            served, control = await edge.start()
            token = (state / "operator.token").read_text().strip()
            here = Here(f"http://{served}", f"http://{control}", token, http)
            for name, more in sites.items():
                site = {"name": name, "hosts": [f"{name}.test"], "origins": [shop.url], "ceiling": CEILING, **more}
                if (weight := site.pop("cluster", None)) is not None:
                    await here.call("PUT", f"/v1/clusters/{name}", json={"weight": weight})
                    site["cluster"] = name
                await here.call("POST", "/v1/sites", json=site)
                await here.call("POST", f"/v1/sites/{name}/generators/probe/versions?activate=true", data=bundle)
            yield here
        finally:
            await edge.close()
