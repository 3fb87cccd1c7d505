"""`python -m loadtests.soak`: Locust on an edge of its own while caches are purged, the origin fails and generators are replaced.

Ends with a table and what must be true after any length of it: no wrong body, no descriptor leaked, memory flat.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from demo.processes import DemoError
from demo.stage import ROOT, SITE, Ports, Stage, set_stage
from loadtests.__main__ import locust_command
from sandbox.sdk import EXAMPLES, SdkError

WARM_UP_S = 15
QUIET_S = 8.0
"""After the load, until idle connections and background work have ended."""
FLAT = 0.05
CONFIG = """\
# A small cache, so that it is full, and evicts, long before the soak ends.
listen: 127.0.0.1:0
cache: {memory: 8MiB}
log: {access: access.log}
serve: {keepalive_timeout: 3s}
upstream: {keepalive_timeout: 3s}
"""
FAULTS: tuple[dict[str, str], ...] = (
    {"delay": "300ms"},
    {"status": "503"},
    {"error_rate": "0.5"},
    {"reset_at": "500"},
    {"cl_lie": "+10"},
    {"broken": "garbage"},
    {"broken": "bad-chunk", "chunked": "1"},
    {"broken": "no-answer"},
    {"drip": "20ms", "drip_bytes": "1KiB"},
)


@dataclass
class Seen:
    """What the edge's processes used, at one moment after another."""

    rss_kib: list[int] = field(default_factory=list)
    disturbed: int = 0
    refused: list[str] = field(default_factory=list)
    """Disturbances that the control API or the origin did not take."""


@dataclass(frozen=True)
class Verdict:
    """What is true after the soak."""

    total: int
    wrong: int
    failed: int
    descriptors_before: int
    descriptors_after: int
    rss_early_kib: int
    rss_late_kib: int
    disturbances: int
    refused: tuple[str, ...]

    @property
    def growth(self) -> float:
        return self.rss_late_kib / self.rss_early_kib - 1

    def broken(self) -> list[str]:
        """What is not as it must be."""
        found = []
        if self.wrong or not self.total:
            found.append(f"{self.wrong} wrong bodies of {self.total} answers")
        if self.descriptors_after > self.descriptors_before:
            found.append(f"{self.descriptors_after - self.descriptors_before} descriptors leaked")
        if self.growth > FLAT:
            found.append(f"memory grew by {self.growth:.1%}, more than {FLAT:.0%}")
        return found + [f"refused: {what}" for what in self.refused]


def main() -> int:
    """0: all is as it must be; 1: something is not, or it could not run; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description="A soak test of a whole edge on this machine.")
    parser.add_argument("--seconds", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if not 30 <= options.seconds <= 86_400 or not 1 <= options.users <= 1000:
        parser.error("--seconds must be from 30 to 86400, --users from 1 to 1000")
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=_run_folder()))
    try:
        with contextlib.ExitStack() as stack:
            config = folder / "soak.yaml"
            config.write_text(CONFIG)
            stage = set_stage(stack, folder, Ports(), say=print, edge_arguments=[str(config)])
            verdict = soak(stage, folder, options.users, options.seconds)
    except (DemoError, SdkError, click.ClickException) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**verdict.__dict__, "growth": round(verdict.growth, 4)}, indent=2) + "\n")
    return _tell(verdict)


def soak(stage: Stage, folder: Path, users: int, seconds: int) -> Verdict:
    """Warm up, count descriptors at rest, disturb under load, and count again. Raises DemoError."""
    _load(stage, users, WARM_UP_S, folder / "warm.json")
    before = _at_rest(stage)
    seen = Seen()
    over = threading.Event()
    threads = [
        threading.Thread(target=_disturb, args=(stage, folder, over, seen)),
        threading.Thread(target=_sample, args=(stage, over, seen)),
    ]
    for thread in threads:
        thread.start()
    try:
        figures = _load(stage, users, seconds, folder / "soak.json")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    stage.edge.check()
    _origin_faults(stage, None)
    kinds = figures["kinds"]
    part = max(1, len(seen.rss_kib) // 5)
    return Verdict(
        total=int(figures["total"]),
        wrong=int(kinds.get("wrong", {}).get("count", 0)),
        failed=int(kinds.get("failed", {}).get("count", 0)),
        descriptors_before=before,
        descriptors_after=_at_rest(stage),
        rss_early_kib=int(statistics.median(seen.rss_kib[part : 2 * part])),
        rss_late_kib=int(statistics.median(seen.rss_kib[-part:])),
        disturbances=seen.disturbed,
        refused=tuple(seen.refused),
    )


def _load(stage: Stage, users: int, seconds: int, figures: Path) -> dict[str, Any]:
    """What `tally` has written of the run: `total`, and `kinds` with the count of each."""
    command, environment = locust_command(stage.url.rstrip("/"), users, seconds, str(figures))
    subprocess.run(command, env=environment, check=False, timeout=seconds + 120)
    if not figures.exists():
        raise DemoError("Locust left no figures: see what it printed above")
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def _disturb(stage: Stage, folder: Path, over: threading.Event, seen: Seen) -> None:
    """One disturbance after the other, each kind in turn."""
    chance = random.Random(1)
    versions = itertools.count(2)
    kinds: Iterator[Callable[[], object]] = itertools.cycle(
        (
            lambda: stage.site.post("purge", body={"tag": "hello"}),
            lambda: _origin_faults(stage, chance.choice(FAULTS)),
            lambda: stage.site.post("purge", body={"prefix": f"{stage.url.rstrip('/')}/products", "soft": True}),
            lambda: _new_version(stage, folder, next(versions)),
            lambda: _origin_faults(stage, None),
            lambda: stage.site.post("purge", body={"site": SITE}),
        )
    )
    while not over.wait(0.5):
        try:
            next(kinds)()
            seen.disturbed += 1
        except (click.ClickException, OSError) as error:
            seen.refused.append(str(error)[:300])
            if len(seen.refused) >= 20:
                return


def _new_version(stage: Stage, folder: Path, number: int) -> None:
    """The same program with another manifest, and so a version of its own; every other one is rolled back."""
    bundle = folder / "bundles" / "hello"
    manifest = (EXAMPLES / "hello" / "generator.yaml").read_text()
    (bundle / "generator.yaml").write_text(f"{manifest}env: {{SOAK: '{number}'}}\n")
    stage.push(bundle)
    if number % 2:
        stage.site.post("sites", SITE, "generators", "hello", "rollback")


def _origin_faults(stage: Stage, knobs: dict[str, str] | None) -> None:
    url = stage.origin.ready[1].rstrip("/") + "/_admin/faults"
    data = None if knobs is None else json.dumps({"prefix": "/", "faults": knobs, "times": 20}).encode()
    request = urllib.request.Request(url, data=data, method="DELETE" if knobs is None else "POST")  # noqa: S310 (our own origin)
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        raise OSError(f"the origin did not take {knobs}: {error.read(500).decode()}") from error


def _sample(stage: Stage, over: threading.Event, seen: Seen) -> None:
    while not over.wait(1.0):
        seen.rss_kib.append(_resident_kib(stage.edge.process.pid))


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise DemoError("the edge has ended")


def _at_rest(stage: Stage) -> int:
    """The edge's descriptors once nothing is going on."""
    time.sleep(QUIET_S)
    return len(list(Path(f"/proc/{stage.edge.process.pid}/fd").iterdir()))


def _tell(verdict: Verdict) -> int:
    print(f"soak: {verdict.total:,} answers, {verdict.wrong} wrong, {verdict.failed:,} failed for the origin's faults")
    print(f"soak: {verdict.disturbances} purges, faults and pushes")
    print(f"soak: descriptors at rest {verdict.descriptors_before} before, {verdict.descriptors_after} after")
    print(f"soak: resident memory {verdict.rss_early_kib:,} KiB early, {verdict.rss_late_kib:,} KiB late ({verdict.growth:+.1%})")
    for what in verdict.broken():
        print(f"soak: {what}")
    print("soak: failed" if verdict.broken() else "soak: passed")
    return 1 if verdict.broken() else 0


def _run_folder() -> Path:
    folder = ROOT / ".run"
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
