"""Several serving processes under load while one is killed, the configuration changes or is wrong, purges come and the program is
replaced: no body is wrong or from before a purge, and no request fails but those of a killed process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from demo.processes import Running, started
from demo.stage import EDGE_READY
from tests.integration.aftermath_support import logged_in
from tests.integration.chaos_support import Generations, assert_whose, proof, seeds
from tests.integration.process_support import alive, serving
from tests.integration.proxy_support import raw_origin, read_head

pytestmark = pytest.mark.timeout(600)
ROUNDS = int(os.environ.get("EDGECACHE_FAULT_ROUNDS", "9"))
"""For a longer hunt, more: each is something done to the edge under load."""
CLIENTS = 8
PATHS = 30
PROCESSES = 2
WAIT_SECONDS = 60.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


@dataclass
class Origin:
    """Every body is another one."""

    generations: Generations

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await read_head(reader)).split(b" ", 2)[1].decode()
            number = self.generations.next()
            body = proof(path, "-", number, 6_000_000 if path == "/p0" else 100 * (number % 50))
            fields = f"Cache-Control: max-age=60\r\nX-Path: {path}\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode() + body)
            await writer.drain()


@dataclass
class Client:
    """Asks all the time, over connections that it keeps for as long as it may."""

    address: tuple[str, int]
    random: random.Random
    generations: Generations
    failures: list[str] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    done: int = 0
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._connection()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.failures.append(repr(error)[:200])

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            for _ in range(self.random.randint(1, 60)):
                path, floor = f"/p{self.random.randrange(PATHS)}", self.generations.floor
                writer.write(f"GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n".encode())
                lines = (await read_head(reader)).decode().split("\r\n")
                fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
                body = await reader.readexactly(int(fields["content-length"]))
                if lines[0].split(" ")[1] != "200":
                    self.failures.append(f"{lines[0]} {body[:200]!r}")
                else:
                    assert fields["x-path"] == path
                    assert_whose(body, path, floor)
                    self.told.add(fields["x-request-id"])
                    self.done += 1
                if self.stopped or fields.get("connection") == "close":
                    return
                await asyncio.sleep(0.002)
        finally:
            writer.transport.abort()


@dataclass
class Here:
    """An edge that may be led by one process after another."""

    edge: Running
    folder: Path
    origin: str
    generations: Generations
    written: int = 0

    @property
    def said(self) -> str:
        return self.edge.log.read_text()

    @property
    def leader(self) -> int:
        return int((self.folder / "pid").read_text())

    def write(self, wrong: str = "") -> None:
        self.written += 1
        (self.folder / "edge.yaml").write_text(configuration(self.origin, self.written) + wrong)

    async def hang_up(self, wrong: str = "") -> None:
        """Returns when the configuration is in force, or has been refused."""
        self.write(wrong)
        word = "edge.yaml:" if wrong else "is in force"
        before = self.said.count(word)
        os.kill(self.leader, signal.SIGHUP)
        await until(lambda: self.said.count(word) > before)

    async def upgrade(self) -> None:
        before = self.leader
        self.write()
        os.kill(before, signal.SIGUSR2)
        await until(lambda: (self.folder / "pid").exists() and self.leader != before and not alive(before))

    async def kill(self, chance: random.Random) -> None:
        """One serving process, until there is another in its place."""
        victim = chance.choice(serving(self.leader))
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(led := serving(self.leader)) == PROCESSES and victim not in led)

    async def call(self, method: str, path: str, body: object = None) -> str:
        token = (self.folder / "state" / "operator.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.edge.ready[2] + path, headers=headers, json=body) as answer,
        ):
            text = await answer.text()
            assert answer.status < 300, text
            return text

    async def purge(self, body: object) -> None:
        floor = self.generations.made
        await self.call("POST", "/v1/purge", body)
        self.generations.floor = floor

    def descriptors(self) -> dict[int, int]:
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.leader, *serving(self.leader))}


def configuration(origin: str, number: int) -> str:
    return (
        "listen: 127.0.0.1:0\ncontrol: {listen: '127.0.0.1:0'}\nstate: state\nlog: {access: access.log}\n"
        f"serve: {{processes: {PROCESSES}, drain_timeout: 10s}}\n"
        "cache: {memory: 16MiB, disk: {path: disk, bytes: 64MiB}}\nsites:\n"
        f"  - {{name: shop, hosts: [shop.test], origins: ['{origin}'], cache: {{default_ttl: {number}s}}}}\n"
        f"  - {{name: other, hosts: [other{number}.test], origins: ['{origin}']}}\n"
    )


@pytest.mark.parametrize("seed", seeds(1))
async def test_whatever_is_done_to_an_edge_under_load_answers_are_right(seed: int, tmp_path: Path) -> None:
    chance, generations = random.Random(seed), Generations()
    async with raw_origin(Origin(generations).handle) as origin:
        (tmp_path / "edge.yaml").write_text(configuration(origin, 1))
        command = ["-m", "edgecache", "serve", str(tmp_path / "edge.yaml"), "--pidfile", str(tmp_path / "pid")]
        with started("the edge", command, EDGE_READY, tmp_path / "log") as edge:
            here = Here(edge, tmp_path, origin, generations)
            try:
                await _attack(here, chance)
            finally:
                leader = here.leader
                os.kill(leader, signal.SIGTERM)
                await until(lambda: not alive(leader))
    _check_log(tmp_path)


async def _attack(here: Here, chance: random.Random) -> None:
    parts = urlsplit(here.edge.ready[1])
    address = (parts.hostname or "", parts.port or 0)
    clients = [Client(address, random.Random(chance.random()), here.generations) for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(client.run()) for client in clients]

    async def done(count: int) -> None:
        """So many more requests."""
        before = sum(client.done for client in clients)
        await until(lambda: sum(client.done for client in clients) > before + count or any(task.done() for task in tasks))

    await done(100)
    failed: Counter[str] = Counter()
    # Everything once, in any order, and then anything.
    what = ["kill", "good", "wrong", "purge", "upgrade", "good and purges", "kill and purge", "add", "upgrade and purge"]
    for doing in chance.sample(what, len(what))[:ROUNDS] + chance.choices(what, k=max(0, ROUNDS - len(what))):
        before = sum(len(client.failures) for client in clients)
        match doing:
            case "kill":
                await here.kill(chance)
            case "good":
                await here.hang_up()
            case "wrong":
                await here.hang_up(wrong=chance.choice(("nonsense: 1\n", "serve: {\n", "listen: 5\n")))
            case "purge":
                await here.purge({"everything": True})
            case "good and purges":
                await asyncio.gather(here.hang_up(), *(here.purge({"site": "shop"}) for _ in range(5)))
            case "kill and purge":
                await asyncio.gather(here.kill(chance), here.purge({"everything": True}))
            case "add":
                name = f"api{len(failed)}-{chance.random()}".replace(".", "")
                await here.call("POST", "/v1/sites", {"name": name, "hosts": [f"{name}.test"], "origins": []})
            case "upgrade":
                await here.upgrade()
            case _:
                with contextlib.suppress(aiohttp.ClientError, AssertionError):
                    # The control API may be between two processes; what it answers holds.
                    await asyncio.gather(here.upgrade(), here.purge({"everything": True}))
                await until(lambda: len(serving(here.leader)) == PROCESSES)
        await done(50)
        failed[doing] += sum(len(client.failures) for client in clients) - before
    for client in clients:
        client.stopped = True
    await asyncio.gather(*tasks)
    assert [doing for doing, count in failed.items() if count and "kill" not in doing] == [], [c.failures for c in clients]
    kills = sum(1 for client in clients for _ in client.failures)
    assert kills <= CLIENTS * ROUNDS
    await here.purge({"everything": True})
    metrics = await here.call("GET", "/metrics")
    assert "edgecache_requests_total" in metrics
    # Connections of clients and of flights are gone; what is kept to the origin may stay.
    await until(lambda: all(count < 120 for count in here.descriptors().values()))
    (here.folder / "told.json").write_text(json.dumps([sorted(set().union(*(client.told for client in clients))), kills]))


def _check_log(folder: Path) -> None:
    """Every answer that was told whole has its line, but for the last ones of a process that was killed."""
    said = (folder / "log").read_text()
    assert "Traceback" not in said, said
    told, failures = json.loads((folder / "told.json").read_text())
    lines = logged_in(folder / "access.log")
    assert [identity for identity, count in lines.items() if count != 1] == []
    missing = set(told) - lines.keys()
    processes = {identity.partition("-")[0] for identity in missing}
    assert len(processes) <= failures, f"{len(missing)} lines are missing"
