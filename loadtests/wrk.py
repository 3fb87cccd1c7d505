"""wrk: what it is told to ask for, how it is run, and how its report is read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.processes import DemoError
from loadtests.guard import must_be_local

_EXTRA_S = 30.0

ZIPF = """\
local count, draws, target = {count}, 65536, "{target}"
local order, turn = {{}}, 0
function init(args)
  math.randomseed(1)
  local requests, sums, total = {{}}, {{}}, 0
  for rank = 1, count do
    total = total + 1 / rank
    sums[rank], requests[rank] = total, wrk.format("GET", target .. rank)
  end
  for draw = 1, draws do
    local sought, low, high = math.random() * total, 1, count
    while low < high do
      local middle = math.floor((low + high) / 2)
      if sums[middle] < sought then low = middle + 1 else high = middle end
    end
    order[draw] = requests[low]
  end
end
function request()
  turn = turn % draws + 1
  return order[turn]
end
"""
"""Draws from `count` URLs, the n-th as often as 1/n; the same draws in each run."""

FRESH = """\
local target, turn = "{target}", 0
function request()
  turn = turn + 1
  return wrk.format("GET", target .. turn)
end
"""
"""No URL twice."""


@dataclass(frozen=True)
class Run:
    """What wrk saw in one run."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    requests: int
    seconds: float


def wrk(url: str, seconds: int, connections: int, *, core: int, script: Path | None = None) -> Run:
    """One run, on `core` where this machine has it. Raises DemoError, or CalledProcessError when wrk fails."""
    must_be_local(url)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(script), url] if script else [url]
    if core in os.sched_getaffinity(0) and shutil.which("taskset"):
        command = ["taskset", "-c", str(core), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + _EXTRA_S)
    return parse_wrk(done.stdout)


_UNIT_MS: Mapping[str, float] = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def parse_wrk(text: str) -> Run:
    """wrk's report. Raises DemoError when it is none."""
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    total = re.search(r"(\d+) requests in ([0-9.]+(?:us|ms|s|m)),", text)
    quantiles = dict(re.findall(r"^\s+(\d+)%\s+([0-9.]+(?:us|ms|s|m))\s*$", text, re.MULTILINE))
    if rate is None or total is None or not {"50", "99"} <= quantiles.keys():
        raise DemoError(f"wrk's report cannot be read: {text[:400]}")
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Run(
        per_second=float(rate[1]),
        p50_ms=_ms(quantiles["50"]),
        p99_ms=_ms(quantiles["99"]),
        errors=(sum(map(int, broken.groups())) if broken else 0) + (int(wrong[1]) if wrong else 0),
        requests=int(total[1]),
        seconds=_ms(total[2]) / 1000,
    )


def _ms(text: str) -> float:
    number = text.rstrip("usm")
    return float(number) * _UNIT_MS[text[len(number) :]]
