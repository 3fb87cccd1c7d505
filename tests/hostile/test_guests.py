"""Real programs, well-behaved and hostile, each to its named end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.limits import DEFAULT_LIMITS, MIB, SECOND_NS, Limits
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.vm import Vm, load
from tests.hostile.guests import compiled
from tests.unit.sandbox.machine_code import GET, TEXT, Result, Seg, boot, elf, finish, image, serve_once

pytestmark = pytest.mark.timeout(400)  # the first build on a machine compiles the C library

LIMITS = replace(DEFAULT_LIMITS, cpu_ns=2 * SECOND_NS, memory_bytes=32 * MIB)


def run(name: str, request: GuestRequest = GET, limits: Limits = LIMITS, **more: object) -> Result:
    template = load(replace(Program(compiled(name), Convention.CGI, name), **more), limits)  # type: ignore[arg-type]
    vm = Vm(template, "unicorn")
    try:
        vm.begin(request, limits)
        return finish(vm)
    finally:
        vm.close()
        template.close()


def test_a_cgi_program_with_a_c_library() -> None:
    result = run(
        "hello_cgi",
        GuestRequest(((b"REQUEST_METHOD", b"POST"),), b"a=1"),
        args=("-x",),
        env=(("GREETING", "hi"),),
        files=(("templates/page.txt", b"page"), ("templates/other", b"")),
    )
    assert result.end == "finished", result
    assert result.output.decode() == (
        "Content-Type: text/plain\n\n-x POST hi 3:a=1\npage 4 4 0 999 x 1.414214\n1 / 0\n"
    )  # fmt: skip
    assert result.log == b"logged\n"
    assert result.outcome.usage.unknown_calls == ()


def test_a_resident_program_starts_every_request_from_the_same_state() -> None:
    template = boot(Program(compiled("resident_state"), Convention.RESIDENT, files=(("data", b"xyz"),)), LIMITS)
    vm = Vm(template, "unicorn")
    outputs = {serve_once(vm, limits=LIMITS).output for _ in range(5)}
    assert len(outputs) == 1, outputs
    assert outputs.pop().startswith(b"Content-Type: text/plain\n\n1 1 initial 1.00 fd3 x 0 0x")
    vm.close()
    template.close()


def test_recursion_ends_in_the_guard() -> None:
    result = run("recursion")
    assert (result.end, result.outcome.detail.split()[0]) == ("fault", "stack")


def test_endless_allocation_ends_at_the_memory_limit() -> None:
    result = run("allocate")
    assert result.end == "memory-limit"
    assert "refused" in result.outcome.detail


def test_no_program_runs_what_it_made() -> None:
    result = run("make_code")
    assert result.output == b"refused\n" * 3
    assert (result.end, result.outcome.detail.split()[0]) == ("fault", "execute")


def test_wild_pointers_are_the_guests_problem() -> None:
    result = run("wild")
    assert result.end == "finished", result
    assert result.output.endswith(b"alive\n")


def test_a_flood_of_log_ends_at_a_limit() -> None:
    result = run("log_flood", limits=replace(LIMITS, system_calls=20_000))
    assert result.end in ("system-call-limit", "cpu-limit")
    assert len(result.log) == LIMITS.log_bytes
    assert result.outcome.usage.log_dropped_bytes > 0


def test_there_are_no_processes_and_no_threads() -> None:
    result = run("fork_bomb")
    assert result.output == b"Content-Type: text/plain\n\n-1 1\n"
    assert {56, 57, 59} & set(result.outcome.usage.unknown_calls)


def sandbox(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments], input=stdin, capture_output=True, timeout=120, check=False
    )


def test_bytes_that_kill_the_engine_kill_that_process_alone(tmp_path: Path) -> None:
    """`FF D8` (far call through a register) aborts Unicorn: unicorn#1716. Whatever it does, it is contained in the process."""
    path = tmp_path / "ffd8"
    path.write_bytes(image(b"\xff\xd8"))
    done = sandbox("run", "--convention", "cgi", str(path))
    assert done.returncode not in (0, 2)


@pytest.mark.parametrize("seed", range(3))
def test_random_instructions_end_in_named_ways(seed: int) -> None:
    command = [sys.executable, "-m", "tests.hostile.random_code", str(seed), "300"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done
    ends = json.loads(done.stdout)
    assert sum(ends.values()) == 300
    assert set(ends) <= {"fault", "cpu-limit", "no-answer", "exit-status", "system-call-limit", "finished", "memory-limit"}


def test_run_prints_output_and_log(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(compiled("wild"))
    done = sandbox("run", str(path), "--cpu-ms", "5000", "--memory", "16MiB")
    assert (done.returncode, done.stdout[-6:]) == (0, b"alive\n"), done


def test_an_unmodified_static_binary_runs_as_cgi() -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    program = Program(
        Path(busybox).read_bytes(), Convention.CGI, "busybox", ("cat", "hello.txt", "-"), files=(("hello.txt", b"from a file\n"),)
    )
    try:
        template = load(program, LIMITS)
    except ImageError as error:
        pytest.skip(f"not static: {error}")
    vm = Vm(template, "unicorn")
    vm.begin(GuestRequest((), b"from the body\n"), LIMITS)
    result = finish(vm)
    vm.close()
    template.close()
    assert (result.end, result.output) == ("finished", b"from a file\nfrom the body\n"), result


def test_an_image_of_garbage_text_faults() -> None:
    for byte in (b"\x0f", b"\xff", b"\x66", b"\xf0"):
        template = load(Program(elf_of(byte * 64), Convention.CGI), LIMITS)
        vm = Vm(template, "unicorn")
        vm.begin(GET, LIMITS)
        assert finish(vm).end == "fault"
        vm.close()
        template.close()


def elf_of(code: bytes) -> bytes:
    return elf([Seg(TEXT, code, 5)])
