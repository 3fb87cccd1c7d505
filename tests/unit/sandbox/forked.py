"""Runs a function in a fork of the test process, and brings back what it said and which lines it ran."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import coverage


def run_forked(function: Callable[[], Any]) -> Any:
    """The function's result, or its exception as text. It may jail its process: nothing but one pipe is used afterwards."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the child uses none of them
        pid = os.fork()
    if pid == 0:
        try:
            run_forked.pipe = writing  # type: ignore[attr-defined]
            try:
                result = function()
            except BaseException as error:
                result = repr(error)
            payload = memoryview(pickle.dumps((result, _lines())))
            while payload:
                payload = payload[os.write(writing, payload) :]
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not data:
        return f"status {os.waitstatus_to_exitcode(status)}"
    result, lines = pickle.loads(data)
    current = coverage.Coverage.current()
    if current is not None and lines:
        current.get_data().add_lines(lines)
    return result


def _lines() -> dict[str, list[int]]:
    """What the coverage tool, if there is one, has seen here and cannot write to a file any more."""
    current = coverage.Coverage.current()
    collector = getattr(current, "_collector", None)
    data = getattr(collector, "data", {})
    return {str(file): [line for line in lines if isinstance(line, int)] for file, lines in data.items()}
