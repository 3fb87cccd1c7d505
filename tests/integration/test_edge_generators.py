"""A whole edge with a real generator: what a C program asks, what the client gets, what the owner and the operator see."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
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
from sandbox import End, Monitor
from sandbox.sdk import compile_c
from tests.control_support import tar

pytestmark = pytest.mark.timeout(900)

SOURCE = r"""
#include "edge.h"

static char fetched[262144];

static void origin_page(edge_request *req, edge_response *res) {
    edge_fetched found;
    char target[64];
    edge_param(req, "target", target, sizeof target);
    long error = edge_fetch(target, NULL, fetched, sizeof fetched, &found);
    edge_begin(res, 200, "text/plain");
    edge_set(res, "Cache-Control", "no-store");
    if (error) edge_printf(res, "error %ld", error);
    else edge_printf(res, "%d of %zu bytes", found.status, found.body_length);
}

int main(void) {
    static edge_request req;
    while (edge_next(&req)) {
        edge_response res;
        if (strcmp(req.path, "/g/loop") == 0) for (;;) __asm__ volatile("");
        if (strcmp(req.path, "/g/silent") == 0) return 0;
        if (strcmp(req.path, "/g/wild") == 0) *(volatile int *)16 = 1;
        if (strcmp(req.path, "/g/prose") == 0) {
            edge_call(EDGE_RESPOND, "not a head\n\nx", 13, NULL, 0);
            continue;
        }
        if (strcmp(req.path, "/g/fetch") == 0) {
            origin_page(&req, &res);
            edge_end(&res);
            continue;
        }
        long seen = edge_kv_get_number("seen", 0) + 1;
        edge_kv_put_number("seen", seen);
        edge_log("seen %ld", seen);
        edge_log("at %s\n", req.path);
        edge_begin(&res, 200, "text/plain");
        edge_set(&res, "Cache-Control", strcmp(req.path, "/g/kept") == 0 ? "max-age=60" : "no-store");
        edge_printf(&res, "%s %ld %s", req.method, seen, edge_or_empty(edge_header(&req, "Accept-Language")));
        if (req.body_length) edge_write(&res, req.body, req.body_length);
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
limits: {cpu: 50ms, wall: 2s}
on_error: [error]
"""


@dataclasses.dataclass(frozen=True)
class Running:
    """One edge in front of one shop, with the probe active."""

    url: str
    control: str
    token: str
    http: aiohttp.ClientSession
    access_log: Path
    monitor: Monitor

    async def get(self, path: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
        async with self.http.request(method, self.url + path, data=data, headers={"Host": "shop.test", **headers}) as response:
            return response.status, await response.text(), response.headers

    async def control_call(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        async with self.http.request(method, self.control + path, headers=headers, **more) as response:
            text = await response.text()
            assert response.status < 300, text
            return json.loads(text) if response.content_type.endswith("json") else text

    async def records(self, count: int) -> list[dict[str, Any]]:
        """The access log once it has `count` lines."""
        async with asyncio.timeout(20):
            while len(lines := self.access_log.read_text().splitlines()) < count:
                await asyncio.sleep(0.02)
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text(SOURCE)
    compile_c([folder / "probe.c"], folder / "probe")
    return (folder / "probe").read_bytes()


@pytest.fixture(params=[1, 2], ids=["one process", "led processes"])
async def running(tmp_path: Path, program: bytes, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    state, log = tmp_path / "state", tmp_path / "access.log"
    config = Config(
        listen=Address("127.0.0.1", 0),
        state_dir=state,
        control=ControlSettings(state_dir=state, port=0),
        log=LogSettings(access=log),
        serve=ServeSettings(processes=request.param),
    )
    async with Shop() as shop, aiohttp.ClientSession() as http:
        edge = Edge(config)
        try:
            served, control = await edge.start()
            token = (state / "operator.token").read_text().strip()
            here = Running(f"http://{served}", f"http://{control}", token, http, log, edge._monitor)
            await here.control_call("POST", "/v1/sites", json={"name": "shop", "hosts": ["shop.test"], "origins": [shop.url]})
            versions = "/v1/sites/shop/generators/probe/versions"
            await here.control_call("POST", versions, data=tar({"generator.yaml": MANIFEST, "probe": program}))
            await here.control_call("POST", "/v1/sites/shop/generators/probe/activate", json={"version": 1})
            yield here
        finally:
            await edge.close()


async def test_a_generated_page_is_cached_as_its_own_cache_control_says(running: Running) -> None:
    first, second, third = [await running.get("/g/kept") for _ in range(3)]
    assert first[1] == second[1] == third[1]
    assert "fwd=uri-miss" in first[2]["Cache-Status"]
    assert "hit" in third[2]["Cache-Status"]
    assert "shop/probe@1" in first[2]["Cache-Status"]
    assert len({(await running.get("/g/each"))[1] for _ in range(3)}) == 3


async def test_values_outlive_requests_and_the_log_carries_the_request_id(running: Running) -> None:
    seen = [(await running.get("/g/each"))[1].split()[1] for _ in range(3)]
    assert seen == [str(int(seen[0]) + step) for step in range(3)]
    _, _, headers = await running.get("/g/each")
    log = await running.control_call("GET", "/v1/sites/shop/generators/probe/logs")
    assert headers["X-Request-Id"] in json.dumps(log)
    assert "seen 4" in json.dumps(log)


async def test_a_request_reaches_the_guest_whole(running: Running) -> None:
    status, text, _ = await running.get("/g/each", "POST", b"the body", **{"Accept-Language": "de"})
    assert status == 200
    assert text.startswith("POST ")
    assert text.endswith(" dethe body")


async def test_a_sub_request_goes_through_the_cache_to_the_sites_origin(running: Running) -> None:
    _, _, direct = await running.get("/api/products/1")
    assert "fwd=uri-miss" in direct["Cache-Status"]
    status, text, _ = await running.get("/g/fetch?target=/api/products/1")
    assert (status, text.split()[0]) == (200, "200")
    assert (await running.get("/g/fetch?target=/g/each"))[1].startswith("404 "), "a guest reached a generator"


async def test_a_page_is_made_of_an_origins_template_and_a_generators_fragment(running: Running) -> None:
    await running.control_call("PATCH", "/v1/sites/shop", json={"cache": {"esi": True}})
    pages = [(await running.get("/today", **{"Accept-Language": "de"}))[1] for _ in range(3)]
    greetings = [page.partition("<h1>Today</h1>")[2].partition("<h2>Offers</h2>")[0] for page in pages]
    assert greetings == ["GET 1 de ", "GET 2 de ", "GET 3 de "], "the generator said no-store"
    assert len({page.partition("It is ")[2][:14] for page in pages}) == 3
    assert all("esi:" not in page and "does not assemble" not in page for page in pages)
    _, _, headers = await running.get("/today")
    assert "hit" in headers["Cache-Status"]
    assert headers["Cache-Control"] == "private, no-cache"


async def test_where_the_generator_fails_its_fragment_comes_from_the_origin(running: Running) -> None:
    await running.control_call("PATCH", "/v1/sites/shop", json={"cache": {"esi": True}})
    await running.control_call("DELETE", "/v1/sites/shop/generators/probe")
    assert "<h1>Today</h1><p>Good day!</p>" in (await running.get("/today"))[1]


@pytest.mark.parametrize(
    ("path", "status", "named"), [("/g/loop", 503, "cpu-limit"), ("/g/silent", 502, "no-answer"), ("/g/wild", 502, "fault")]
)
async def test_a_guest_that_fails_is_named_and_the_next_request_is_answered(
    running: Running, path: str, status: int, named: str
) -> None:
    got, text, headers = await running.get(path)
    assert got == status
    assert headers["Content-Type"] == "application/problem+json"
    assert named in headers["Cache-Status"]
    assert "Traceback" not in text
    assert (await running.get("/g/each"))[0] == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/g/loop", "cpu-limit: more than 50 ms of CPU time"),
        ("/g/silent", "no-answer: it exited without having answered"),
        ("/g/wild", "fault: write of 0x10 at 0x"),
        ("/g/prose", "bad-answer: header line 1 is not `Name: value`: 'not a head'"),
    ],
)
async def test_the_owner_reads_in_the_generators_log_what_failed(running: Running, path: str, said: str) -> None:
    _, _, headers = await running.get(f"{path}?secret=1")
    line = (await running.control_call("GET", "/v1/sites/shop/generators/probe/logs"))["lines"][-1]
    assert line["text"].startswith(f"edge: GET {path} failed: {said}")
    assert (line["version"], line["request_id"]) == (1, headers["X-Request-Id"])


async def test_a_generator_that_rests_says_so_and_until_when(running: Running) -> None:
    async with asyncio.timeout(60):
        while (got := await running.get("/g/wild"))[0] != 503:
            pass
    status, _, headers = got
    assert (status, headers["Cache-Status"].endswith("detail=quarantined")) == (503, True)
    assert int(headers["Retry-After"]) >= 1
    await running.get("/g/wild")
    lines = (await running.control_call("GET", "/v1/sites/shop/generators/probe/logs"))["lines"]
    resting = [line["text"] for line in lines if "quarantined" in line["text"]]
    assert resting == ["edge: requests are refused for a while: quarantined, because it keeps failing"]


async def test_each_call_of_the_log_is_a_line(running: Running) -> None:
    await running.get("/g/each")
    lines = (await running.control_call("GET", "/v1/sites/shop/generators/probe/logs"))["lines"]
    assert [line["text"] for line in lines] == ["seen 1", "at /g/each"]


async def test_the_access_log_says_what_a_generator_cost(running: Running) -> None:
    await running.get("/g/each")
    await running.get("/g/loop")
    await running.get("/api/products/1")
    made, looped, plain = await running.records(3)
    assert (made["generator"], looped["generator"], plain["generator"]) == ("probe", "probe", None)
    assert made["cpu_ns"] > 0
    assert looped["cpu_ns"] >= 50_000_000
    assert plain["cpu_ns"] == 0
    assert looped["reason"] == "cpu-limit"


async def test_a_client_that_leaves_ends_its_guest(running: Running) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await running.get("/g/fetch?target=/products%3F_delay%3D20s")
    async with asyncio.timeout(20):
        while not (ends := running.monitor.status().generators[0].ends):
            await asyncio.sleep(0.02)
    assert dict(ends) == {End.CANCELLED: 1}
    assert (await running.get("/g/each"))[0] == 200


async def test_metrics_and_status_count_the_generator(running: Running) -> None:
    await running.get("/g/each")
    await running.get("/g/loop")
    metrics = await running.control_call("GET", "/metrics")
    assert 'generator="shop/probe"' in metrics
    assert "cpu-limit" in metrics
    status = await running.control_call("GET", "/v1/status")
    assert "shop/probe@1" in status["parts"]["sandbox"]["generators"]


async def test_a_site_of_the_same_name_and_host_does_not_inherit_what_another_had_stored(running: Running) -> None:
    for _ in range(2):
        status, _, headers = await running.get("/api/products/1")
    assert status == 200 and "hit" in headers["Cache-Status"]
    await running.control_call("DELETE", "/v1/sites/shop")
    await running.control_call(
        "POST", "/v1/sites", json={"name": "shop", "hosts": ["shop.test"], "origins": ["http://127.0.0.1:1"]}
    )
    assert (await running.get("/api/products/1"))[0] == 502
