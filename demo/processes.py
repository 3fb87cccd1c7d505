"""The processes that the demo starts: each waits for its ready line, and is stopped by its own id. `__main__` calls it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READY_S = 60.0
STOP_S = 15.0
_POLL_S = 0.05
_TAIL_BYTES = 4000


class DemoError(Exception):
    """The demo cannot go on. The message says why and what to do."""


@dataclass(frozen=True)
class Running:
    """A process that is ready, and what its ready line said."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: re.Match[str]

    def check(self) -> None:
        """Raises DemoError when it has ended."""
        if self.process.poll() is not None:
            raise DemoError(f"{self.name} ended by itself (status {self.process.returncode}):\n{tail(self.log)}")


@contextlib.contextmanager
def started(name: str, command: list[str], ready: str, log: Path) -> Iterator[Running]:
    """Run `python COMMAND…` until the block ends; enters it once a line of its output matches `ready`. Raises DemoError."""
    environment = {key: value for key, value in os.environ.items() if key not in {"EDGECACHE_TOKEN", "EDGECACHE_URL"}}
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal reaches the demo alone, which then stops its processes in order.
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and modules)
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        yield Running(name, process, log, _wait(name, process, re.compile(ready), log))
    finally:
        _stop(process)


def _wait(name: str, process: subprocess.Popen[bytes], ready: re.Pattern[str], log: Path) -> re.Match[str]:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if found := ready.search(log.read_text(errors="replace")):
            return found
        if process.poll() is not None:
            raise DemoError(f"{name} did not start (status {process.returncode}):\n{tail(log)}")
        time.sleep(_POLL_S)
    raise DemoError(f"{name} was not ready after {READY_S:g} s:\n{tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, wait in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)


def tail(log: Path) -> str:
    """The end of a log, indented."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-25:]) or "    (it said nothing)"


def port(wanted: int, *, any_other: bool) -> int:
    """`wanted` when it is free; else 0, which takes a free one, with `any_other`. Raises DemoError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            if any_other:
                return 0
            raise DemoError(
                f"port {wanted} of 127.0.0.1 cannot be used ({error.strerror}): stop what uses it "
                "(another demo?), or run `make demo CHECK=1`, which takes free ports"
            ) from error
    return wanted
