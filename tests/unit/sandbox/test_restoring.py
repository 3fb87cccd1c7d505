"""How ring 3 is sent back to a template's registers: what stands ready for it, and when it may not be."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sandbox.engines import restoring
from sandbox.engines.base import CpuState
from sandbox.engines.kvm_trial import proven, restores
from sandbox.pages.paging import PAGE, USER_TOP, Layout, fixed_pages
from sandbox.pages.supervisor import LANDING_ADDRESS, RESTORE_ADDRESS, RESTORED_OFFSET
from sandbox.vm import Vm
from tests.unit.sandbox.machine_code import (
    DATA,
    GET,
    LIMITS,
    NEXT_REQUEST,
    RAX,
    RDX,
    RESPOND,
    boot,
    booted,
    call,
    finish,
    mov,
    serve,
    serve_once,
)

FPU = bytes(range(256)) * 2
STATE = CpuState((1, 2, 0x401000, 4, 5, 6, 7, 0x800000, *range(8, 16)), 0x401000, 0x2, 0, 0, FPU)


def test_the_landing_page_has_room_for_it() -> None:
    layout = Layout(0x400000, 16 * PAGE)
    (page,) = [content for at, content in fixed_pages(layout) if at == layout.landing_offset]
    at, content = restoring.piece(layout, STATE)
    start = at - layout.landing_offset
    assert start == RESTORED_OFFSET
    assert set(page[start:]) == {0xF4}, "nothing else stands there"
    assert content == struct.pack("<QQ", 0x800000, 4) + bytes(48) + FPU + struct.pack("<Q", 3) + bytes(56)
    assert (LANDING_ADDRESS + start + 64) % 64 == 0
    assert start + 64 + 2696 <= PAGE, "as much as AVX-512 would take may be looked at"


def test_it_is_entered_with_the_result_in_the_stack_pointer() -> None:
    entrance = restoring.entrance(STATE)
    assert entrance is not None
    gprs, rip = entrance
    assert rip == RESTORE_ADDRESS
    assert (gprs[0], gprs[3], gprs[7]) == (0xFFFF_FFFF, 0xFFFF_FFFF, 1)
    assert [gprs[n] for n in range(16) if n not in (0, 3, 7)] == [STATE.gprs[n] for n in range(16) if n not in (0, 3, 7)]


@pytest.mark.parametrize(
    "state",
    [
        replace(STATE, rip=0x401002),
        replace(STATE, rflags=0x102),
        replace(STATE, rip=USER_TOP, gprs=(1, 2, USER_TOP, *range(3, 16))),
        replace(STATE, gprs=((1 << 64) - 14, *STATE.gprs[1:])),
    ],
    ids=["not after a system call", "single step", "beyond user space", "a result that is no address"],
)
def test_what_cannot_be_arrived_at_so_is_left_to_the_engine(state: CpuState) -> None:
    assert restoring.entrance(state) is None


def test_the_trial_says_the_same_every_time(kvm_reason: str) -> None:
    if kvm_reason:
        pytest.skip(f"no kvm engine: {kvm_reason}")
    assert {restores() for _ in range(5)} == {proven()}


def test_a_template_is_used_so_exactly_where_the_trial_allows_it(kvm_reason: str) -> None:
    if kvm_reason:
        pytest.skip(f"no kvm engine: {kvm_reason}")
    template = boot(serve(call(RESPOND, DATA, 8)), engine="kvm")
    vm = Vm(template, "kvm")
    assert bool(vm._vcpu._entrance) == proven()  # type: ignore[attr-defined]
    vm.close()
    template.close()


def test_a_request_that_cannot_be_delivered_gets_its_errno_every_time(engine: str) -> None:
    """A negative result goes another way than a length does."""
    loop = call(NEXT_REQUEST, 0x10, 4096) + b"\x48\xa3" + struct.pack("<Q", DATA) + call(RESPOND, DATA, 8)
    with booted(loop + b"\xe9" + struct.pack("<i", -len(loop) - 5), engine=engine) as vm:
        for _ in range(3):
            assert serve_once(vm).words() == (-14,)
            vm.begin(GET, LIMITS)
            assert vm._vcpu.save().gprs[0] == (1 << 64) - 14
            assert finish(vm).words() == (-14,)
            vm.reset()


def test_a_guest_that_goes_there_itself_gets_its_own_templates_registers_at_most(engine: str) -> None:
    answer = call(RESPOND, DATA, 8) + call(NEXT_REQUEST, DATA + 0x1000, 4096)
    away = mov(RAX, RESTORE_ADDRESS) + b"\x48\x8d\x0d\x02\0\0\0\xff\xe0"  # lea rcx, [rip + 2]; jmp rax
    for work in (away + answer, b"\x66\x0f\x76\xc0" + mov(RDX, 0xFFFF_FFFF) + away + answer):
        with booted(serve(work), engine=engine) as vm:
            result = serve_once(vm)
            assert result.end == "finished" or result.outcome.detail.startswith(("invalid-instruction", "protection"))
