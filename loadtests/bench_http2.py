"""Cache hits over TLS, by HTTP/1.1 and by HTTP/2, from one edge on one core: `python -m loadtests.bench_http2`.

A few connections ask with prepared bytes: by HTTP/1.1 one request at a time, by HTTP/2 so many at once. The rate is bounded by
this process too, so compare what the edge's CPU spends on a request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hpack
import trustme
from hyperframe.frame import HeadersFrame, SettingsFrame, WindowUpdateFrame

from demo.processes import DemoError, started

HOST = "shop.test"
TARGET = "/file?_size=1KiB&_cc=public,max-age=86400"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = (1 << 31) - 1
SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 4
AT_ONCE = {"http/1.1, 1": None, "h2, 1": 1, "h2, 8": 8, "h2, 32": 32}


@dataclass(frozen=True)
class Edge:
    """A running edge."""

    port: int
    pid: int
    context: ssl.SSLContext
    http1: ssl.SSLContext


class Asking:
    """One connection that keeps `at_once` requests for one URL under way."""

    def __init__(self, at_once: int) -> None:
        encoder = hpack.Encoder()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", TARGET), ("user-agent", "bench/1")]
        self._first, self._again = encoder.encode(fields), encoder.encode(fields)
        self._at_once = at_once
        self._stream_id = 1
        self._held = b""

    def begin(self) -> bytes:
        """What the connection starts with: one request, whose fields the others refer to."""
        windows = WindowUpdateFrame(0, window_increment=LARGEST_WINDOW - 65_535).serialize()
        return PREFACE + SettingsFrame(0, settings={4: LARGEST_WINDOW}).serialize() + windows + self._ask(self._first)

    def more(self, count: int) -> bytes:
        return b"".join(self._ask(self._again) for _ in range(count))

    def ended(self, data: bytes) -> int:
        """How many answers were complete with `data`. Raises DemoError on GOAWAY and RST_STREAM."""
        self._held += data
        position = count = 0
        held = self._held
        while len(held) - position >= 9:
            end = position + 9 + int.from_bytes(held[position : position + 3], "big")
            if end > len(held):
                break
            kind, flags = held[position + 3], held[position + 4]
            if kind in (3, 7):
                raise DemoError("the edge has ended a stream or the connection")
            count += kind in (0, 1) and flags & 1
            position = end
        self._held = held[position:]
        return count

    def _ask(self, block: bytes) -> bytes:
        frame = HeadersFrame(self._stream_id, data=block, flags=["END_HEADERS", "END_STREAM"]).serialize()
        self._stream_id += 2
        return frame


async def ask(edge: Edge, seconds: float, at_once: int) -> int:
    """Answers on one connection. Raises DemoError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=edge.context, server_hostname=HOST)
    asking = Asking(at_once)
    writer.write(asking.begin())
    writer.write(SettingsFrame(0, flags=["ACK"]).serialize() * 2)
    total, pending, stop = 0, 1, time.monotonic() + seconds
    try:
        while time.monotonic() < stop:
            data = await reader.read(1 << 16)
            if not data:
                raise DemoError("the edge has closed a connection")
            done = asking.ended(data)
            total, pending = total + done, pending - done
            writer.write(asking.more(at_once - pending))
            pending = at_once
    finally:
        writer.transport.abort()
    return total


async def ask_http1(edge: Edge, seconds: float) -> int:
    """Answers on one connection of HTTP/1.1. Raises DemoError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=edge.http1, server_hostname=HOST)
    request = f"GET {TARGET} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench/1\r\n\r\n".encode()
    total, whole, stop = 0, 0, time.monotonic() + seconds
    try:
        while time.monotonic() < stop:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            whole = whole or int(re.findall(rb"Content-Length: (\d+)", head)[0])
            await reader.readexactly(whole)
            total += 1
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise DemoError("the edge has closed a connection") from error
    finally:
        writer.transport.abort()
    return total


async def answers(edge: Edge, seconds: float, at_once: int | None) -> int:
    """On all connections; `at_once` None: by HTTP/1.1."""
    asking = (ask_http1(edge, seconds) if at_once is None else ask(edge, seconds, at_once) for _ in range(CONNECTIONS))
    return sum(await asyncio.gather(*asking))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(folder: Path) -> Iterator[Edge]:
    """An edge in front of origin_sim, its access log in a file."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    (folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    contexts = {protocol: ssl.create_default_context() for protocol in ("h2", "http/1.1")}
    for protocol, context in contexts.items():
        authority.configure_trust(context)
        context.set_alpn_protocols([protocol])
    origin_command = ["-m", "origin_sim", "--port", "0"]
    with started("the origin", origin_command, r"ready on (http://[^\s/]+)", folder / "origin.log") as origin:
        (folder / "edge.yaml").write_text(
            "listen: 127.0.0.1:0\nstate: state\ncontrol: {listen: '127.0.0.1:0'}\nlog: {access: access.log}\n"
            "tls: {listen: '127.0.0.1:0', certificates: [{hosts: ['*'], chain: chain.pem, key: key.pem}]}\n"
            f"sites: [{{name: shop, hosts: ['*'], origins: ['{origin.ready[1]}']}}]\n"
        )
        command = ["-m", "edgecache", "serve", str(folder / "edge.yaml")]
        with started("the edge", command, r"and https://127\.0\.0\.1:(\d+)", folder / "edge.log") as edge:
            if SERVER_CORE in os.sched_getaffinity(0) and len(os.sched_getaffinity(0)) > 1:
                for thread in Path(f"/proc/{edge.process.pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {SERVER_CORE})
                os.sched_setaffinity(0, {LOAD_CORE})
            yield Edge(int(edge.ready[1]), edge.process.pid, *contexts.values())


def measured(edge: Edge, what: str, seconds: int) -> tuple[float, float]:
    """Answers a second, and the edge's CPU time for each in microseconds."""
    began, cpu = time.monotonic(), cpu_seconds(edge.pid)
    count = asyncio.run(answers(edge, seconds, AT_ONCE[what]))
    return count / (time.monotonic() - began), (cpu_seconds(edge.pid) - cpu) / max(1, count) * 1e6


def main() -> int:
    """0: measured; 1: something failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_http2", description="Cache hits over TLS, by protocol.")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: %(default)s)")
    options = parser.parse_args()
    if not (1 <= options.runs <= 20 and 1 <= options.seconds <= 120):
        parser.error("--runs must be from 1 to 20, --seconds from 1 to 120")
    found: dict[str, list[tuple[float, float]]] = {row: [] for row in AT_ONCE}
    try:
        with tempfile.TemporaryDirectory(prefix="edgecache-bench-") as folder, running(Path(folder)) as edge:
            for row in AT_ONCE:
                measured(edge, row, 1)
            for _ in range(options.runs):
                for row in AT_ONCE:
                    found[row].append(measured(edge, row, options.seconds))
    except (DemoError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("| hits of 1 KiB over TLS | answers a second, median | edge's CPU for one |\n|---|---|---|")
    for row, runs in found.items():
        rate, cpu = (statistics.median(figures) for figures in zip(*runs, strict=True))
        print(f"| {row} at once on each of {CONNECTIONS} connections | {rate:,.0f} | {cpu:.0f} µs |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
