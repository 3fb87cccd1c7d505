"""Several serving processes behind one address: what the API has answered holds in all of them, and one may die at any time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from edgecache.config import Address, CacheSettings, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge
from edgecache.observe.settings import LogSettings
from edgecache.policy.access import AccessRule
from edgecache.processes import serving_process
from edgecache.processes.fleet import Fleet
from edgecache.processes.serving_process import ServingProcess
from edgecache.serve.settings import ServeSettings
from edgecache.sites import Site
from edgecache.store.disk import DiskSettings
from tests.control_support import files, manifest, program, tar

pytestmark = pytest.mark.timeout(300)
COUNT = 2


@dataclasses.dataclass
class Origin:
    """Says what it is told to say, and counts what it is asked."""

    url: str = ""
    version: int = 0
    asked: int = 0
    wait: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        version = self.version
        if request.path.startswith("/slow"):
            await self.wait.wait()
        cache = "no-store" if request.method == "POST" or request.path == "/private" else "max-age=600"
        text = "x" * (2 << 20) if request.path == "/large" else str(version)
        return web.Response(text=text, headers={"Cache-Control": cache, "Cache-Tag": "all"})


@dataclasses.dataclass(frozen=True)
class Running:
    """One edge of several processes in front of one origin."""

    url: str
    control: str
    token: str
    origin: Origin
    log: Path
    edge: Edge

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[str, int, str, str]:
        """Over a connection of its own: which process answered, status, body and Cache-Status."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http,
            http.request(method, self.url + path, headers={"Host": "shop.test", **headers}) as response,
        ):
            text = await response.text()
            process = response.headers.get("X-Request-Id", "").partition("-")[0]
            return process, response.status, text, response.headers.get("Cache-Status", "")

    async def each(self, path: str, good: Callable[[str], bool] = lambda _: True, count: int = COUNT) -> dict[str, str]:
        """The bodies that the processes answer, by process, once each has answered as it should."""
        found: dict[str, str] = {}
        async with asyncio.timeout(60):
            while len(found) < count:
                process, status, text, cache = await self.get(path)
                assert status == 200, text
                if good(cache):
                    found[process] = text
        return found

    async def call(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.control + path, headers=headers, **more) as response,
        ):
            assert response.status < 300, await response.text()
            return await response.json() if response.content_type == "application/json" else await response.text()

    async def processes(self) -> dict[str, Any]:
        part: dict[str, Any] = (await self.call("GET", "/v1/status"))["parts"]["processes"]
        return part

    async def counted(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = (await self.call("GET", "/metrics")).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextlib.asynccontextmanager
async def edge_of(tmp_path: Path, count: int = COUNT, disk: DiskSettings | None = None) -> AsyncIterator[Running]:
    origin, state = Origin(), tmp_path / "state"
    server = web.ServerRunner(web.Server(origin.answer))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    origin.url = "http://{}:{}".format(*server.addresses[0][:2])
    access = AccessRule(purge=("127.0.0.1",))
    config = Config(
        listen=Address("127.0.0.1", 0),
        state_dir=state,
        control=ControlSettings(state_dir=state, port=0),
        serve=ServeSettings(processes=count, drain_timeout=5),
        log=LogSettings(access=tmp_path / "access.log"),
        cache=CacheSettings(disk=disk),
        sites=(Site(name="shop", hosts=("shop.test",), origins=(origin.url,), access=access, from_config=True),),
    )
    edge = Edge(config)
    try:
        served, control = await edge.start()
        token = (state / "operator.token").read_text().strip()
        yield Running(f"http://{served}", f"http://{control}", token, origin, tmp_path / "access.log", edge)
    finally:
        origin.wait.set()
        await edge.close()
        await server.cleanup()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with edge_of(tmp_path) as here:
        yield here


def hit(cache: str) -> bool:
    return "; hit" in cache


async def push(running: Running, name: str, content: dict[str, bytes]) -> int:
    path = f"/v1/sites/shop/generators/{name}/versions"
    version: int = (await running.call("POST", path, data=io.BytesIO(tar(content))))["version"]
    return version


async def test_a_purge_is_in_force_everywhere_when_the_api_answers(running: Running) -> None:
    origin = running.origin
    for round_ in range(10):
        origin.version = round_
        assert set((await running.each("/page", hit)).values()) == {str(round_)}
        origin.version = round_ + 100
        answered = asyncio.Event()

        async def visit(answered: asyncio.Event = answered, old: str = str(round_)) -> None:
            while True:
                late = answered.is_set()
                _, status, text, _ = await running.get("/page")
                assert status == 200
                if late:
                    assert text != old, "an answer from before the purge, after it was answered"
                    return

        visitors = [asyncio.create_task(visit()) for _ in range(8)]
        purged = await running.call("POST", "/v1/purge", json={"tag": "all"} if round_ % 2 else {"site": "shop"})
        answered.set()
        await asyncio.gather(*visitors)
        assert purged["purged"] >= COUNT
        await running.call("POST", "/v1/purge", json={"everything": True})


async def test_the_method_purge_and_unsafe_requests_reach_the_other_process(running: Running) -> None:
    await running.each("/page", hit)
    running.origin.version = 1
    _, status, text, _ = await running.get("/page", "PURGE")
    assert (status, text) == (200, '{"purged": 2}\n')
    assert set((await running.each("/page")).values()) == {"1"}
    await running.each("/page", hit)
    running.origin.version = 2
    assert (await running.get("/page", "POST"))[1] == 200
    assert set((await running.each("/page")).values()) == {"2"}


async def test_an_activation_and_a_rollback_are_in_force_everywhere_when_the_api_answers(running: Running) -> None:
    for text in ("one", "two"):
        version = await push(running, "hello", files(text=text, more="cache: {default_ttl: 0s}\n"))
        await running.call("POST", "/v1/sites/shop/generators/hello/activate", json={"version": version})
        assert set((await running.each("/hello/x")).values()) == {f"{text}\n"}
    await running.call("POST", "/v1/sites/shop/generators/hello/rollback")
    assert set((await running.each("/hello/x")).values()) == {"one\n"}
    assert await running.counted('edgecache_generated_total{end="finished",generator="shop/hello"}') >= 3 * COUNT


async def test_a_site_that_the_api_adds_and_removes_is_known_everywhere(running: Running) -> None:
    await running.call("POST", "/v1/sites", json={"name": "new", "hosts": ["new.test"], "origins": [running.origin.url]})
    answers = [await running.get("/x", Host="new.test") for _ in range(20)]
    assert {status for _, status, _, _ in answers} == {200}
    assert len({process for process, *_ in answers}) == COUNT
    await running.call("DELETE", "/v1/sites/new")
    assert {(await running.get("/x", Host="new.test"))[1] for _ in range(20)} == {421}


async def test_a_large_answer_of_a_generator_comes_whole(running: Running) -> None:
    body = bytes(range(32, 127)) * 30_000
    content = {"generator.yaml": manifest("hello"), "hello": program(b"Content-Type: text/plain\n\n" + body)}
    await push(running, "hello", content)
    await running.call("POST", "/v1/sites/shop/generators/hello/activate", json={"version": 1})
    answers = await running.each("/hello/large", lambda _: True)
    assert set(answers.values()) == {body.decode()}


async def test_a_process_that_is_killed_is_replaced_and_the_others_go_on(running: Running) -> None:
    await running.each("/page", hit)
    before = await running.processes()
    victim, survivor = before["each"]["1"]["pid"], before["each"]["2"]["pid"]
    requests = await running.counted("edgecache_requests_total")
    lost, done = 0, 0
    stop = asyncio.Event()

    async def visit() -> None:
        nonlocal lost, done
        while not stop.is_set():
            try:
                assert (await running.get("/page"))[1] == 200
                done += 1
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                lost += 1

    visitors = [asyncio.create_task(visit()) for _ in range(4)]
    await asyncio.sleep(0.2)
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(30):
        while (now := await running.processes())["serving"] < COUNT or now["restarts"] == 0:
            assert (await running.get("/page"))[1] == 200
    stop.set()
    await asyncio.gather(*visitors)
    assert lost <= len(visitors), "more was lost than what the dead process had in hand"
    assert done > 0
    assert now["each"]["2"]["pid"] == survivor
    assert now["each"]["1"]["pid"] != victim
    assert now["each"]["1"]["restarts"] == 1
    assert await running.counted("edgecache_requests_total") >= requests
    assert len(await running.each("/page", hit)) == COUNT


async def test_a_process_that_does_not_acknowledge_is_replaced(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_process, "ACKNOWLEDGE_SECONDS", 1.0)
    await running.each("/page", hit)
    stopped = (await running.processes())["each"]["1"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    running.origin.version = 1
    await running.call("POST", "/v1/purge", json={"site": "shop"})
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)
    assert set((await running.each("/page")).values()) == {"1"}
    assert (await running.processes())["restarts"] == 1


async def test_a_purge_that_meets_no_process_is_put_on_record_before_it_is_answered(tmp_path: Path) -> None:
    disk = DiskSettings(path=tmp_path / "disk", capacity_bytes=64 << 20)
    async with edge_of(tmp_path, disk=disk) as running:
        await running.get("/page")
        async with asyncio.timeout(30):
            while not await running.counted("edgecache_disk_objects"):
                await asyncio.sleep(0.05)
        for one in (await running.processes())["each"].values():
            os.kill(one["pid"], signal.SIGKILL)
        running.origin.version = 1
        await running.call("POST", "/v1/purge", json={"site": "shop"})
        assert set((await running.each("/page")).values()) == {"1"}


async def test_all_processes_are_counted_and_logged_together(running: Running) -> None:
    count = 40
    for _ in range(count):
        await running.get("/page")
    status = await running.call("GET", "/v1/status")
    assert status["parts"]["traffic"]["requests"] == count
    each = status["parts"]["processes"]["each"]
    assert sum(process["requests"] for process in each.values()) == count
    assert min(process["requests"] for process in each.values()) > 0
    assert await running.counted("edgecache_requests_total") == count
    assert await running.counted("edgecache_process_serving") == COUNT
    async with asyncio.timeout(20):
        while running.log.read_text().count("\n") < count:
            await asyncio.sleep(0.02)


async def waiting_for(running: Running, count: int) -> dict[str, int]:
    """Connections of each process, once there are so many in all."""
    async with asyncio.timeout(30):
        while True:
            each = {name: process["connections"] for name, process in (await running.processes())["each"].items()}
            if sum(each.values()) >= count:
                return each
            await asyncio.sleep(0.05)


async def joined(running: Running) -> ServingProcess:
    """Who fetches for others, once another process waits for it."""
    fleet = running.edge._servers
    assert isinstance(fleet, Fleet)
    async with asyncio.timeout(30):
        while not (found := [flight for flight in fleet._flights._table._held.values() if flight.waiting]):
            await asyncio.sleep(0.02)
        while not running.origin.asked:
            await asyncio.sleep(0.02)
    return found[0].holder[0]


async def test_a_miss_in_several_processes_is_one_request_to_the_origin(running: Running) -> None:
    asked = [asyncio.create_task(running.get("/slow")) for _ in range(40)]
    await joined(running)
    await waiting_for(running, 40)
    assert running.origin.asked == 1
    running.origin.wait.set()
    answers = await asyncio.gather(*asked)
    assert {answer[1:3] for answer in answers} == {(200, "0")}
    assert len({process for process, *_ in answers}) == COUNT
    assert set((await running.each("/slow", hit)).values()) == {"0"}
    assert running.origin.asked == 1


async def test_who_asks_after_a_purge_does_not_wait_for_another_process_from_before_it(running: Running) -> None:
    before = [asyncio.create_task(running.get("/slow")) for _ in range(10)]
    await waiting_for(running, 10)
    running.origin.version = 1
    await running.call("POST", "/v1/purge", json={"tag": "all"})
    after = [asyncio.create_task(running.get("/slow")) for _ in range(10)]
    await waiting_for(running, 20)
    running.origin.wait.set()
    assert {answer[1] for answer in await asyncio.gather(*before)} == {200}
    assert {answer[2] for answer in await asyncio.gather(*after)} == {"1"}
    assert set((await running.each("/slow", hit)).values()) == {"1"}


async def test_what_one_process_cannot_hand_on_each_fetches(running: Running) -> None:
    for path in ("/private", "/large"):
        answers = await asyncio.gather(*(running.get(path) for _ in range(20)))
        assert {answer[1] for answer in answers} == {200}
        assert len({process for process, *_ in answers}) == COUNT
    assert set(map(len, (await running.each("/large")).values())) == {2 << 20}


async def test_who_waits_for_a_process_that_dies_fetches_for_itself(running: Running) -> None:
    asked = [asyncio.create_task(running.get("/slow")) for _ in range(20)]
    holder = await joined(running)
    connections = await waiting_for(running, 20)
    assert running.origin.asked == 1
    os.kill(holder.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while running.origin.asked == 1:
            await asyncio.sleep(0.02)
    running.origin.wait.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    good = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert {answer[1:3] for answer in good} == {(200, "0")}
    assert len(good) >= 20 - connections[str(holder.slot + 1)]


async def test_one_process_leads_nobody(tmp_path: Path) -> None:
    async with edge_of(tmp_path, 1) as running:
        assert (await running.get("/page"))[1:3] == (200, "0")
        assert "processes" not in (await running.call("GET", "/v1/status"))["parts"]


async def test_ending_leaves_no_process_and_answers_what_was_asked(tmp_path: Path) -> None:
    async with edge_of(tmp_path) as running:
        pids = [process["pid"] for process in (await running.processes())["each"].values()]
        slow = asyncio.create_task(running.get("/slow"))
        while not running.origin.asked:
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.3, running.origin.wait.set)
    assert (await slow)[1:3] == (200, "0")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
