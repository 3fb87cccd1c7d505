"""The thread's own data segment selectors: null in a program as Linux starts it, and suspected where they cannot be read."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest

from sandbox.engines import selectors


def test_they_are_null_in_a_thread_that_has_run_no_guest() -> None:
    program = "from sandbox.engines.selectors import reader; print(reader()())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0\n"


def test_where_no_page_can_be_had_they_are_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert selectors.reader()() != 0


def test_where_no_code_can_be_mapped_they_are_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "_mprotect", lambda *_: -1)
    assert selectors.reader()() != 0
