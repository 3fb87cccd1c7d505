"""What the benchmark measures is what its rows say: figures from runs, ratios, URLs, and filling a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from demo.processes import DemoError
from loadtests.bench.report import Ratio, document, ratios, summarise, table
from loadtests.bench.rows import ROWS, Asked, Row
from loadtests.bench.warming import warm
from loadtests.wrk import Run, parse_wrk

REPORT = """\
Running 3s test @ http://127.0.0.1:1
  Latency Distribution
     50%  270.00us
     75%    0.31ms
     90%    0.40ms
     99%    1.02ms
  316986 requests in 3.00s, 400.00MB read
Requests/sec: 105662.00
Transfer/sec:    130.00MB
"""


def test_wrks_report_is_read() -> None:
    assert parse_wrk(REPORT) == Run(per_second=105662.0, p50_ms=0.27, p99_ms=1.02, errors=0, requests=316986, seconds=3.0)


def test_a_summary_holds_medians_and_the_spread() -> None:
    runs = [Run(rate, p50_ms=rate / 10, p99_ms=rate, errors=1, requests=10, seconds=1) for rate in (30.0, 10.0, 20.0)]
    summary = summarise("edgecache", runs, [3.0, 1.0, 2.0])
    assert (summary.per_second, summary.slowest, summary.fastest) == (20.0, 10.0, 30.0)
    assert (summary.p50_ms, summary.p99_ms, summary.cpu_us, summary.errors) == (2.0, 20.0, 2.0, 3)


def test_ratios_are_the_edges_figures_over_each_peers() -> None:
    edge = summarise("edgecache", [Run(200, 1, 3, 0, 1, 1)], [10])
    peers = [summarise(name, [Run(rate, 2, 1, 0, 1, 1)], [20]) for name, rate in (("nginx", 100), ("varnish", 400))]
    assert ratios([edge, *peers]) == [Ratio("nginx", 2.0, 0.5, 3.0, 0.5), Ratio("varnish", 0.5, 0.5, 3.0, 0.5)]
    assert ratios(peers) == []
    assert [line.split()[-3:] for line in table({ROWS[0]: [edge, *peers]}).splitlines()[3:]] == [
        ["2.00", "3.00", "0.50"],
        ["0.50", "3.00", "0.50"],
    ]
    assert document({ROWS[0]: [edge]})[ROWS[0].name]["servers"][0]["server"] == "edgecache"


def test_rows_do_not_share_urls(tmp_path: Path) -> None:
    assert len({row.path for row in ROWS}) == len(ROWS)
    fresh = next(row for row in ROWS if row.asked is Asked.FRESH)
    first, second = (fresh.script(tmp_path, run) for run in (0, 1))
    assert first is not None and second is not None and first.read_text() != second.read_text()


@contextmanager
def server(body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Answers every GET with `body`, and keeps its targets."""
    seen: list[str] = []

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", seen
        finally:
            listening.shutdown()
            thread.join()


def test_warming_asks_each_url_once() -> None:
    row = Row("test", "", 1024, Asked.ZIPF, urls=500)
    targets = [row.target(number) for number in range(1, 501)]
    with server(b"x" * 1024) as (url, seen):
        warm(url, targets, 1024)
    assert sorted(seen) == sorted(targets)


def test_warming_refuses_other_bodies() -> None:
    with server(b"short") as (url, _), pytest.raises(DemoError, match="was answered with"):
        warm(url, ["/a"], 1024)
