"""SIGUSR2: the program starts anew and takes over while clients go on; nothing fails, and what the API promised holds."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from demo.processes import Running, started
from demo.stage import EDGE_READY
from edgecache import lifetime
from edgecache.config import Address, Config
from edgecache.control.settings import ControlSettings
from edgecache.control.state import StateError
from edgecache.edge import Edge
from tests.integration.process_support import alive, serving

pytestmark = pytest.mark.timeout(240)


def until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own timeout ends it."""
    while not condition():
        time.sleep(0.02)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = ["-m", "origin_sim", "--port", "0"]
    with started("the origin", command, r"(http://127\.0\.0\.1:\d+)", tmp_path_factory.mktemp("origin") / "log") as shop:
        yield shop.ready[1]


class Here:
    """An edge that may be led by one process after another."""

    def __init__(self, edge: Running, folder: Path) -> None:
        self.edge = edge
        self.folder = folder
        parts = urlsplit(edge.ready[1])
        self.address = (parts.hostname or "", parts.port or 0)

    @property
    def said(self) -> str:
        return self.edge.log.read_text()

    @property
    def leader(self) -> int:
        return int((self.folder / "pid").read_text())

    def write(self, origin: str, processes: int, more: str = "") -> None:
        (self.folder / "edge.yaml").write_text(configuration(origin, processes, more))

    def upgrade(self) -> int:
        """Returns the id of the process that leads then."""
        before = self.leader
        os.kill(before, signal.SIGUSR2)
        until(lambda: (self.folder / "pid").exists() and self.leader != before)
        until(lambda: not alive(before))
        return self.leader

    def get(self, path: str = "/products", host: str = "shop.test") -> int:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            return ask(connection, path, host)
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None) -> object:
        token = (self.folder / "state" / "operator.token").read_text().strip()
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.edge.ready[2] + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)


def configuration(origin: str, processes: int, more: str = "") -> str:
    return (
        "listen: 127.0.0.1:0\ncontrol: {listen: '127.0.0.1:0'}\nstate: state\n"
        f"serve: {{processes: {processes}, drain_timeout: 10s}}\n"
        f"sites: [{{name: shop, hosts: [shop.test], origins: ['{origin}']}}]\n{more}\n"
    )


def ask(connection: http.client.HTTPConnection, path: str, host: str = "shop.test") -> int:
    connection.request("GET", path, headers={"Host": host})
    with connection.getresponse() as response:
        response.read()
        return response.status


@pytest.fixture(params=[1, 2], ids=["one process", "led processes"])
def here(request: pytest.FixtureRequest, tmp_path: Path, origin: str) -> Iterator[Here]:
    file = tmp_path / "edge.yaml"
    file.write_text(configuration(origin, request.param))
    command = ["-m", "edgecache", "serve", str(file), "--pidfile", str(tmp_path / "pid")]
    with started("the edge", command, EDGE_READY, tmp_path / "log") as edge:
        here = Here(edge, tmp_path)
        try:
            yield here
            leader = here.leader
            led = serving(leader)
            os.kill(leader, signal.SIGTERM)
            until(lambda: not alive(leader))
            until(lambda: not any(map(alive, led)))
            assert not (tmp_path / "pid").exists()
        finally:
            with contextlib.suppress(OSError, ValueError):
                os.kill(here.leader, signal.SIGKILL)
    assert "Traceback" not in (tmp_path / "log").read_text()


class Load:
    """Clients that ask all the time, half of them over connections that they keep."""

    def __init__(self, here: Here, clients: int = 4) -> None:
        self.here = here
        self.done = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kept: bool) -> None:
        connection = http.client.HTTPConnection(*self.here.address, timeout=30)
        while not self._stop.is_set():
            try:
                status = ask(connection, "/products")
                if status != 200:
                    self.failures.append(str(status))
                self.done += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if not kept:
                connection.close()
        connection.close()


def test_no_request_fails_while_one_program_after_another_takes_over(here: Here) -> None:
    control = here.edge.ready[2]
    here.call("POST", "/v1/sites", {"name": "kept", "hosts": ["kept.test"], "origins": []})
    leaders = [here.leader]
    with Load(here) as load:
        for _ in range(3):
            before = load.done
            leaders.append(here.upgrade())
            until(lambda before=before: load.done > before + 50)  # type: ignore[misc]
    assert not load.failures
    assert len(set(leaders)) == 4
    assert re.findall(EDGE_READY, here.said) == [(here.edge.ready[1], control)] * 4
    assert here.get("/", "kept.test") == 502, "a site that the API added before is known"
    assert here.call("POST", "/v1/purge", {"site": "shop"})
    assert not [pid for leader in leaders[:-1] for pid in serving(leader)]


def test_a_request_that_takes_long_is_answered_by_the_old_process(here: Here) -> None:
    results: list[int] = []
    slow = threading.Thread(target=lambda: results.append(here.get("/products?_delay=4s")))
    slow.start()
    time.sleep(0.3)
    here.upgrade()
    slow.join()
    assert results == [200]


def test_a_new_program_that_cannot_start_leaves_the_old_one_as_it_was(here: Here, origin: str) -> None:
    leader = here.leader
    (here.folder / "edge.yaml").write_text("listen: nowhere\n")
    with Load(here) as load:
        os.kill(leader, signal.SIGUSR2)
        until(lambda: "the new process did not take over, this one goes on" in here.said)
        assert here.call("POST", "/v1/purge", {"site": "shop"})
    assert not load.failures
    assert here.leader == leader
    assert "edge.yaml:1:" in here.said
    here.write(origin, len(serving(leader)) or 1)
    assert here.upgrade() != leader
    assert here.get() == 200


IMPOSTOR = """
import asyncio
from edgecache.processes import takeover

async def main():
    before = await takeover.predecessor()
    await before.yield_state()

asyncio.run(main())
"""


async def test_one_that_ends_once_it_has_the_state_leaves_it_to_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    edge = Edge(Config(listen=Address("127.0.0.1", 0), state_dir=state, control=ControlSettings(state_dir=state, port=0)))
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", IMPOSTOR])
    try:
        _, control = await edge.start()
        assert not await lifetime._upgrade(edge)
        new = {"name": "x", "hosts": ["x.test"], "origins": []}
        headers = {"Authorization": f"Bearer {(state / 'operator.token').read_text().strip()}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"http://{control}/v1/sites", headers=headers, json=new) as made,
        ):
            assert made.status == 201
        second = Edge(Config(listen=Address("127.0.0.1", 0), state_dir=state, control=ControlSettings(state_dir=state, port=0)))
        with pytest.raises(StateError, match="held by another edge"):
            await second.start()
        await second.close()
    finally:
        await edge.close()


def test_systemd_is_told_which_process_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(configuration("http://127.0.0.1:1", 1))
    command = ["-m", "edgecache", "serve", str(file), "--pidfile", str(tmp_path / "pid")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with started("the edge", command, EDGE_READY, tmp_path / "log") as edge:
            assert manager.recv(1000) == f"READY=1\nMAINPID={edge.process.pid}\n".encode()
            edge.process.send_signal(signal.SIGUSR2)
            told = manager.recv(1000)
            new = int((tmp_path / "pid").read_text())
            try:
                assert told == f"READY=1\nMAINPID={new}\n".encode()
                assert new != edge.process.pid
                assert edge.process.wait(30) == 0
            finally:
                os.kill(new, signal.SIGTERM)
            until(lambda: not alive(new))


def test_the_number_of_processes_can_change(here: Here, origin: str) -> None:
    for count in (3, 1, 2):
        here.write(origin, count)
        leader = here.upgrade()
        assert len(serving(leader)) == (count if count > 1 else 0)
        assert {here.get() for _ in range(30)} == {200}
