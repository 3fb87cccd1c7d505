"""What the demo starts, it waits for, watches and stops."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from demo.processes import DemoError, port, started

SERVER = "import sys, time; print('ready on', 42, flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVER}"


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_process_is_stopped_when_the_block_ends(tmp_path: Path) -> None:
    with started("it", ["-c", SERVER], r"ready on (\d+)", tmp_path / "log") as running:
        assert running.ready[1] == "42"
        assert alive(running.process.pid)
        running.check()
    assert not alive(running.process.pid)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.processes.STOP_S", 0.3)
    with started("it", ["-c", STUBBORN], "ready", tmp_path / "log") as running:
        pass
    assert not alive(running.process.pid)


def test_it_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), started("it", ["-c", SERVER], "ready", tmp_path / "log") as running:
        raise KeyboardInterrupt
    assert not alive(running.process.pid)


def test_one_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = ["-c", "import sys; sys.exit('no room')"]
    with (
        pytest.raises(DemoError, match=r"(?s)it did not start \(status 1\).*no room"),
        started("it", command, "x", tmp_path / "log"),
    ):
        pass


def test_one_that_is_never_ready_is_stopped_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.processes.READY_S", 0.3)
    with pytest.raises(DemoError, match="was not ready after"), started("it", ["-c", SERVER], "never", tmp_path / "log"):
        pass


def test_one_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    command = ["-c", "print('ready', flush=True)"]
    with started("it", command, "ready", tmp_path / "log") as running:
        running.process.wait(20)
        with pytest.raises(DemoError, match="ended by itself"):
            running.check()


def test_tokens_of_the_user_are_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECACHE_TOKEN", "secret")
    command = ["-c", f"import os; print('found', os.environ.get('EDGECACHE_TOKEN'), flush=True); {SERVER}"]
    with started("it", command, r"found (\w+)", tmp_path / "log") as running:
        assert running.ready[1] == "None"


def test_a_port_that_is_taken_is_told_or_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(DemoError, match=f"port {number} of 127.0.0.1 cannot be used"):
            port(number, any_other=False)
        assert port(number, any_other=True) == 0
