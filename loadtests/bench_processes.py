"""Cache hits, or misses, of one serving process against several, runs in turn: `python -m loadtests.bench_processes`.

wrk has no core of its own here: it shares them all with the edge, so the rate says what the machine does as a whole. What the
edge itself can do is told by its CPU time: requests a CPU-second, of the leader and all serving processes together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from demo.processes import DemoError, started
from loadtests.wrk import FRESH, Run, wrk

TARGET = "/file?_size=1KiB&_cc=public,max-age=86400"
CONNECTIONS = 64
ANY_CORE = -1
"""No core has this number: wrk is not pinned."""
WARM_S = 2


@dataclass(frozen=True)
class Summary:
    """Several runs against one edge: medians."""

    processes: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cores_used: float
    """CPU seconds of the edge, a second."""
    cpu_us: float
    """CPU time of the edge, a request."""
    per_cpu_second: float
    busiest: float
    """The part of the edge's CPU time that its busiest process took: 1/processes where the load is spread evenly."""
    errors: int


def main() -> int:
    """0: measured; 1: something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench_processes", description="One serving process against several."
    )
    parser.add_argument("--processes", default="1,2", help="how many, in turn (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="default: %(default)s")
    parser.add_argument("--misses", action="store_true", help="no URL twice, instead of hits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    counts = [int(count) for count in options.processes.split(",") if count.isdigit() and 1 <= int(count) <= 64]
    if not counts or not (1 <= options.runs <= 20 and 1 <= options.seconds <= 120 and 1 <= options.connections <= 1000):
        parser.error("--processes takes numbers with commas between; --runs 1 to 20, --seconds 1 to 120, --connections 1 to 1000")
    if shutil.which("wrk") is None:
        print("bench: wrk is not installed, so nothing is measured (Debian: apt-get install wrk)")
        return 0
    # As an exception, so that the edges are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="edgecache-bench-") as folder:
            figures = _measure(
                Path(folder),
                counts,
                runs=options.runs,
                seconds=options.seconds,
                connections=options.connections,
                misses=options.misses,
            )
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    kind = "Misses" if options.misses else "Hits"
    _report(kind, figures, options.json, connections=options.connections, runs=options.runs, seconds=options.seconds)
    return 1 if any(summary.errors for summary in figures) else 0


def _measure(folder: Path, counts: list[int], *, runs: int, seconds: int, connections: int, misses: bool) -> list[Summary]:
    with contextlib.ExitStack() as stack:
        command = ["-m", "origin_sim", "--port", "0"]
        origin = stack.enter_context(started("the origin", command, r"ready on (http://[^\s/]+)", folder / "origin.log")).ready[1]
        edges = {count: stack.enter_context(_edge(folder, origin, count)) for count in counts}
        seen: dict[int, list[tuple[Run, dict[int, float]]]] = {count: [] for count in counts}
        for url, _ in edges.values():
            wrk(url + TARGET, WARM_S, connections, core=ANY_CORE)
        for number in range(runs):
            for count, (url, pid) in edges.items():
                print(f"bench: {count} processes, run {number + 1} of {runs}", file=sys.stderr, flush=True)
                script = _fresh(folder, number) if misses else None
                before = _cpu_seconds(pid)
                run = wrk(url if script else url + TARGET, seconds, connections, core=ANY_CORE, script=script)
                after = _cpu_seconds(pid)
                seen[count].append((run, {each: after[each] - before.get(each, 0.0) for each in after}))
        return [_summary(count, results) for count, results in seen.items()]


def _fresh(folder: Path, run: int) -> Path:
    """What wrk asks for in a run of misses."""
    path = folder / f"misses-{run}.lua"
    path.write_text(FRESH.format(target=f"{TARGET}&run={run}&n="))
    return path


@contextlib.contextmanager
def _edge(folder: Path, origin: str, processes: int) -> Iterator[tuple[str, int]]:
    command = ["-m", "edgecache", "serve", "--origin", origin, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    command += ["--processes", str(processes), "--state", str(folder / f"state-{processes}")]
    ready = r"serving on (http://[^\s,]+), control on"
    with started("the edge", command, ready, folder / f"edge-{processes}.log") as edge:
        yield edge.ready[1], edge.process.pid


def _cpu_seconds(pid: int) -> dict[int, float]:
    """User and system time of a process and its descendants that live, by process id."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found = {pid: (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= _cpu_seconds(int(child))
    return found


def _summary(processes: int, results: list[tuple[Run, dict[int, float]]]) -> Summary:
    runs = [run for run, _ in results]
    used = [sum(by_process.values()) for _, by_process in results]
    cpu_us = statistics.median(cpu / max(run.requests, 1) * 1e6 for run, cpu in zip(runs, used, strict=True))
    return Summary(
        processes=processes,
        per_second=statistics.median(run.per_second for run in runs),
        p50_ms=statistics.median(run.p50_ms for run in runs),
        p99_ms=statistics.median(run.p99_ms for run in runs),
        cores_used=statistics.median(cpu / run.seconds for run, cpu in zip(runs, used, strict=True)),
        cpu_us=cpu_us,
        per_cpu_second=1e6 / cpu_us,
        busiest=statistics.median(max(by_process.values()) / max(sum(by_process.values()), 0.01) for _, by_process in results),
        errors=sum(run.errors for run in runs),
    )


def _report(kind: str, figures: list[Summary], path: Path | None, *, connections: int, runs: int, seconds: int) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"\n{kind} of 1 KiB, {connections} connections, {runs} runs of {seconds} s, medians; {cores} cores, shared with wrk")
    titles = f"{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'cores':>7}{'CPU µs':>8}{'per CPU-s':>11}{'busiest':>9}"
    print(f"{'processes':>9}{titles}{'errors':>8}")
    for s in figures:
        numbers = f"{s.per_second:>12,.0f}{s.p50_ms:>9.2f}{s.p99_ms:>9.2f}{s.cores_used:>7.2f}{s.cpu_us:>8.2f}"
        print(f"{s.processes:>9}{numbers}{s.per_cpu_second:>11,.0f}{s.busiest:>9.2f}{s.errors:>8}")
    first, last = figures[0], figures[-1]
    if first is not last:
        print(
            f"  {last.processes} against {first.processes}: {last.per_second / first.per_second:.2f} by rate, "
            f"{last.per_cpu_second / first.per_cpu_second:.2f} by CPU time"
        )
    document = {
        "kind": kind.lower(),
        "target": TARGET,
        "connections": connections,
        "runs": runs,
        "seconds": seconds,
        "machine": {"cores": cores, "kernel": platform.release()},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "edges": [asdict(summary) for summary in figures],
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n")
        print(f"figures: {path}")


if __name__ == "__main__":
    sys.exit(main())
