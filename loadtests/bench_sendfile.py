"""`python -m loadtests.bench_sendfile`: a long body through an edge with a disk tier: how fast, at what cost, in how much memory.

The edge is a process of its own; the client reads a socket in a thread and throws away what it gets. The first request stores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from loadtests.crash import Broken, Edge, start_edge

_PIECE = random.Random(1).randbytes(1 << 20)
_CONFIG = """\
listen: 127.0.0.1:0
control: {{listen: "127.0.0.1:0"}}
log: {{access: off}}
sandbox: {{engine: unicorn, workers: 1}}
cache: {{memory: 64MiB, disk: {{path: {path}, bytes: {capacity}}}}}
sites:
  - {{name: long, hosts: ["*"], origins: ["{origin}"], cache: {{max_object: 64GiB}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one body; speeds in MiB a second, CPU of the edge's process in seconds for the whole body."""

    mib: int
    stored: float
    stored_cpu: float
    served: float
    served_cpu: float
    resident_before_mib: int
    resident_peak_mib: int


async def measure(folder: Path, mib: int) -> Figures:
    """Raises Broken."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=86400", "Content-Length": str(mib << 20)})
        await response.prepare(request)
        for _ in range(mib):
            await response.write(_PIECE)
        return response

    server = web.Server(answer, access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    config = _CONFIG.format(path=folder / "cache", capacity=f"{max(64, 3 * mib)}MiB", origin=f"http://{host}:{port}")
    edge = await start_edge(folder, "edge", config)
    try:
        before = _resident_mib(edge, "VmRSS")
        stored, stored_cpu = await _timed(edge, mib, "fwd=uri-miss")
        await asyncio.sleep(1.0)
        await _timed(edge, mib, "hit")
        served, served_cpu = await _timed(edge, mib, "hit")
        peak = _resident_mib(edge, "VmHWM")
    finally:
        edge.process.kill()
        await edge.process.communicate()
        listening.close()
        await server.shutdown(1.0)
    return Figures(
        mib=mib,
        stored=mib / stored,
        stored_cpu=stored_cpu,
        served=mib / served,
        served_cpu=served_cpu,
        resident_before_mib=before,
        resident_peak_mib=peak,
    )


async def _timed(edge: Edge, mib: int, expected: str) -> tuple[float, float]:
    """Seconds until the whole body had come, and CPU seconds of the edge."""
    cpu, started = _cpu_seconds(edge), time.perf_counter()
    head, size = await asyncio.to_thread(_fetch, edge.url)
    elapsed = time.perf_counter() - started
    if size != mib << 20 or expected not in head:
        raise Broken(f"{size} bytes came of {mib << 20}, with {head!r}")
    return elapsed, _cpu_seconds(edge) - cpu


def _fetch(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=60) as sock:
        sock.sendall(b"GET /long HTTP/1.1\r\nHost: long.test\r\nConnection: close\r\n\r\n")
        buffer = bytearray(1 << 20)
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(4096)
        head, _, rest = received.partition(b"\r\n\r\n")
        size = len(rest)
        while count := sock.recv_into(buffer):
            size += count
    return head.decode(), size


def _cpu_seconds(edge: Edge) -> float:
    fields = Path(f"/proc/{edge.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(edge: Edge, name: str) -> int:
    for line in Path(f"/proc/{edge.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) >> 10
    raise Broken("the edge has ended")


def main() -> int:
    """0: measured; 1: a body was not whole, or memory grew with it; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_sendfile", description="A long body through a disk tier.")
    parser.add_argument("--mib", type=int, default=1024, help="its length; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if not 16 <= options.mib <= 65_536:
        parser.error("--mib must be from 16 to 65536")
    with tempfile.TemporaryDirectory(prefix="bench-sendfile-") as folder:
        try:
            figures = asyncio.run(measure(Path(folder), options.mib))
        except Broken as error:
            print(f"bench_sendfile: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(asdict(figures)))
    else:
        print(
            f"{figures.mib} MiB stored as it passed: {figures.stored:,.0f} MiB/s, {figures.stored_cpu:.2f} s of CPU\n"
            f"served from the file: {figures.served:,.0f} MiB/s, {figures.served_cpu:.2f} s of CPU\n"
            f"resident memory: {figures.resident_before_mib} MiB before, {figures.resident_peak_mib} MiB at its peak"
        )
    return 0 if figures.resident_peak_mib - figures.resident_before_mib < 64 else 1


if __name__ == "__main__":
    sys.exit(main())
