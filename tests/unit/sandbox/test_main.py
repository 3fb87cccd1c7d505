"""`python -m sandbox`: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from sandbox.__main__ import main
from sandbox.bench import crowd, figures, neighbour, peers, plots
from sandbox.bench.fairness import Shares, share_error
from sandbox.confinement.seccomp import RULES
from sandbox.errors import SandboxError
from sandbox.jail import Layer
from sandbox.program import Convention, Program
from sandbox.sdk import build
from tests.unit.sandbox.machine_code import DATA, ECHO, LOG, LOOP, RAX, RDI, SYSCALL, call, exit_, image, mov, put, serve


def write(tmp_path: Path, code: bytes) -> str:
    path = tmp_path / "program"
    path.write_bytes(image(code, b"log line\n"))
    return str(path)


def test_a_cgi_program_is_recognised(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code = call(LOG, DATA, 9) + call(0x45440005, DATA, 4, DATA, 4) + put(b"hello") + exit_()
    assert main(["run", write(tmp_path, code)]) == 0
    assert capfdbinary.readouterr() == (b"hello", b"log line\n")


def test_a_resident_program_is_recognised(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"the body")
    path = write(tmp_path, call(1, 2, DATA, 9) + serve(ECHO))
    assert main(["run", path, "--request", str(body)]) == 0
    out, log = capfdbinary.readouterr()
    assert out.endswith(b",the body")
    assert b"REQUEST_METHOD\0POST\0" in out
    assert log == b"log line\n"


def test_a_body_from_stdin(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    code = call(0, 0, DATA, 100) + b"\x48\x89\xc2" + mov(6, DATA) + mov(RDI, 1) + mov(RAX, 1) + SYSCALL + exit_()
    assert main(["run", write(tmp_path, code), "--request", "-", "--convention", "cgi"]) == 0
    assert capfdbinary.readouterr()[0] == b"typed"


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        (exit_(3), [], "exit-status: it exited with status 3"),
        (call(999) + b"\x0f\x0b", [], "invalid-instruction at 0x40100c (system calls that do not exist here: 999)"),
        (LOOP, ["--convention", "cgi", "--cpu-ms", "10"], "more than 10 ms"),
        (call(1, 2, DATA, 9) + exit_(3), ["--convention", "resident"], "boot-failed: exit-status"),
        (b"\xf4", ["--memory", "64KiB"], "raise the memory limit"),
    ],
)
def test_failures_are_one(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], code: bytes, options: list[str], message: str
) -> None:
    assert main(["run", write(tmp_path, code), *options]) == 1
    assert message in capfdbinary.readouterr()[1].decode()


def test_files_that_cannot_be_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none")]) == 1
    assert main(["run", __file__]) == 1
    err = capfd.readouterr().err
    assert "No such file" in err
    assert "not an ELF file" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["walk"],
        ["run"],
        ["run", "x", "--memory", "1"],
        ["run", "x", "--memory", "9GiB"],
        ["run", "x", "--memory", "lots"],
        ["run", "x", "--cpu-ms", "0"],
        ["run", "x", "--cpu-ms", "-1"],
        ["run", "x", "--engine", "abacus"],
        ["bench", "--vms", "0"],
    ],
)
def test_usage_errors_are_two(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capfd.readouterr().err.startswith("python -m sandbox")


TINY = figures.Effort(load_s=0.2, fairness_s=0.3, calls=20, many=(12, 15), saturating=3, neighbour_calls=5, looping=2)


@pytest.mark.timeout(400)
def test_bench_prints_measured_figures(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "QUICK", TINY)
    assert main(["bench", "--quick", "--vms", "3", "--engine", "unicorn", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"engines", "parked_kib", "throughput_ratio_12", "throughput_ratio_15", "fairness_error"}
    assert set(found["engines"]) == {"unicorn"}
    assert set(found["engines"]["unicorn"]) == {
        "resident_call_us",
        "resident_call_p99_us",
        "fork_us",
        "warm_vm_kib",
        "create_and_boot_ms",
        "worker_round_trip_us",
    }
    assert all(value > 0 for key, value in found["engines"]["unicorn"].items() if key != "worker_round_trip_us")
    assert isinstance(found["engines"]["unicorn"]["worker_round_trip_us"], float)  # a difference: on a busy machine of any sign
    assert all(found[f"throughput_ratio_{count}"] > 0 for count in (12, 15))
    assert 0 <= found["fairness_error"] < 2


@pytest.mark.timeout(400)
def test_bench_tells_peers_and_a_neighbour(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "QUICK", TINY)
    monkeypatch.setattr(figures, "_PEERS_FOLDER", None)  # nothing is installed by a test
    assert main(["bench", "--quick", "--vms", "3", "--engine", "unicorn", "--peers"]) == 0
    told = capfd.readouterr().out
    for line in ("alone", "beside 2 that loop", "this sandbox, unicorn", "fork and exec"):
        assert re.search(rf"{line} +\d+ us   p99 \d+ us", told), line
    for peer in ("nginx, fcgiwrap", "wasmtime", "workerd"):
        assert re.search(rf"{peer} +(\d+ us|skipped: .)", told), peer


def test_peers_that_are_missing_are_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    found = {peer.name: peer for peer in peers.measure(b"\x7fELF", 1, lambda _: None, install=None)}
    assert all(peer.found is None and peer.skipped for peer in found.values())
    assert found["wasmtime"].as_json() == {"skipped": "not installed: pip install 'edgecache[bench]'"}
    assert found["workerd"].skipped == "not installed"


def test_a_neighbour_beside_a_generator_that_ends_is_no_measurement() -> None:
    page, ends = Program(image(serve(ECHO)), Convention.RESIDENT), Program(image(serve(b"\x0f\x0b")), Convention.RESIDENT)
    with pytest.raises(SandboxError, match=r"a looping generator ended"):
        asyncio.run(neighbour.measure(page, ends, engine="unicorn", calls=300, looping=1))


def test_a_guest_that_fails_fails_the_benchmark() -> None:
    program = Program(image(serve(b"\x0f\x0b"), b""), Convention.RESIDENT)
    with pytest.raises(SandboxError, match=r"a request failed under load: .*invalid-instruction"):
        asyncio.run(crowd.throughputs(program, (2,), engine="unicorn", seconds=0.1))


def test_popularity_follows_zipf() -> None:
    drawn = Counter(itertools.islice(crowd.zipf(10), 20_000))
    assert set(drawn) == set(range(10))
    assert 1.7 < drawn[0] / drawn[1] < 2.3


def test_plots_are_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    samples = tuple((at / 10, (at, 3 * at)) for at in range(40))
    shares = Shares((1, 3), (40, 120), samples, (2, 3), 2.0)
    drawn = plots.draw(tmp_path / "images", {1: 100.0, 10: 200.0}, shares)
    assert [path.name for path in drawn] == ["throughput.png", "shares.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_plots_without_matplotlib_say_so(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--plots", "x"]) == 1
    assert "needs matplotlib" in capfd.readouterr().err


def test_the_sizes_that_are_reported() -> None:
    assert figures.FULL.many == figures.QUICK.many == (1000, 10_000)


@pytest.mark.parametrize(
    ("weights", "received", "error"),
    [((1, 3), (100, 300), 0.0), ((1, 1), (100, 0), 1.0), ((1, 2, 1), (50, 50, 100), 0.5)],
)
def test_the_fairness_error_is_the_sum_over_all(weights: tuple[int, ...], received: tuple[int, ...], error: float) -> None:
    assert share_error(weights, received) == error


def test_bench_without_a_compiler_says_so(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise build.SdkError("no compiler")

    monkeypatch.setattr("sandbox.bench.guests.compile_c", missing)
    assert main(["bench"]) == 1
    assert capfd.readouterr().err.endswith("sandbox: no compiler\n")


class TestJail:
    def test_it_tells_every_layer_and_every_call_left(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["jail", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {*told["active"], *told["missing"]} == set(Layer)
        assert [call["name"] for call in told["system_calls"]] == [rule.name for rule in RULES]

    def test_it_prints_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["jail"]) == 0
        told = capsys.readouterr().out
        assert "in force  seccomp" in told
        assert all(f"  {rule.name} " in told for rule in RULES)
