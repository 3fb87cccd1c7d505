"""Programs by RFC 3875: what they find on their stack and stdin, and what counts as an answer."""

from __future__ import annotations

import struct

from sandbox.limits import MIB
from sandbox.request import GuestRequest
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    GET,
    LIMITS,
    RAX,
    RDI,
    RDX,
    RSI,
    SYSCALL,
    call,
    exit_,
    finish,
    mov,
    program,
    put,
    run,
)


def test_cgi_finishes_with_status_zero_and_output(engine: str) -> None:
    result = run(put(b"Status: 200\n\nhello") + exit_(), engine=engine)
    assert (result.end, result.output) == ("finished", b"Status: 200\n\nhello")
    assert result.outcome.usage.output_bytes == 18
    assert result.outcome.usage.system_calls == 2
    assert result.outcome.usage.pages_written >= 1
    assert result.outcome.usage.cpu_ns > 0


def test_cgi_without_output_is_no_answer(engine: str) -> None:
    assert run(exit_(), engine=engine).end == "no-answer"


def test_cgi_with_a_status_is_a_failure_even_with_output(engine: str) -> None:
    result = run(put(b"half") + exit_(3), engine=engine)
    assert (result.end, result.outcome.detail) == ("exit-status", "it exited with status 3")


def test_cgi_reads_its_environment_from_the_stack_and_its_body_from_stdin(engine: str) -> None:
    request = GuestRequest(((b"REQUEST_METHOD", b"POST"), (b"CONTENT_LENGTH", b"999")), b"name=value")
    # the stack's first words: argc, argv[0], NULL, envp[0], envp[1], …
    code = b"\x48\x8b\x74\x24\x18" + mov(RDI, 1) + mov(RDX, 17) + mov(RAX, 1) + SYSCALL
    code += b"\x48\x8b\x74\x24\x20" + mov(RDI, 1) + mov(RDX, 20) + mov(RAX, 1) + SYSCALL
    code += call(0, 0, DATA, 100) + b"\x48\x89\xc2" + mov(RSI, DATA) + mov(RDI, 1) + mov(RAX, 1) + SYSCALL + exit_()
    result = run(code, request, engine=engine)
    assert result.output == b"CONTENT_LENGTH=10" + b"REQUEST_METHOD=POST\0" + b"name=value"


def test_the_stack_is_as_the_abi_wants_it(engine: str) -> None:
    template = load(program(exit_(), args=("-v",), env=(("LANG", "C"),)), LIMITS)
    vm = Vm(template, engine)
    vm.begin(GET, LIMITS)
    pointer = vm._vcpu.save().gprs[7]
    read = vm._process.access.read
    assert pointer % 16 == 0
    top = template.loaded.space.stack_top
    words = list(struct.unpack(f"<{(top - pointer) // 8}Q", read(pointer, (top - pointer) // 8 * 8)))
    assert words[0] == 2
    assert [read(a, 8).split(b"\0")[0] for a in words[1:3]] == [b"program", b"-v"]
    assert words[3] == 0
    assert words[7] == 0
    assert [vm._process.access.read_path(a) for a in words[4:7]] == [b"LANG=C", b"REQUEST_METHOD=GET", b"PATH_INFO=/"]
    vector = dict(zip(words[8::2], words[9::2], strict=False))
    assert vector[6] == 4096
    assert vector[9] == template.cpu.rip
    assert len(set(read(vector[25], 16))) > 4
    vm.close()
    template.close()


def test_secrets_differ_between_forks(engine: str) -> None:
    """AT_RANDOM (by way of the stack) and getrandom are fresh at every request."""
    code = call(318, DATA, 16, 0) + call(1, 1, DATA, 16) + exit_()
    template = load(program(code), LIMITS)
    seen, random = set(), set()
    for _ in range(5):
        vm = Vm(template, engine)
        vm.begin(GET, LIMITS)
        stack = vm._process.access.read(template.loaded.space.stack_top - 64, 64)
        random.add(stack)
        seen.add(finish(vm).output)
        vm.reset()
        vm.begin(GET, LIMITS)
        seen.add(finish(vm).output)
        vm.close()
    template.close()
    assert len(seen) == 10
    assert len(random) == 5


def test_variables_that_do_not_fit_the_stack_end_the_request(engine: str) -> None:
    big = GuestRequest(((b"HTTP_COOKIE", b"x" * MIB),))
    assert run(exit_(), big, engine=engine).end == "memory-limit"
