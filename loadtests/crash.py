"""`python -m loadtests.crash --kills 200`: an edge with a disk tier is killed under load again and again, and is never wrong.

Every body names its URL and its version, and ends with its own hash. Once a purge has been answered, no version that was current
before it may be served, whatever is killed in between. With `--edges 2` or more, several edges share one tier, and one is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

EDGECACHE = Path(sys.executable).with_name("edgecache")
SIZES = (0, 10, 1000, 5_000, 60_000, 70_000, 300_000, 1_500_000)
URLS = 300
CLIENTS = 8
READY_SECONDS = 60
_CONFIG = """\
listen: 127.0.0.1:0
control: {{listen: "127.0.0.1:0"}}
log: {{access: off}}
sandbox: {{engine: unicorn, workers: 1}}
cache: {{memory: 4MiB, disk: {{path: {path}, bytes: {capacity}, large: 1MiB}}}}
sites:
  - {{name: crash, hosts: ["*"], origins: ["{origin}"]}}
"""
_HEAD = re.compile(rb"(\S+) version (\d+)\n")


class Broken(Exception):
    """The test itself could not go on: an edge did not start or did not take a purge."""


@dataclass
class Verdict:
    """What was seen."""

    kills: int = 0
    answers: int = 0
    hits: int = 0
    first_hits: int = 0
    """Hits on URLs that this start of the edge had not been asked for before: what survived a kill."""
    purges: int = 0
    fetched: int = 0
    wrong: Counter[str] = field(default_factory=Counter)

    def broken(self) -> list[str]:
        """What is not as it must be."""
        found = [f"{count} times: {what}" for what, count in self.wrong.most_common(10)]
        if self.kills and not self.first_hits:
            found.append("nothing survived any kill")
        return found


def body_of(path: str, version: int, size: int) -> bytes:
    """A body that proves itself: URL, version, filler, and the hash of all that."""
    head = b"%b version %d\n" % (path.encode(), version)
    content = head + random.Random(f"{path} {version}").randbytes(size)
    return content + hashlib.sha256(content).digest()


def version_in(path: str, body: bytes) -> int:
    """The version of a body that proves itself; ValueError says what is wrong with it."""
    content, digest = body[:-32], body[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("a body that does not have its own hash")
    match = _HEAD.match(content)
    if match is None or match[1].decode() != path:
        raise ValueError("the body of another URL")
    return int(match[2])


class Origin:
    """Serves the current version of every path."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.paths = [f"/{number}" for number in range(URLS)]
        self.sizes = {path: chance.choice(SIZES) for path in self.paths}
        self.tags = {path: f"t{number % 10}" for number, path in enumerate(self.paths)}
        self.versions = dict.fromkeys(self.paths, 1)
        self.fetched = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.fetched += 1
        path = request.path
        headers = {"Cache-Control": "max-age=86400", "Cache-Tag": self.tags[path]}
        body = body_of(path, self.versions[path], self.sizes[path])
        if int(path[1:]) % 3:
            return web.Response(body=body, headers=headers)
        response = web.StreamResponse(headers=headers)
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await response.prepare(request)
            for start in range(0, len(body), 50_000):
                await response.write(body[start : start + 50_000])
            await response.write_eof()
        return response


@dataclass
class Edge:
    """One running edge."""

    process: asyncio.subprocess.Process
    url: str
    control: str
    token: str
    asked: set[str] = field(default_factory=set)


async def start_edge(folder: Path, name: str, config: str) -> Edge:
    """An edge of its own, whose files are called `name`. Raises Broken."""
    path, state = folder / f"{name}.yaml", folder / f"{name}.state"
    path.write_text(config)
    with (folder / f"{name}.err").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(EDGECACHE, "serve", str(path), "--state", str(state)), stdout=asyncio.subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        async with asyncio.timeout(READY_SECONDS):
            while line := (await process.stdout.readline()).decode():
                if found := re.search(r"serving on (http://\S+), control on (http://\S+)", line):
                    token = (state / "operator.token").read_text().strip()
                    return Edge(process, found[1], found[2], token)
    except TimeoutError:
        process.kill()
    raise Broken(f"{name} did not start: {(folder / f'{name}.err').read_text()[-1000:]}")


class Trial:
    """Load, purges and kills over one directory."""

    def __init__(self, folder: Path, seed: int, edges: int, capacity: str) -> None:
        self.verdict = Verdict()
        self._folder = folder
        self._chance = random.Random(seed)
        self._edges: list[Edge | None] = [None] * edges
        self._capacity = capacity
        self.origin = Origin(seed)
        self._minimum = dict.fromkeys(self.origin.paths, 1)
        self._over = False

    async def run(self, kills: int) -> None:
        """Raises Broken."""
        async with self._serving() as origin, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            for number in range(len(self._edges)):
                self._edges[number] = await self._start(number, origin)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(CLIENTS):
                    tasks.create_task(self._ask(session))
                tasks.create_task(self._purge(session))
                try:
                    for _ in range(kills):
                        await asyncio.sleep(self._chance.uniform(0.05, 1.0))
                        number = self._chance.randrange(len(self._edges))
                        await self._kill(number)
                        self._edges[number] = await self._start(number, origin)
                        self.verdict.kills += 1
                    await asyncio.sleep(1.0)
                finally:
                    self._over = True
        self.verdict.fetched = self.origin.fetched

    async def close(self) -> None:
        for number in range(len(self._edges)):
            await self._kill(number)

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[str]:
        server = web.Server(self.origin.answer, access_log=None)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        host, port = listening.sockets[0].getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            listening.close()
            await server.shutdown(1.0)

    async def _start(self, number: int, origin: str) -> Edge:
        text = _CONFIG.format(path=self._folder / "cache", capacity=self._capacity, origin=origin)
        return await start_edge(self._folder, f"edge{number}", text)

    async def _kill(self, number: int) -> None:
        edge, self._edges[number] = self._edges[number], None
        if edge is not None:
            with contextlib.suppress(ProcessLookupError):
                edge.process.send_signal(signal.SIGKILL)
            await edge.process.communicate()

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        while not self._over:
            edge = self._chance.choice(self._edges)
            if edge is None:
                await asyncio.sleep(0.01)
                continue
            path = self.origin.paths[min(int(self._chance.paretovariate(0.6)) - 1, URLS - 1)]
            minimum, first = self._minimum[path], path not in edge.asked
            headers = {"Host": "crash.test"}
            try:
                async with session.get(edge.url + path, headers=headers) as response:
                    body = await response.read()
            except (aiohttp.ClientError, OSError, TimeoutError):
                if edge in self._edges:
                    self.verdict.wrong["an answer broke off though nothing was killed"] += edge.process.returncode is None
                continue
            edge.asked.add(path)
            self._judge(path, body, minimum, response.status)
            hit = "hit" in response.headers.get("Cache-Status", "")
            self.verdict.answers += 1
            self.verdict.hits += hit
            self.verdict.first_hits += hit and first

    def _judge(self, path: str, body: bytes, minimum: int, status: int) -> None:
        if status != 200:
            self.verdict.wrong[f"status {status}"] += 1
            return
        try:
            version = version_in(path, body)
        except ValueError as error:
            self.verdict.wrong[str(error)] += 1
            return
        if version < minimum:
            self.verdict.wrong["a version that had been purged"] += 1

    async def _purge(self, session: aiohttp.ClientSession) -> None:
        """New versions at the origin, then a purge; once that is answered, the old ones must not be seen again."""
        while not self._over:
            await asyncio.sleep(self._chance.uniform(0.02, 0.3))
            edge = self._chance.choice(self._edges)
            if edge is None:
                continue
            one = self._chance.choice(self.origin.paths)
            paths = [one]
            purge: dict[str, object] = {"urls": [f"http://crash.test{one}"]}
            if self._chance.random() < 0.5:
                paths = [path for path in self.origin.paths if self.origin.tags[path] == self.origin.tags[one]]
                purge = {"tag": self.origin.tags[one]}
            for path in paths:
                self.origin.versions[path] += 1
            versions = {path: self.origin.versions[path] for path in paths}
            try:
                url, headers = f"{edge.control}/v1/purge", {"Authorization": f"Bearer {edge.token}"}
                async with session.post(url, json=purge, headers=headers) as response:
                    if response.status != 200:
                        self.verdict.wrong[f"purge: {response.status} {(await response.text())[:200]}"] += 1
                        continue
            except (aiohttp.ClientError, OSError, TimeoutError):
                continue
            self.verdict.purges += 1
            if len(self._edges) == 1:
                # Of several edges the others keep in memory what they have: nobody tells them here.
                self._minimum.update(versions)


async def trial(folder: Path, *, kills: int, seed: int, edges: int = 1, capacity: str = "64MiB") -> Verdict:
    """Raises Broken."""
    tried = Trial(folder, seed, edges, capacity)
    try:
        await tried.run(kills)
    finally:
        await tried.close()
    return tried.verdict


def main() -> int:
    """0: nothing was wrong; 1: something was, or it could not run; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.crash", description="Kills an edge with a disk tier under load.")
    parser.add_argument("--kills", type=int, default=200, help="default: %(default)s, which take some minutes")
    parser.add_argument("--edges", type=int, default=1, help="edges that share the tier; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--bytes", default="64MiB", help="of the tier; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if not 1 <= options.kills <= 100_000 or not 1 <= options.edges <= 16:
        parser.error("--kills must be from 1 to 100000, --edges from 1 to 16")
    failed: list[BaseException] = []
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        try:
            verdict = asyncio.run(
                trial(Path(folder), kills=options.kills, seed=options.seed, edges=options.edges, capacity=options.bytes)
            )
        except* Broken as error:
            failed.extend(error.exceptions)
    if failed:
        print(f"crash: {failed[0]}", file=sys.stderr)
        return 1
    figures = {name: getattr(verdict, name) for name in ("kills", "answers", "hits", "first_hits", "purges", "fetched")}
    if options.json:
        print(json.dumps({**figures, "wrong": dict(verdict.wrong)}))
    else:
        print(
            f"crash: {verdict.kills} kills, {verdict.answers:,} answers, {verdict.hits:,} hits, "
            f"{verdict.first_hits:,} of them of what survived a kill, {verdict.purges:,} purges"
        )
    for what in verdict.broken():
        print(f"crash: {what}", file=sys.stderr)
    return 1 if verdict.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
