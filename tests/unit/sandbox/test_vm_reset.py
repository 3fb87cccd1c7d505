"""Nothing of a request is left for the next, nor for another VM on the same thread."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from sandbox.events import Ended, Preempted
from sandbox.limits import MILLISECOND_NS, SECOND_NS
from sandbox.program import Convention
from sandbox.request import GuestRequest
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    ECHO,
    GET,
    LIMITS,
    LOOP,
    RAX,
    RBX,
    RESPOND,
    boot,
    call,
    finish,
    mov,
    program,
    serve,
    serve_once,
    store_rax,
)

LEAK = b"SECRET-OF-THE-FIRST-REQUEST!!!!!"


def test_nothing_of_a_request_is_left_for_the_next(engine: str) -> None:
    """Memory, stack, heap, mappings, XMM, x87, flags, FS and GS bases, open files and offsets, signals: all as at the freeze."""
    spread = (
        b"\x0f\x28\x04\x25" + struct.pack("<I", DATA)  # movaps xmm0, [DATA]
        + b"\x44\x0f\x28\x3c\x25" + struct.pack("<I", DATA)  # movaps xmm15, [DATA]
        + b"\xdf\x2c\x25" + struct.pack("<I", DATA)  # fild qword [DATA]
        + b"\xff\x34\x25" + struct.pack("<I", DATA)  # push
        + call(158, 0x1002, 0x60_1000) + call(158, 0x1001, 0x60_2000)
        + call(12, DATA + 0x40_000) + mov(RAX, DATA + 0x20_000) + b"\xc6\x00\x53"
        + call(9, 0, 0x4000, 3, 0x22, (1 << 64) - 1, 0) + b"\xc6\x00\x53"
        + call(257, (1 << 64) - 100, DATA + 0x40, 0, 0) + call(8, 3, 5, 0)
        + call(13, 10, DATA + 0x100, 0, 8) + call(14, 2, DATA + 0x100, 0, 8)
        + b"\xf9\xfd"  # stc; std
        + b"\x49\xc7\xc7\x53\x00\x00\x00"  # mov r15, 'S'
        + call(RESPOND, DATA, 32)
    )  # fmt: skip
    template = boot(replace(program(serve(spread), Convention.RESIDENT), files=(("f", b"0123456789"),)), engine=engine)
    pristine = Vm(template, engine)
    vm = Vm(template, engine)
    before = vm._vcpu.save()
    vm._memory.window[DATA - 0x401000 : DATA - 0x401000 + 32] = LEAK
    vm._memory.window[DATA - 0x401000 + 0x40 : DATA - 0x401000 + 0x43] = b"/f\0"
    vm._memory.window[DATA - 0x401000 + 0x100 : DATA - 0x401000 + 0x108] = b"\xff" * 8
    result = serve_once(vm)
    assert (result.end, result.output) == ("finished", LEAK)
    assert (
        vm._memory.block[: vm._memory.layout.supervisor_offset] == pristine._memory.block[: vm._memory.layout.supervisor_offset]
    )
    assert LEAK[:8] not in bytes(vm._memory.block)
    assert vm._vcpu.save() == before
    mine, other = vm._process.state, pristine._process.state
    assert mine.areas.frozen() == other.areas.frozen() == ()
    for field in ("brk", "files", "signal_mask", "signal_actions", "signal_stack", "clock_origin_ns", "request_buffer"):
        assert getattr(mine, field) == getattr(other, field), field
    vm.close()
    pristine.close()
    template.close()


def test_nothing_is_left_by_a_request_that_another_thread_handed_over(engine: str) -> None:
    """Page faults tell what was written, and are counted by thread."""
    template = boot(program(serve(ECHO, 12 << 10), Convention.RESIDENT), engine=engine)
    with ThreadPoolExecutor(1) as other, closing(Vm(template, engine)) as pristine, closing(Vm(template, engine)) as vm:
        for _ in range(3):
            assert serve_once(vm).end == "finished"
        large = GuestRequest(GET.environ, b"S" * (8 << 10))
        other.submit(vm.begin, large, LIMITS).result()
        assert finish(vm).end == "finished"
        vm.reset()
        end = vm._memory.layout.supervisor_offset
        assert vm._memory.block[:end] == pristine._memory.block[:end]
    template.close()


_LOOK_AT_SELECTORS = b"".join(
    bytes((0x8C, modrm)) + b"\x66\xa3" + struct.pack("<Q", DATA + 2 * i) for i, modrm in enumerate((0xD8, 0xC0, 0xE0, 0xE8))
)
_CHANGE_SELECTORS = mov(RAX, 0x2B) + b"\x8e\xd8\x8e\xc0\x8e\xe0\x8e\xe8"


def test_segment_selectors_do_not_survive_a_request(engine: str) -> None:
    template = boot(serve(_LOOK_AT_SELECTORS + _CHANGE_SELECTORS + call(RESPOND, DATA, 8)), engine=engine)
    for _ in range(2):
        with closing(Vm(template, engine)) as vm:
            assert [serve_once(vm).output for _ in range(4)] == [bytes(8)] * 4
    template.close()


def test_segment_selectors_of_a_guest_that_failed_are_not_seen_by_another(engine: str) -> None:
    looking = boot(serve(_LOOK_AT_SELECTORS + call(RESPOND, DATA, 8)), engine=engine)
    failing = load(program(_CHANGE_SELECTORS + b"\x0f\x0b"), LIMITS)
    for _ in range(2):
        with closing(Vm(failing, engine)) as other:
            other.begin(GET, LIMITS)
            assert isinstance(other.run(SECOND_NS).event, Ended)
        with closing(Vm(looking, engine)) as vm:
            assert serve_once(vm).output == bytes(8)
    looking.close()
    failing.close()


def test_segment_selectors_of_a_guest_that_waits_are_not_seen_by_another(engine: str) -> None:
    looking = boot(serve(_LOOK_AT_SELECTORS + call(RESPOND, DATA, 8)), engine=engine)
    spinning = load(program(_CHANGE_SELECTORS + LOOP), LIMITS)
    with closing(Vm(spinning, engine)) as other, closing(Vm(looking, engine)) as vm:
        other.begin(GET, LIMITS)
        for _ in range(3):
            assert isinstance(other.run(2 * MILLISECOND_NS).event, Preempted)
            assert serve_once(vm).output == bytes(8)
    looking.close()
    spinning.close()


def test_clearing_selectors_before_every_run_changes_nothing_else(engine: str) -> None:
    """As on a host where no code can be mapped to look at them: registers, FS base and vector registers stay what they were."""
    if engine != "kvm":
        pytest.skip("Unicorn keeps a guest's selectors to itself")
    work = (
        call(158, 0x1002, DATA + 0x40)  # arch_prctl(ARCH_SET_FS)
        + mov(RBX, 0x1122334455667788)
        + b"\x66\x48\x0f\x6e\xc3"  # movq xmm0, rbx
        + call(39)  # getpid
        + b"\x64\x48\x89\x1c\x25\x00\x00\x00\x00"  # mov fs:[0], rbx
        + b"\x66\x48\x0f\x7e\xc0"  # movq rax, xmm0
        + store_rax(DATA + 0x48)
        + call(RESPOND, DATA + 0x40, 16)
    )
    template = boot(serve(work), engine=engine)
    with closing(Vm(template, engine)) as vm:
        plain = serve_once(vm).output
        assert plain == struct.pack("<QQ", 0x1122334455667788, 0x1122334455667788)
        vm._vcpu._selectors = lambda: 1  # type: ignore[attr-defined]
        assert [serve_once(vm).output for _ in range(3)] == [plain] * 3
    template.close()
