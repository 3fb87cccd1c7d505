"""Invariant: no sequence of system calls raises in the monitor, touches the host, or breaks the machine's own rules.

Two fuzzers, one guest (`call_guest.py`): hypothesis chooses numbers, pointers and lengths that are wild, or nearly right;
atheris (`fuzz_calls.py`) lets coverage of the handlers choose. FUZZ_EXAMPLES in the environment makes the first longer.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sandbox.guest.calls import CALLS
from sandbox.limits import MIB
from sandbox.pages.paging import PAGE
from tests.hostile.call_guest import DATA, END, ODD_ADDRESSES, ODD_LENGTHS, ODD_NUMBERS, CallGuest
from tests.unit.sandbox.machine_code import TEXT

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = st.one_of(
    st.sampled_from(ODD_ADDRESSES),
    st.integers(TEXT - PAGE, END + PAGE),
    st.integers(0, (MIB // PAGE) + 1).map(lambda page: TEXT + page * PAGE),
)
LENGTHS = st.one_of(
    st.integers(0, 4 * PAGE),
    st.integers(0, MIB // PAGE).map(lambda pages: pages * PAGE),
    st.sampled_from(ODD_LENGTHS),
)
SMALL = st.one_of(st.integers(0, 70), st.sampled_from(ODD_NUMBERS))
ANY = st.one_of(ADDRESSES, LENGTHS, SMALL, st.integers(0, (1 << 64) - 1))
MEMORY_CALLS = st.sampled_from([9, 10, 11, 12, 25, 28])


class Guest(RuleBasedStateMachine):
    """One guest's life: any calls, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = CallGuest()
        self.make = self.guest.make
        self.steps = 0

    def teardown(self) -> None:
        try:
            self.guest.check()
            self.guest.reset()
        finally:
            self.guest.close()

    @rule(number=st.sampled_from(sorted(CALLS)), args=st.tuples(*[ANY] * 6))
    def anything(self, number: int, args: tuple[int, ...]) -> None:
        self.make(number, args)

    @rule(number=st.integers(0, (1 << 64) - 1), args=st.tuples(*[ANY] * 6))
    def any_number(self, number: int, args: tuple[int, ...]) -> None:
        self.make(number, args)

    @rule(number=MEMORY_CALLS, address=ADDRESSES, length=LENGTHS, third=SMALL, flags=SMALL, fd=SMALL)
    def memory(self, number: int, address: int, length: int, third: int, flags: int, fd: int) -> None:
        self.make(number, (address, length, third, flags, fd, 0))

    @rule(address=ADDRESSES, old=LENGTHS, new=LENGTHS)
    def move(self, address: int, old: int, new: int) -> None:
        self.make(25, (address, old, new, 1, 0, 0))

    @rule(fd=st.integers(0, 8), address=ADDRESSES, length=LENGTHS, number=st.sampled_from([0, 1, 17, 19, 20, 217, 8, 5, 33]))
    def file(self, fd: int, address: int, length: int, number: int) -> None:
        self.make(number, (fd, address, length, 0, 0, 0))

    @rule(path=st.sampled_from([0, 2, 4, 7, 10, 15, 25, 38, 50]), flags=st.sampled_from([0, 1, 2, 0o100, 0o200000, 0o1000]))
    def open(self, path: int, flags: int) -> None:
        self.make(2, (DATA + path, flags, 0, 0, 0, 0))

    @invariant()
    def the_machine_keeps_its_rules(self) -> None:
        """Every tenth step will do."""
        self.steps += 1
        if self.steps % 10 == 0:
            self.guest.check()


TestCalls = Guest.TestCase
TestCalls.settings = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def fuzz(tmp_path: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Four seconds of atheris in a process of its own, from the fixed seeds; `before` it, some Python."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: the second fuzzer does not run here")
    program = f"{before}\nfrom tests.hostile import fuzz_calls\nfuzz_calls.main(['fuzz_calls', *{_BOUNDS!r}])"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


_BOUNDS = ("-max_total_time=4", "-seed=1", "-timeout=20")


def test_coverage_finds_nothing_that_a_call_breaks(tmp_path: Path) -> None:
    done = fuzz(tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(tmp_path.iterdir()) == []


def test_the_second_fuzzer_finds_a_handler_that_raises(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "from sandbox.guest import calls\ncalls.CALLS[39] = calls.CallRow('getpid', lambda *_: 1 // 0)")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["crash"]
