"""A server that is measured: its process on one core, whether it answers from its cache, and what it has cost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.processes import DemoError, started
from demo.visit import Visit, get
from loadtests.bench.rows import DISK_ROW_MEMORY_BYTES, MIB, STORE_BYTES, Row, Storage

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
_START_S: Final = 20.0
_PROBE: Final = "/probe"


@dataclass(frozen=True, slots=True)
class Server:
    """One that is ready."""

    name: str
    url: str
    pid: int

    def prove_hit(self, row: Row, *, number: int | str = 1) -> None:
        """Prove that the cache answers for a URL of `row` that was asked for before. Raises DemoError."""
        visit = get(self.url, row.target(number))
        if visit.status != 200 or len(visit.body) != row.size_bytes or not is_hit(visit):
            said = visit.headers.as_string()[:400]
            raise DemoError(f"{self.name} does not answer {row.target(number)} from its cache: {visit.status}, {said}")

    def cpu_seconds(self) -> float:
        """User and system time of the process and its descendants that live."""
        return _cpu_seconds(self.pid)


def is_hit(visit: Visit) -> bool:
    """By Cache-Status (the edge), X-Cache (nginx, Varnish) or Via's letters (Traffic Server)."""
    via = visit.headers.get("Via", "")
    return visit.hit or visit.headers.get("X-Cache") == "HIT" or "[cH" in via or "[cR" in via


EDGE: Final = """\
listen: 127.0.0.1:0
control: {{listen: 127.0.0.1:0}}
state: {folder}/state
cache: {cache}
log: {{access: {folder}/access.log}}
sites:
  - {{name: bench, hosts: ["*"], origins: ["{origin}"]}}
"""


@contextlib.contextmanager
def edge(folder: Path, origin: str, storage: Storage) -> Iterator[Server]:
    """This software, with an access log in a file, as every peer has its own."""
    config = edge_config(folder, origin, storage)
    ready = r"serving on (http://[^\s,]+), control on"
    with started("the edge", ["-m", "edgecache", "serve", str(config)], ready, folder / "edge.log") as running:
        pin(running.process.pid, SERVER_CORE)
        yield Server("edgecache", running.ready[1], running.process.pid)


def edge_config(folder: Path, origin: str, storage: Storage) -> Path:
    """Written into `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    cache = f"{{memory: {STORE_BYTES // MIB}MiB}}"
    if storage is Storage.DISK:
        disk = f"{{path: {folder}/cache, bytes: {STORE_BYTES // MIB}MiB}}"
        cache = f"{{memory: {DISK_ROW_MEMORY_BYTES // MIB}MiB, disk: {disk}}}"
    file = folder / "edge.yaml"
    file.write_text(EDGE.format(folder=folder, cache=cache, origin=origin))
    return file


@contextlib.contextmanager
def process(name: str, command: list[str], folder: Path, port: int, core: int) -> Iterator[Server]:
    """A foreign server on one core, until the block ends; entered once it answers. Raises DemoError."""
    output = folder / "output.log"
    pinned = ["taskset", "-c", str(core), *command] if core in os.sched_getaffinity(0) else command
    with output.open("wb") as said:
        running = subprocess.Popen(
            pinned,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(name, url, running, output)
        yield Server(name, url, running.pid)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(_START_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def free_port() -> int:
    """One that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, core: int) -> None:
    """All threads of a process that runs, as far as this machine has that many cores."""
    if core in os.sched_getaffinity(0):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})


def _wait_for(name: str, url: str, running: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and running.poll() is None:
        with contextlib.suppress(OSError):
            if get(url, _PROBE).status < 500:
                return
        time.sleep(0.05)
    raise DemoError(f"{name} did not start: {output.read_text(errors='replace')[-500:] or 'it said nothing'}")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = (child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split())
    return own + sum(_cpu_seconds(int(child)) for child in children)
