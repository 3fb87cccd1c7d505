"""A worker's CPU time: every thread's is counted, late by no more than is promised, and never goes back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sandbox.dispatch.cpuclock import SUM_EVERY_NS, CpuClock

_BUSY = """
import sys, threading, time
def burn():
    until = time.thread_time_ns() + 100_000_000
    while time.thread_time_ns() < until: pass
sys.stdin.readline()
if sys.argv[1] == "main": burn()
else:
    thread = threading.Thread(target=burn); thread.start(); thread.join()
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["main", "other"])
def burning(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that uses 100 ms of CPU time in one of its threads, when told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BUSY, request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def _turn(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


@pytest.mark.parametrize("many_threads", [False, True])
def test_time_of_every_thread_is_counted(burning: subprocess.Popen[str], many_threads: bool) -> None:
    clock = CpuClock(burning.pid, many_threads=many_threads)
    before = clock.read_ns()
    _turn(burning)
    time.sleep(SUM_EVERY_NS / 1e9)
    used = clock.read_ns() - before
    assert 100_000_000 <= used < 10_000_000_000
    again = clock.read_ns()
    burning.kill()
    burning.wait()
    assert clock.read_ns() == clock.read_ns() >= again
    clock.close()
    clock.close()


def test_a_process_that_never_was_has_used_nothing() -> None:
    clock = CpuClock(2**22, many_threads=True)
    assert clock.read_ns() == 0
    clock.close()
