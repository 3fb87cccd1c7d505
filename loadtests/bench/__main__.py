"""`python -m loadtests.bench`: every server that is installed, same payload, same origin, runs in turn; a table and JSON.

wrk makes the load, from the other core; each server is pinned to one. CPU time a request is shown too: unlike the rate, it
hardly changes when something else runs on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.processes import DemoError
from demo.visit import get
from edgecache.config import load
from edgecache.policy import freshness
from edgecache.yamlform import FormError
from loadtests.bench import peers
from loadtests.bench.report import EDGE_NAME, Summary, document, summarise, table
from loadtests.bench.rows import ROWS, Asked, Row, Storage
from loadtests.bench.servers import LOAD_CORE, Server, edge, edge_config
from loadtests.bench.warming import warm
from loadtests.wrk import Run, wrk

CONNECTIONS = 32
_PROOFS = 10
_STORED = 100
"""A miss that must be stored: by now wrk has asked for it, whose first draw it only checks."""
_MEMORY_FILES = Path("/dev/shm")  # noqa: S108 (directories in it are made by tempfile)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    rows: tuple[Row, ...]
    servers: tuple[str, ...]
    runs: int
    seconds: int
    connections: int


def main() -> int:
    """0: measured what is installed; 1: something failed."""
    plan, path = _arguments()
    if shutil.which("wrk") is None:
        print("bench: wrk is not installed, so the cache is not measured (Debian: apt-get install wrk)")
        return 0
    for peer in peers.PEERS:
        if peer.name in plan.servers and not peer.installed:
            print(f"bench: {peer.name} is not installed: no comparison with it (Debian: apt-get install {peer.package})")
    # As an exception, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="edgecache-bench-") as folder:
            figures = _measure(Path(folder), plan)
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"\nOne core: {plan.connections} connections, {plan.runs} runs of {plan.seconds} s in turn, medians;")
    print("× is the edge's figure as a multiple of that server's")
    print(table(figures))
    _write(figures, plan, path)
    return 0 if not any(summary.errors for summaries in figures.values() for summary in summaries) else 1


def _arguments() -> tuple[Plan, Path | None]:
    names = {row.name: row for row in ROWS}
    servers = (EDGE_NAME, *(peer.name for peer in peers.PEERS))
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description="Answers a second on one core.")
    parser.add_argument("--runs", type=int, default=3, help="runs of each server, in turn (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="default: %(default)s")
    parser.add_argument("--rows", default=",".join(names), help="what is measured (default: %(default)s)")
    parser.add_argument("--servers", default=",".join(servers), help="default: %(default)s, those that are installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not (1 <= options.runs <= 20 and 1 <= options.seconds <= 120 and 1 <= options.connections <= 1000):
        parser.error("--runs must be from 1 to 20, --seconds from 1 to 120, --connections from 1 to 1000")
    wanted, asked = options.rows.split(","), options.servers.split(",")
    if set(wanted) - set(names) or set(asked) - set(servers):
        parser.error(f"--rows takes some of {', '.join(names)}, --servers some of {', '.join(servers)}, with commas between")
    plan = Plan(
        rows=tuple(names[name] for name in names if name in wanted),
        servers=tuple(name for name in servers if name in asked),
        runs=options.runs,
        seconds=options.seconds,
        connections=options.connections,
    )
    return plan, options.json


def _measure(folder: Path, plan: Plan) -> dict[Row, list[Summary]]:
    figures: dict[Row, list[Summary]] = {}
    with peers.origin(folder) as origin:
        for storage in Storage:
            rows = [row for row in plan.rows if row.storage is storage]
            if not rows:
                continue
            if storage is Storage.DISK and EDGE_NAME in plan.servers and not _knows_disk(folder, origin):
                print("bench: this edge has no disk tier: its row is left out", file=sys.stderr)
                continue
            with _home(folder, storage) as home, _servers(home, origin, storage, plan) as servers:
                for row in rows:
                    figures[row] = _measure_row(folder, origin, row, servers, plan)
    return {row: figures[row] for row in plan.rows if row in figures}


@contextlib.contextmanager
def _home(folder: Path, storage: Storage) -> Iterator[Path]:
    """Where the servers keep their files: in memory for the rows of memory, for nginx and Traffic Server store in files alone."""
    memory = storage is Storage.MEMORY and _MEMORY_FILES.is_dir()
    with tempfile.TemporaryDirectory(prefix="edgecache-bench-", dir=_MEMORY_FILES if memory else folder) as home:
        Path(home).chmod(0o777)
        yield Path(home)


@contextlib.contextmanager
def _servers(home: Path, origin: str, storage: Storage, plan: Plan) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(edge(home / EDGE_NAME, origin, storage))] if EDGE_NAME in plan.servers else []
        for peer in peers.PEERS:
            if peer.name in plan.servers and peer.installed:
                started.append(stack.enter_context(peer.start(home / peer.name, origin, storage)))
        yield started


def _knows_disk(folder: Path, origin: str) -> bool:
    try:
        load(edge_config(folder / "probe", origin, Storage.DISK))
    except FormError:
        return False
    return True


def _measure_row(folder: Path, origin: str, row: Row, servers: Sequence[Server], plan: Plan) -> list[Summary]:
    """A peer that does not do what the row is about is left out of it. Raises DemoError where the edge does not."""
    out: set[str] = set()
    for server in servers:
        with _leaving_out(server, row, out):
            _fill(server, row)
    results: dict[str, list[Run]] = {server.name: [] for server in servers}
    cpu_us: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(plan.runs):
        script = row.script(folder, number)
        # Everybody is the first once: what a run leaves behind in the machine's caches is nobody's alone.
        turn = number % len(servers)
        for server in (*servers[turn:], *servers[:turn]):
            if server.name in out:
                continue
            print(f"bench: {row.name}, {server.name}, run {number + 1} of {plan.runs}", file=sys.stderr, flush=True)
            asked, before = peers.origin_requests(origin), server.cpu_seconds()
            url = server.url if script else server.url + row.target(1)
            run = wrk(url, plan.seconds, plan.connections, core=LOAD_CORE, script=script)
            now = peers.origin_requests(origin)
            with _leaving_out(server, row, out):
                _prove_origin_use(server, row, number, run, None if now is None or asked is None else now - asked)
            results[server.name].append(run)
            cpu_us[server.name].append((server.cpu_seconds() - before) / max(run.requests, 1) * 1e6)
    return [summarise(server.name, results[server.name], cpu_us[server.name]) for server in servers if server.name not in out]


@contextlib.contextmanager
def _leaving_out(server: Server, row: Row, out: set[str]) -> Iterator[None]:
    """What goes wrong with a peer ends its part in the row, and nothing else."""
    try:
        yield
    except DemoError as error:
        if server.name == EDGE_NAME:
            raise
        print(f"bench: {row.name} is not measured for {server.name}: {error}".splitlines()[0], file=sys.stderr)
        out.add(server.name)


def _fill(server: Server, row: Row) -> None:
    """Have the row's URLs stored, and see that they are. Raises DemoError."""
    if row.asked is Asked.FRESH:
        get(server.url, row.target(1))
        return
    targets = [row.target(number) for number in range(1, row.urls + 1)]
    # Twice: Traffic Server's memory takes what was asked for again.
    for _ in range(2):
        warm(server.url, targets, row.size_bytes)
    for number in range(1, row.urls + 1, max(1, row.urls // _PROOFS)):
        server.prove_hit(row, number=number)


def _prove_origin_use(server: Server, row: Row, number: int, run: Run, reached: int | None) -> None:
    """Misses must reach the origin, each of them, and be stored; hits must not reach it. Raises DemoError."""
    if reached is None:
        return
    if row.asked is Asked.FRESH:
        # What wrk stops waiting for at its end is not counted by it, and a cache may fetch it all the same.
        if reached < run.requests:
            raise DemoError(f"{server.name} has answered {run.requests} misses with {reached} requests to the origin")
        server.prove_hit(row, number=f"{number}-{_STORED}")
    elif reached > max(10, run.requests // 1000):
        raise DemoError(f"{server.name} has asked the origin {reached} times for {run.requests} hits")


def _write(figures: dict[Row, list[Summary]], plan: Plan, path: Path | None) -> None:
    python = f"Python {platform.python_version()}, {'compiled' if freshness.__file__.endswith('.so') else 'interpreted'}"
    versions = {peer.name: peer.version() for peer in peers.PEERS if peer.name in plan.servers and peer.installed}
    text = json.dumps(
        {
            "connections": plan.connections,
            "runs": plan.runs,
            "seconds": plan.seconds,
            "versions": {EDGE_NAME: python, **versions},
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "rows": document(figures),
        },
        indent=2,
    )
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    print(f"\nfigures: {path}")


def _processor() -> str:
    """As Linux names it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return found[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
