"""The cache on one core: the edge against nginx proxy_cache on this machine, same payload, runs in turn. `make bench` runs it.

wrk makes the load, from the other core; each server is pinned to one. A peer that is not installed is said to be missing.
CPU time a request is shown too: unlike the rate, it hardly changes when something else runs on the machine.
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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from demo.processes import DemoError, started
from demo.visit import get
from loadtests.wrk import FRESH, ONCE, ZIPF, Run, wrk

TARGET = "/file?_size=1KiB&_cc=public,max-age=86400"
SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
START_S = 15.0
URLS = 10_000
WARM_S = 60
"""At most, for asking each of the URLs once."""
ROWS = {
    "hits": "Hits, one URL",
    "zipf": f"Hits, {URLS} URLs (Zipf)",
    "misses": "Misses",
}

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log {access_log};
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=edge:16m max_size=256m inactive=1h use_temp_path=off;
    open_file_cache max=20000 inactive=1h;
    sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 75s;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_cache edge; proxy_cache_lock on; add_header X-Cache $upstream_cache_status;
            proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
            proxy_pass {origin};
        }}
    }}
}}
"""


ORIGIN = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 75s; default_type application/octet-stream;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ add_header Cache-Control "public, max-age=86400"; return 200 "{body}"; }}
    }}
}}
"""
"""An origin that keeps up with the caches, so that misses measure those; it shares wrk's core."""


@dataclass(frozen=True)
class Server:
    """One that is measured."""

    url: str
    pid: int


@dataclass(frozen=True)
class Summary:
    """Several runs against one server: medians, and the spread of the rate."""

    server: str
    version: str
    per_second: float
    slowest: float
    fastest: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of all its processes, a request."""
    errors: int


def main() -> int:
    """0: measured what is installed; 1: something failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_nginx", description="Answers a second on one core.")
    parser.add_argument("--runs", type=int, default=3, help="runs of each server, in turn (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="default: %(default)s")
    parser.add_argument("--rows", default=",".join(ROWS), help="what is measured (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not (1 <= options.runs <= 20 and 1 <= options.seconds <= 120 and 1 <= options.connections <= 1000):
        parser.error("--runs must be from 1 to 20, --seconds from 1 to 120, --connections from 1 to 1000")
    rows = [row for row in ROWS if row in options.rows.split(",")]
    if set(options.rows.split(",")) != set(rows):
        parser.error(f"--rows takes some of {', '.join(ROWS)}, with commas between")
    if shutil.which("wrk") is None:
        print("bench: wrk is not installed, so cache hits are not measured (Debian: apt-get install wrk)")
        return 0
    if shutil.which("nginx") is None:
        print("bench: nginx is not installed, so there is nobody to compare with (Debian: apt-get install nginx-light)")
    # As an exception, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="edgecache-bench-") as folder:
            figures = _measure(Path(folder), rows, options.runs, options.seconds, options.connections)
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _report(figures, options.json, options.runs, options.seconds, options.connections)
    return 0 if not any(summary.errors for summaries in figures.values() for summary in summaries) else 1


def _measure(folder: Path, rows: list[str], runs: int, seconds: int, connections: int) -> dict[str, list[Summary]]:
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(_origin(folder))
        servers = {"edgecache": stack.enter_context(_edge(folder, origin))}
        if shutil.which("nginx") is not None:
            servers["nginx"] = stack.enter_context(_nginx(folder, "nginx", NGINX, SERVER_CORE, origin=origin))
        for name, server in servers.items():
            _prove_hit(name, server.url, TARGET, asked_before=False)
        figures: dict[str, list[Summary]] = {}
        for row in rows:
            if row == "zipf":
                _fill(folder, servers, connections)
            results: dict[str, list[Run]] = {name: [] for name in servers}
            cpu_us: dict[str, list[float]] = {name: [] for name in servers}
            for number in range(runs):
                script = _script(folder, row, number)
                for name, server in servers.items():
                    print(f"bench: {row}, {name}, run {number + 1} of {runs}", file=sys.stderr, flush=True)
                    before = _cpu_seconds(server.pid)
                    url = server.url if script else server.url + TARGET
                    run = wrk(url, seconds, connections, core=LOAD_CORE, script=script)
                    results[name].append(run)
                    cpu_us[name].append((_cpu_seconds(server.pid) - before) / max(run.requests, 1) * 1e6)
            figures[row] = [_summary(name, results[name], cpu_us[name]) for name in servers]
        return figures


def _script(folder: Path, row: str, run: int) -> Path | None:
    """What wrk asks for in one run; None: always `TARGET`."""
    if row == "hits":
        return None
    text = ZIPF.format(count=URLS, target=f"{TARGET}&n=") if row == "zipf" else FRESH.format(target=f"{TARGET}&run={run}&n=")
    path = folder / f"{row}-{run}.lua"
    path.write_text(text)
    return path


def _fill(folder: Path, servers: Mapping[str, Server], connections: int) -> None:
    """Have all URLs stored. Raises DemoError when they are not."""
    script = folder / "once.lua"
    script.write_text(ONCE.format(count=URLS, target=f"{TARGET}&n=", connections=connections))
    for name, server in servers.items():
        print(f"bench: {name} fetches {URLS} URLs", file=sys.stderr, flush=True)
        run = wrk(server.url, WARM_S, connections, core=LOAD_CORE, script=script)
        if run.requests < URLS:
            raise DemoError(f"{name} has not fetched {URLS} URLs within {WARM_S} s, but {run.requests}")
        for number in range(1, URLS + 1, URLS // 10):
            _prove_hit(name, server.url, f"{TARGET}&n={number}", asked_before=True)


@contextlib.contextmanager
def _origin(folder: Path) -> Iterator[str]:
    """The URL of an origin that answers TARGET, whatever is appended to it, with 1 KiB to store for a day."""
    if shutil.which("nginx") is not None:
        with _nginx(folder, "origin", ORIGIN, LOAD_CORE, body="x" * 1024) as origin:
            yield origin.url
        return
    command = ["-m", "origin_sim", "--port", "0"]
    with started("the origin", command, r"ready on (http://[^\s/]+)", folder / "origin.log") as simulated:
        yield simulated.ready[1]


@contextlib.contextmanager
def _edge(folder: Path, origin: str) -> Iterator[Server]:
    command = ["-m", "edgecache", "serve", "--origin", origin, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    command += ["--state", str(folder / "state")]
    ready = r"serving on (http://[^\s,]+), control on"
    with started("the edge", command, ready, folder / "edge.log") as edge:
        _pin(edge.process.pid, SERVER_CORE)
        yield Server(edge.ready[1], edge.process.pid)


@contextlib.contextmanager
def _nginx(folder: Path, name: str, config: str, core: int, **words: str) -> Iterator[Server]:
    """nginx on one core. As a cache it has an access log in a file, as the edge has: both do what a server in operation does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = folder / name
    home.mkdir()
    # Started by root, nginx gives its worker to another user, who must be able to write here.
    for path in (folder, home):
        path.chmod(0o777)
    file = home / "nginx.conf"
    file.write_text(config.format(folder=home, port=port, access_log=home / "access.log", **words))
    command = ["nginx", "-c", str(file), "-p", str(home), "-e", str(home / "error.log")]
    with (home / "output.log").open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command] if core in os.sched_getaffinity(0) else command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, home / "error.log")
        yield Server(url, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            get(url, TARGET)
            return
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-500:] if log.exists() else ""
    raise DemoError(f"nginx did not start: {said or 'it said nothing'}")


def _pin(pid: int, core: int) -> None:
    """All threads of a process that runs, as far as this machine has that many cores."""
    if core in os.sched_getaffinity(0):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def _prove_hit(name: str, url: str, target: str, *, asked_before: bool) -> None:
    """Prove that it is the cache that answers: from the store, and the same bytes as before. Raises DemoError."""
    first = get(url, target)
    second = first if asked_before else get(url, target)
    hit = second.hit if name == "edgecache" else second.headers.get("X-Cache") == "HIT"
    if not hit or second.body != first.body or len(second.body) != 1024:
        raise DemoError(f"{name} does not answer from its cache: {second.status}, {second.headers.as_string()[:400]}")


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants that live."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = (child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split())
    return own + sum(_cpu_seconds(int(child)) for child in children)


def _summary(name: str, runs: list[Run], cpu_us: list[float]) -> Summary:
    rates = [run.per_second for run in runs]
    return Summary(
        name,
        _version(name),
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(run.p50_ms for run in runs),
        statistics.median(run.p99_ms for run in runs),
        round(statistics.median(cpu_us), 2),
        sum(run.errors for run in runs),
    )


def _version(name: str) -> str:
    if name == "nginx":
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False, timeout=10).stderr
        return said.strip().rpartition("/")[2]
    return f"Python {platform.python_version()}"


def _report(figures: Mapping[str, list[Summary]], path: Path | None, runs: int, seconds: int, connections: int) -> None:
    print(f"\n1 KiB on one core: {connections} connections, {runs} runs of {seconds} s, medians")
    for row, summaries in figures.items():
        titles = f"{'per second':>12}{'slowest':>10}{'fastest':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}{'errors':>8}"
        print(f"\n{ROWS[row]:<26}{titles}")
        for s in summaries:
            times = f"{s.p50_ms:>9.2f}{s.p99_ms:>9.2f}{s.cpu_us:>9.2f}{s.errors:>8}"
            print(f"  {s.server:<24}{s.per_second:>12,.0f}{s.slowest:>10,.0f}{s.fastest:>10,.0f}{times}")
        if (ratio := _ratio(summaries)) is not None:
            print(f"  edgecache / nginx: {ratio:.2f}, by CPU time {summaries[1].cpu_us / max(summaries[0].cpu_us, 0.01):.2f}")
    if shutil.which("nginx") is None:
        print("nginx is not installed: no comparison")
    document = {
        "target": TARGET,
        "connections": connections,
        "runs": runs,
        "seconds": seconds,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rows": {
            row: {"servers": [asdict(summary) for summary in summaries], "ratio": _ratio(summaries)}
            for row, summaries in figures.items()
        },
    }
    text = json.dumps(document, indent=2)
    if path is None:
        print(text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        print(f"figures: {path}")


def _ratio(summaries: list[Summary]) -> float | None:
    """The edge's rate as a multiple of the peer's."""
    return summaries[0].per_second / summaries[1].per_second if len(summaries) > 1 else None


def _processor() -> str:
    """As Linux names it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return found[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
