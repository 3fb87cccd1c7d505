"""Cache hits on one core: the edge against nginx proxy_cache on this machine, same payload, runs in turn. `make bench` runs it.

wrk makes the load, from the other core; each server is pinned to one. A peer that is not installed is said to be missing.
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
from loadtests.guard import must_be_local

TARGET = "/file?_size=1KiB&_cc=public,max-age=86400"
SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
START_S = 15.0
WRK_EXTRA_S = 30.0

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log {access_log};
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=edge:16m max_size=256m inactive=1h use_temp_path=off;
    open_file_cache max=1024 inactive=1h;
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


@dataclass(frozen=True)
class Run:
    """What wrk saw in one run."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


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
    errors: int


def main() -> int:
    """0: measured what is installed; 1: something failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_nginx", description="Cache hits a second on one core.")
    parser.add_argument("--runs", type=int, default=3, help="runs of each server, in turn (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not (1 <= options.runs <= 20 and 1 <= options.seconds <= 120 and 1 <= options.connections <= 1000):
        parser.error("--runs must be from 1 to 20, --seconds from 1 to 120, --connections from 1 to 1000")
    if shutil.which("wrk") is None:
        print("bench: wrk is not installed, so cache hits are not measured (Debian: apt-get install wrk)")
        return 0
    if shutil.which("nginx") is None:
        print("bench: nginx is not installed, so there is nobody to compare with (Debian: apt-get install nginx-light)")
    try:
        with tempfile.TemporaryDirectory(prefix="edgecache-bench-") as folder:
            summaries = _measure(Path(folder), options.runs, options.seconds, options.connections)
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _report(summaries, options.json, options.runs, options.seconds, options.connections)
    return 0 if not any(summary.errors for summary in summaries) else 1


def _measure(folder: Path, runs: int, seconds: int, connections: int) -> list[Summary]:
    with contextlib.ExitStack() as stack:
        origin_command = ["-m", "origin_sim", "--port", "0"]
        origin = stack.enter_context(started("the origin", origin_command, r"ready on (http://[^\s/]+)", folder / "origin.log"))
        servers = {"edgecache": stack.enter_context(_edge(folder, origin.ready[1]))}
        if shutil.which("nginx") is not None:
            servers["nginx"] = stack.enter_context(_nginx(folder, origin.ready[1]))
        for name, url in servers.items():
            _warm(name, url)
        results: dict[str, list[Run]] = {name: [] for name in servers}
        for number in range(runs):
            for name, url in servers.items():
                print(f"bench: {name}, run {number + 1} of {runs}", file=sys.stderr, flush=True)
                results[name].append(_wrk(url, seconds, connections))
        return [_summary(name, results[name]) for name in servers]


@contextlib.contextmanager
def _edge(folder: Path, origin: str) -> Iterator[str]:
    command = ["-m", "edgecache", "serve", "--origin", origin, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    command += ["--state", str(folder / "state")]
    ready = r"serving on (http://[^\s,]+), control on"
    with started("the edge", command, ready, folder / "edge.log") as edge:
        _pin(edge.process.pid, SERVER_CORE)
        yield edge.ready[1]


@contextlib.contextmanager
def _nginx(folder: Path, origin: str) -> Iterator[str]:
    """nginx with an access log to a file, as the edge has one: both do the work of a server that is operated."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = folder / "nginx"
    home.mkdir()
    # Started by root, nginx gives its worker to another user, who must be able to write here.
    for path in (folder, home):
        path.chmod(0o777)
    config = home / "nginx.conf"
    config.write_text(NGINX.format(folder=home, port=port, origin=origin, access_log=home / "access.log"))
    command = ["nginx", "-c", str(config), "-p", str(home), "-e", str(home / "error.log")]
    with (home / "output.log").open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, home / "error.log")
        yield url
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


def _warm(name: str, url: str) -> None:
    """Prove that it is the cache that answers: same bytes twice, the second from the store."""
    first, second = get(url, TARGET), get(url, TARGET)
    hit = second.hit if name == "edgecache" else second.headers.get("X-Cache") == "HIT"
    if not hit or second.body != first.body or len(second.body) != 1024:
        raise DemoError(f"{name} does not answer from its cache: {second.status}, {second.headers.as_string()[:400]}")


def _wrk(url: str, seconds: int, connections: int) -> Run:
    must_be_local(url)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url + TARGET]
    cores = os.sched_getaffinity(0)
    pinned = ["taskset", "-c", str(LOAD_CORE), *command] if LOAD_CORE in cores and shutil.which("taskset") else command
    done = subprocess.run(pinned, capture_output=True, text=True, check=True, timeout=seconds + WRK_EXTRA_S)
    return parse_wrk(done.stdout)


_UNIT_MS: Mapping[str, float] = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def parse_wrk(text: str) -> Run:
    """wrk's report. Raises DemoError when it is none."""
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    quantiles = dict(re.findall(r"^\s+(\d+)%\s+([0-9.]+(?:us|ms|s|m))\s*$", text, re.MULTILINE))
    if rate is None or not {"50", "99"} <= quantiles.keys():
        raise DemoError(f"wrk's report cannot be read: {text[:400]}")
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = sum(map(int, broken.groups())) if broken else 0
    return Run(float(rate[1]), _ms(quantiles["50"]), _ms(quantiles["99"]), errors + (int(wrong[1]) if wrong else 0))


def _ms(text: str) -> float:
    number = text.rstrip("usm")
    return float(number) * _UNIT_MS[text[len(number) :]]


def _summary(name: str, runs: list[Run]) -> Summary:
    rates = [run.per_second for run in runs]
    return Summary(
        name,
        _version(name),
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(run.p50_ms for run in runs),
        statistics.median(run.p99_ms for run in runs),
        sum(run.errors for run in runs),
    )


def _version(name: str) -> str:
    if name == "nginx":
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False, timeout=10).stderr
        return said.strip().rpartition("/")[2]
    return f"Python {platform.python_version()}"


def _report(summaries: list[Summary], path: Path | None, runs: int, seconds: int, connections: int) -> None:
    print(f"\nCache hits of 1 KiB on one core: {connections} connections, {runs} runs of {seconds} s, medians")
    print(f"{'':<12}{'per second':>12}{'slowest':>12}{'fastest':>12}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for s in summaries:
        print(
            f"{s.server:<12}{s.per_second:>12,.0f}{s.slowest:>12,.0f}{s.fastest:>12,.0f}{s.p50_ms:>9.2f}{s.p99_ms:>9.2f}{s.errors:>8}"
        )
    ratio = summaries[0].per_second / summaries[1].per_second if len(summaries) > 1 else None
    print(f"edgecache / nginx: {ratio:.2f}" if ratio is not None else "nginx is not installed: no comparison")
    document = {
        "target": TARGET,
        "connections": connections,
        "runs": runs,
        "seconds": seconds,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "servers": [asdict(summary) for summary in summaries],
        "ratio": ratio,
    }
    text = json.dumps(document, indent=2)
    if path is None:
        print(text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        print(f"figures: {path}")


def _processor() -> str:
    """As Linux names it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return found[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
