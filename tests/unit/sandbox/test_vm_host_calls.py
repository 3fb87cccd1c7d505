"""Calls that only the host can answer: they stop the VM, and go on with the answer."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sandbox.events import HostCall, HostCallKind
from sandbox.guest.edge_calls import MAX_KEY
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    FETCH,
    GET,
    KV_GET,
    KV_PUT,
    LIMITS,
    NEXT_REQUEST,
    RESPOND,
    call_with_result,
    dump,
    finish,
    image,
    program,
    run,
)


def test_host_calls_are_asked_and_answered(engine: str) -> None:
    data = b"GET /api\n\nkeyvalue"
    code = (
        call_with_result(FETCH, DATA, 10, DATA + 0x100, 64, into=0x200)
        + call_with_result(KV_GET, DATA + 10, 3, DATA + 0x180, 4, into=0x208)
        + call_with_result(KV_PUT, DATA + 10, 3, DATA + 13, 5, into=0x210)
        + call_with_result(FETCH, DATA, 10, DATA + 0x100, 2, into=0x218)
        + call_with_result(KV_GET, DATA + 10, 3, DATA + 0x180, 4, into=0x220)
        + dump(0x128, DATA + 0x100)
    )
    template = load(replace(program(code), image=image(code, data)), LIMITS)
    vm = Vm(template, engine)
    vm.begin(GET, LIMITS)
    with pytest.raises(RuntimeError):
        vm.answer(0)
    result = finish(vm, answers=[b"Status: 200\n\nok", b"longer", 0, b"does not fit", -2])
    assert result.asked == [
        HostCall(HostCallKind.FETCH, b"GET /api\n\n"),
        HostCall(HostCallKind.KV_GET, b"key"),
        HostCall(HostCallKind.KV_PUT, b"key", b"value"),
        HostCall(HostCallKind.FETCH, b"GET /api\n\n"),
        HostCall(HostCallKind.KV_GET, b"key"),
    ]
    assert result.output[:15] == b"Status: 200\n\nok"
    assert result.output[0x80:0x85] == b"long\0"
    assert struct.unpack_from("<5q", result.output, 0x100) == (15, 6, 0, -7, -2)
    assert (result.outcome.usage.edge_calls, result.outcome.usage.sub_requests) == (5, 2)
    vm.close()
    template.close()


def test_edge_calls_with_bad_arguments(engine: str) -> None:
    code = (
        call_with_result(KV_GET, DATA, MAX_KEY + 1, DATA, 8, into=0x100)
        + call_with_result(KV_GET, 0, 8, DATA, 8, into=0x108)
        + call_with_result(FETCH, DATA, 8, 0x10, 8, into=0x110)
        + call_with_result(NEXT_REQUEST, DATA, 8, into=0x118)
        + call_with_result(RESPOND, DATA, 8, into=0x120)
        + dump(0x28, DATA + 0x100)
    )
    assert run(code, engine=engine).words() == (-7, -14, -14, -38, -38)
