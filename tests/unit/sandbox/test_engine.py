"""Every engine: slices change nothing, a fork has all of the state, the processor is the same everywhere."""

from __future__ import annotations

import struct
import threading
import time

import pytest

from sandbox.engines import create
from sandbox.engines.base import CpuState, Preempted, SystemCall
from sandbox.engines.cpuid import cpuid
from sandbox.engines.watchdog import Watchdog, watchdog
from sandbox.errors import EngineUnavailable
from sandbox.limits import SECOND_NS
from sandbox.pages.supervisor import LANDING_ADDRESS, SCRUB_ADDRESS, gate_address
from sandbox.program import Convention
from sandbox.vm import Template, load
from tests.unit.sandbox.machine_code import (
    DATA,
    LIMITS,
    LOOP,
    RAX,
    RBX,
    RCX,
    RDI,
    SYSCALL,
    call,
    call_with_result,
    dump,
    mov,
    program,
    run,
)

STEPS = 20_000_000
SLICES = 10_000
# xorshift on rax, mixed with x87, SSE and flags, STEPS times: any state lost at a cut changes the result
MIXED = (
    mov(RAX, 0x9E3779B97F4A7C15)
    + mov(RCX, STEPS)
    + b"\xd9\xe8"  # fld1
    + b"\x66\x0f\xef\xc0"  # pxor xmm0, xmm0
    + b"\x48\x89\xc2\x48\xc1\xe2\x0d\x48\x31\xd0"  # rdx = rax << 13; rax ^= rdx
    + b"\x48\x89\xc2\x48\xc1\xea\x07\x48\x31\xd0"  # rdx = rax >> 7; rax ^= rdx
    + b"\x66\x48\x0f\x6e\xc8\x66\x0f\xd4\xc1"  # movq xmm1, rax; paddq xmm0, xmm1
    + b"\xf9\x48\x83\xd0\x00"  # stc; adc rax, 0
    + b"\xd9\xc0\xde\xc1"  # fld st0; faddp: doubles, ends as infinity
    + b"\x48\xff\xc9\x75\xdb"  # dec rcx; jnz
    + b"\x66\x48\x0f\x7e\xc3"  # movq rbx, xmm0
    + b"\xdd\xd8"  # fstp st0
    + mov(RDI, 60)
)


@pytest.fixture(name="mixed")
def mixed_fixture():  # type: ignore[no-untyped-def]
    code = MIXED.replace(mov(RDI, 60), b"") + b"\x48\x89\xc7" + mov(RAX, 231) + SYSCALL
    template = load(program(code), LIMITS)
    yield template
    template.close()


def finish(engine: str, template: Template, slice_ns: int, most: int) -> tuple[SystemCall, tuple[int, ...], int]:
    memory = template.memory.fork()
    vcpu = create(engine, memory)
    try:
        vcpu.load(template.cpu)
        for cuts in range(most):
            stop = vcpu.run(slice_ns)
            if not isinstance(stop, Preempted):
                assert isinstance(stop, SystemCall), stop
                return stop, vcpu.save().gprs, cuts
        raise AssertionError("no end")
    finally:
        vcpu.close()
        memory.close()


def test_a_computation_cut_into_slices_gives_the_uncut_result(mixed: Template, engine: str) -> None:
    whole, registers, cuts = finish(engine, mixed, 60 * SECOND_NS, 1)
    assert cuts == 0
    slices = 0
    while slices < SLICES:
        cut, cut_registers, cuts = finish(engine, mixed, 1, 1_000_000)
        assert (cut, cut_registers) == (whole, registers)
        slices += cuts


def test_an_interrupt_from_another_thread_is_a_preemption(engine: str) -> None:
    template = load(program(LOOP), LIMITS)
    memory = template.memory.fork()
    vcpu = create(engine, memory)
    vcpu.load(template.cpu)
    vcpu.interrupt()
    stopped = threading.Event()

    def interrupt() -> None:
        while not stopped.wait(0.001):
            vcpu.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert vcpu.run(60 * SECOND_NS) == Preempted()
    stopped.set()
    thread.join()
    vcpu.close()
    vcpu.close()
    memory.close()
    template.close()


def test_state_before_the_first_instruction_is_what_was_loaded(engine: str) -> None:
    template = load(program(LOOP), LIMITS)
    memory = template.memory.fork()
    vcpu = create(engine, memory)
    with pytest.raises(RuntimeError):
        vcpu.save()
    vcpu.load(template.cpu)
    assert vcpu.save() is template.cpu
    vcpu.close()
    memory.close()
    template.close()


def test_every_register_survives_save_and_load(engine: str) -> None:
    """A state full of distinct values goes into a vCPU, runs one system call, and comes out as it went in."""
    template = load(program(SYSCALL + LOOP, Convention.CGI), LIMITS)
    fpu = bytearray(template.cpu.fpu)
    struct.pack_into("<HHB", fpu, 0, 0x27F, 5 << 11 | 0x4100, 0xE0)
    struct.pack_into("<I", fpu, 24, 0x7F80)
    for i in range(3):
        struct.pack_into("<QH", fpu, 32 + 16 * i, 0x8000_0000_0000_0000 + i, 0x3FFF + i)
    fpu[160:416] = bytes(range(256))
    state = CpuState(
        gprs=tuple(0x1111_1111_1111_1111 * (i % 15 + 1) if i != 7 else template.cpu.gprs[7] for i in range(16)),
        rip=template.cpu.rip,
        rflags=0x8D5 & ~0x100,
        fs_base=0x1234_5000,
        gs_base=0x6789_A000,
        fpu=bytes(fpu),
    )
    saved = []
    for _ in range(2):
        memory = template.memory.fork()
        vcpu = create(engine, memory)
        vcpu.load(state)
        assert isinstance(vcpu.run(SECOND_NS), SystemCall)
        saved.append(vcpu.save())
        vcpu.load(state)  # now on a vCPU that has run
        assert isinstance(vcpu.run(SECOND_NS), SystemCall)
        saved.append(vcpu.save())
        vcpu.load(state)  # and by the short way
        assert isinstance(vcpu.run(SECOND_NS), SystemCall)
        saved.append(vcpu.save())
        vcpu.close()
        memory.close()
        state = CpuState(saved[0].gprs, state.rip, saved[0].rflags, saved[0].fs_base, saved[0].gs_base, saved[0].fpu)
    template.close()
    assert all(s == saved[0] for s in saved)
    assert saved[0].gprs == state.gprs
    assert (saved[0].fs_base, saved[0].gs_base, saved[0].rflags & 0x8D5) == (0x1234_5000, 0x6789_A000, 0x8D5)
    assert saved[0].fpu[160:416] == bytes(range(256))
    assert saved[0].fpu[24:28] == struct.pack("<I", 0x7F80)
    assert saved[0].fpu[:4] == struct.pack("<HH", 0x27F, 5 << 11 | 0x4100)
    assert saved[0].fpu[4] == 0xE0
    assert saved[0].fpu[32:80] == bytes(fpu[32:80])


def test_a_system_call_leaves_rcx_and_r11_as_hardware_does(engine: str) -> None:
    code = (
        mov(RAX, 39) + SYSCALL + b"\x48\x89\x0c\x25" + struct.pack("<I", DATA) + b"\x4c\x89\x1c\x25" + struct.pack("<I", DATA + 8)
    )
    result = run(code + dump(16), engine=engine)
    rip, flags = result.words()
    assert rip == 0x401000 + 12
    assert flags & 0x202 == 0x202


def test_the_processor_is_the_table(engine: str) -> None:
    store = b"".join(
        (b"\x89\x04\x25", b"\x89\x1c\x25", b"\x89\x0c\x25", b"\x89\x14\x25")[i] + struct.pack("<I", DATA + 4 * i)
        for i in range(4)
    )
    for leaf in (0, 1, 7, 0x8000_0001, 0xD):
        result = run(mov(RAX, leaf) + mov(RBX, 7) + mov(RCX, 0) + b"\x0f\xa2" + store + dump(16), engine=engine)
        found = struct.unpack("<4I", result.output)
        if engine == "kvm" and leaf == 0 and found != cpuid(0):
            pytest.skip("this KVM cannot hide the processor: cpuid is not trapped")
        assert found == cpuid(leaf)


def test_no_avx_and_no_xsave_are_advertised() -> None:
    _, _, ecx, _ = cpuid(1)
    assert not ecx & (1 << 26 | 1 << 27 | 1 << 28 | 1 << 12)
    assert cpuid(7) == cpuid(0xD) == (0, 0, 0, 0)


def test_an_engine_that_is_not_there_is_named() -> None:
    template = load(program(LOOP), LIMITS)
    memory = template.memory.fork()
    with pytest.raises(EngineUnavailable, match="there is no engine 'abacus'"):
        create("abacus", memory)
    memory.close()
    template.close()


def test_a_jump_to_the_landing_page_is_no_system_call(engine: str) -> None:
    """Ring 3 can reach the `out` that system calls arrive at; nothing but a fault comes of it."""
    for target in (LANDING_ADDRESS, SCRUB_ADDRESS, gate_address(14)):
        result = run(mov(RAX, 231) + mov(RDI, 0) + mov(RCX, target) + b"\xff\xe1", engine=engine)
        assert (result.end, result.outcome.usage.system_calls) == ("fault", 0)
    result = run(mov(RAX, 231) + mov(RDI, 0) + b"\xe6\x10" + call(231, 0), engine=engine)
    assert (result.end, result.outcome.usage.system_calls) == ("fault", 0)


def test_a_trap_flag_does_not_follow_a_system_call_into_ring_0(engine: str) -> None:
    code = b"\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d" + mov(RAX, 39) + SYSCALL
    assert run(code, engine=engine).end == "fault"


def test_the_watchdog_sleeps_and_wakes() -> None:
    clock = time.CLOCK_MONOTONIC
    dog = Watchdog()
    for _ in range(2):
        stopped = threading.Event()
        alarm = dog.arm(clock, 0, stopped.set)
        assert stopped.wait(10)
        assert alarm.fired
        dog.disarm(alarm)
        deadline = time.monotonic() + 10
        while not dog._asleep and time.monotonic() < deadline:
            time.sleep(0.01)
        assert dog._asleep
    assert watchdog() is watchdog()


@pytest.mark.parametrize("soon_ns", [0, 10**18], ids=["wakes it", "waits for its next look"])
def test_the_watchdog_sees_who_comes_while_it_waits_for_another(soon_ns: int) -> None:
    clock = time.CLOCK_MONOTONIC
    dog = Watchdog()
    far = dog.arm(clock, time.monotonic_ns() + 3600 * 10**9, threading.Event().set)
    for _ in range(20):
        stopped = threading.Event()
        near = dog.arm(clock, time.monotonic_ns() + 1, stopped.set, soon_ns)
        assert stopped.wait(10)
        dog.disarm(near)
    assert not far.fired
    dog.disarm(far)


def test_time_stamp_counter_goes_forward(engine: str) -> None:
    code = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\x48\x89\xc3\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\x48\x29\xd8"
    result = run(code + b"\x48\xa3" + struct.pack("<Q", DATA) + call_with_result(39, into=8) + dump(16), engine=engine)
    delta, pid = result.words()
    assert delta >= 0
    assert pid == 1
