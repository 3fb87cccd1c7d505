"""A VM's life: its phases, many at once, and what is given back at its end."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from sandbox.events import Booted
from sandbox.limits import MIB, MILLISECOND_NS, SECOND_NS
from sandbox.program import Convention
from sandbox.request import GuestRequest, scgi_frame
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    ECHO,
    FETCH,
    GET,
    LIMITS,
    LOOP,
    RESPOND,
    boot,
    call,
    exit_,
    finish,
    program,
    put,
    run,
    serve,
    serve_once,
)


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        (exit_(), "no-answer"),
        (exit_(2), "exit-status: it exited with status 2"),
        (b"\x0f\x0b", "fault: invalid-instruction"),
        (LOOP, "cpu-limit: more than 20 ms"),
        (call(RESPOND, DATA, 4) + exit_(7), "status 7"),
        (call(FETCH, DATA, 4, DATA, 4) + exit_(8), "status 8"),
    ],
)
def test_an_end_before_the_first_request_is_boot_failed(code: bytes, detail: str, engine: str) -> None:
    limits = replace(LIMITS, boot_cpu_ns=20 * MILLISECOND_NS)
    template = load(program(code, Convention.RESIDENT), limits)
    vm = Vm(template, engine)
    result = finish(vm)
    assert result.end == "boot-failed"
    assert detail in result.outcome.detail
    vm.close()
    template.close()


def test_unknown_calls_are_counted_once_each(engine: str) -> None:
    calls = b"".join(call(500 + i % 20) for i in range(60))
    result = run(calls + put(b"x") + exit_(), engine=engine)
    assert result.outcome.usage.unknown_calls == tuple(range(500, 516))


def test_memory_that_runs_out_is_named(engine: str) -> None:
    """A program that crashes after a refusal ends as memory-limit, with both halves of the story."""
    hungry = call(9, 0, 64 * MIB, 3, 0x22, (1 << 64) - 1, 0) + b"\x88\x00"
    result = run(hungry, engine=engine)
    assert result.end == "memory-limit"
    assert "write" in result.outcome.detail


def test_methods_in_the_wrong_phase_are_refused(engine: str) -> None:
    template = load(program(serve(ECHO), Convention.RESIDENT), LIMITS)
    vm = Vm(template, engine)
    for method in (vm.reset, vm.freeze, lambda: vm.begin(GET, LIMITS), lambda: vm.answer(0)):
        with pytest.raises(RuntimeError):
            method()
    assert vm.run(SECOND_NS).event == Booted()
    with pytest.raises(RuntimeError):
        vm.run(SECOND_NS)
    frozen = vm.freeze()
    with pytest.raises(RuntimeError):
        vm.freeze()
    vm.close()
    vm.close()
    assert frozen.resident_bytes > 0
    frozen.close()
    template.close()


def test_two_hundred_vms_of_one_template_live_at_once(engine: str) -> None:
    template = boot(serve(ECHO), engine=engine)
    vms = [Vm(template, engine) for _ in range(200)]
    try:
        for index, vm in enumerate(vms):
            request = GuestRequest(((b"N", b"%d" % index),))
            assert serve_once(vm, request).output == scgi_frame(request)
    finally:
        for vm in vms:
            vm.close()
        template.close()


def test_closing_gives_the_memory_back(engine: str) -> None:
    template = boot(serve(ECHO), engine=engine)

    def maps() -> int:
        with open("/proc/self/maps") as lines:
            return sum("memfd:guest" in line for line in lines)

    before, files = maps(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        vm = Vm(template, engine)
        serve_once(vm)
        vm.close()
    assert (maps(), len(os.listdir("/proc/self/fd"))) == (before, files)
    template.close()
