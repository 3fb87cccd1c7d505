"""`edgecache serve` as a user runs it: a process with a ready line, a cache for any host, and a clean end on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.processes import started
from demo.stage import EDGE_READY
from demo.visit import get
from origin_sim.proof import mismatch
from origin_sim.server import Shop
from tests.integration.process_support import alive, serving

FREE = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")


def serve(*arguments: str, state: Path) -> list[str]:
    return ["-m", "edgecache", "serve", *FREE, "--state", str(state), *arguments]


async def test_an_origin_is_all_it_needs(tmp_path: Path) -> None:
    async with Shop(host="127.0.0.1", port=0) as shop:

        def visit() -> None:
            command = serve("--origin", shop.url, state=tmp_path / "state")
            with started("the edge", command, EDGE_READY, tmp_path / "log") as edge:
                for host in ("a.test", "b.test"):
                    first, second = (get(edge.ready[1], "/products", {"Host": host}) for _ in range(2))
                    assert (first.status, first.hit, second.hit) == (200, False, True)
                    assert mismatch("/products", second.headers, second.body) is None  # type: ignore[arg-type]
                assert (tmp_path / "state" / "operator.token").stat().st_mode & 0o777 == 0o600
                command = ["status", "--json", "--url", edge.ready[2], "--state", str(tmp_path / "state")]
                done = subprocess.run([sys.executable, "-m", "edgecache", *command], capture_output=True, check=False, timeout=30)
                assert done.returncode == 0, done.stderr
                assert b'"default"' in done.stdout

        await asyncio.to_thread(visit)


@pytest.mark.parametrize("origin", [True, False])
def test_it_ends_on_sigterm_with_status_0_and_has_said_whether_it_serves_anything(tmp_path: Path, origin: bool) -> None:
    command = serve(*(["--origin", "http://127.0.0.1:9"] if origin else []), state=tmp_path / "state")
    with started("the edge", command, EDGE_READY, tmp_path / "log") as edge:
        edge.process.send_signal(signal.SIGTERM)
        assert edge.process.wait(20) == 0
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert ("nothing is served until a site is declared" in said) is not origin


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["--listen", "nowhere"], "--listen: must be HOST:PORT", 2),
        (["--pidfile", "/nowhere/pid"], "the file /nowhere/pid cannot be written: No such file or directory", 1),
        (["--pidfile", "/"], "cannot be written", 1),
        (["--engine", "qemu"], "--engine: must be one of auto, unicorn, kvm", 2),
        (["--origin", "ftp://x"], "--origin", 2),
        (["--control", "0.0.0.0:0"], "loopback", 2),
        (["absent.yaml"], "absent.yaml: cannot be read", 1),
    ],
)
def test_what_it_cannot_do_is_told(tmp_path: Path, arguments: list[str], says: str, code: int) -> None:
    done = _failing(*arguments, state=tmp_path, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _failing("--listen", f"127.0.0.1:{taken.getsockname()[1]}", state=tmp_path)
    assert "in use" in done.stderr
    assert "Errno" not in done.stderr
    assert "--listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_that_another_edge_holds_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with started("the edge", serve(state=state), EDGE_READY, tmp_path / "log"):
        done = _failing(state=state)
    assert "lock is held by another edge" in done.stderr
    assert "internal error" not in done.stderr


def _failing(*arguments: str, state: Path, code: int = 1) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGECACHE_")}
    command = [sys.executable, *serve(*arguments, state=state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == code, done.stderr
    return done


def _gone(pids: list[int], within: float = 30) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_serving_processes_end_with_the_one_that_leads_them(tmp_path: Path, number: signal.Signals) -> None:
    with started("the edge", serve("--processes", "2", state=tmp_path / "state"), EDGE_READY, tmp_path / "log") as edge:
        pids = serving(edge.process.pid)
        assert len(pids) == 2
        host, port = edge.ready[1].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):
            edge.process.send_signal(number)
            assert edge.process.wait(30) == (0 if number is signal.SIGTERM else -number)
            assert _gone(pids)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_two_edges_do_not_share_a_port_by_mistake(tmp_path: Path) -> None:
    with started("the edge", serve("--processes", "2", state=tmp_path / "state"), EDGE_READY, tmp_path / "log") as edge:
        address = edge.ready[1].removeprefix("http://")
        done = _failing("--listen", address, "--processes", "2", state=tmp_path / "other")
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("count", ["0", "many", "1000"])
def test_a_number_of_processes_that_cannot_be_is_told(tmp_path: Path, count: str) -> None:
    done = _failing("--processes", count, state=tmp_path, code=2)
    assert "--processes: must be auto or a whole number from 1 to 256" in done.stderr


@pytest.mark.parametrize("low", [True, False])
def test_it_may_open_as_many_files_as_it_is_allowed_to(tmp_path: Path, low: bool) -> None:
    """Most environments have a soft limit of 1024, beyond which the event loop closes connections without a word."""
    hard = 512 if low else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1]))); "
    limited += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = ["-c", limited, str(hard), *serve(state=tmp_path / "state")]
    with started("the edge", command, EDGE_READY, tmp_path / "log") as edge:
        limits = Path(f"/proc/{edge.process.pid}/limits").read_text()
        assert re.search(rf"Max open files\s+{hard}\s+{hard}\s", limits)
    assert ("512 files may be open" in (tmp_path / "log").read_text()) is low


def test_a_state_that_was_lost_is_not_called_a_first_start(tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    for lost in (False, True):
        if lost:
            (state / "state.sqlite").write_bytes(b"")
        with started("the edge", serve(state=state), EDGE_READY, log):
            token = (state / "operator.token").read_text()
        assert ("first start: the operator's token is in" in log.read_text()) is not lost
        assert ("is empty, though this is no first start" in log.read_text()) is lost
    with started("the edge", serve(state=state), EDGE_READY, log):
        assert (state / "operator.token").read_text() == token
    assert "first start" not in log.read_text()
