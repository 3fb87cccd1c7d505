"""The kvm engine beside unicorn: the same instructions give the same registers, and a reset leaves nothing in the processor."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.engines import choose, create, kvm, kvm_api, kvm_trial
from sandbox.engines.base import CpuState, SystemCall
from sandbox.errors import EngineUnavailable
from sandbox.limits import SECOND_NS
from sandbox.program import Convention
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    GET,
    LIMITS,
    RAX,
    RCX,
    RDI,
    RDX,
    RESPOND,
    SYSCALL,
    boot,
    booted,
    call,
    finish,
    mov,
    program,
    serve,
    serve_once,
    store_rax,
)

_CODE_BYTES = 1024
_DEFINED_FLAGS = 0x8D5 & ~0x10
"""CF PF ZF SF OF; AF is undefined after the logical operations among these."""


def _modrm(opcode: bytes) -> st.SearchStrategy[bytes]:
    """Two of rax … rdi, but not rsp."""
    register = st.sampled_from((0, 1, 2, 3, 5, 6, 7))
    return st.builds(lambda a, b: opcode + bytes((0xC0 | a << 3 | b,)), register, register)


def _vector(opcode: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(lambda a, b: opcode + bytes((0xC0 | a << 3 | b,)), st.integers(0, 7), st.integers(0, 7))


_INSTRUCTION = st.one_of(
    *(_modrm(b"\x48" + bytes((op,))) for op in (0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x87, 0x89)),
    *(_modrm(b"\x48\x0f" + bytes((op,))) for op in (0x40, 0x42, 0x4C, 0xB6, 0xBE, 0xBF)),
    *(_vector(b"\x66\x0f" + bytes((op,))) for op in (0x6F, 0xD4, 0xEF, 0xFE, 0x62, 0xF4, 0xDB, 0x74)),
    *(_vector(b"\xf2\x0f" + bytes((op,))) for op in (0x58, 0x59, 0x5C, 0x5D)),
    st.sampled_from(
        (b"\xf5", b"\xf8", b"\xf9", b"\x48\x0f\xc8", b"\x48\x0f\xcb", b"\x48\xff\xc1", b"\x48\xff\xca", b"\x48\xf7\xd6")
    ),
)


_KEEP_RCX = b"\x49\x89\xcc"  # mov r12, rcx


def _seen(state: CpuState) -> dict[int, int]:
    """All registers but rcx and r11, which a system call takes."""
    return {i: value for i, value in enumerate(state.gprs) if i not in (2, 11)}


def _ran(engine: str, code: bytes, state: CpuState) -> tuple[CpuState, SystemCall]:
    template = load(program(code.ljust(_CODE_BYTES, b"\xf4")), LIMITS)
    memory = template.memory.fork()
    vcpu = create(engine, memory)
    try:
        vcpu.load(state)
        stop = vcpu.run(SECOND_NS)
        assert isinstance(stop, SystemCall), stop
        return vcpu.save(), stop
    finally:
        vcpu.close()
        memory.close()
        template.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.lists(_INSTRUCTION, min_size=1, max_size=40).map(b"".join),
    values=st.lists(st.integers(0, 2**64 - 1), min_size=16, max_size=16),
    doubles=st.lists(st.floats(allow_nan=False, allow_subnormal=False, width=32), min_size=16, max_size=16),
)
def test_both_engines_compute_the_same(kvm_reason: str, code: bytes, values: list[int], doubles: list[float]) -> None:
    if kvm_reason:
        pytest.skip(f"no kvm engine: {kvm_reason}")
    template = load(program(SYSCALL), LIMITS)
    first = template.cpu
    template.close()
    values[7] = first.gprs[7]
    fpu = bytearray(first.fpu)
    fpu[160:416] = b"".join(struct.pack("<dd", value, -value) for value in doubles)
    state = CpuState(tuple(values), first.rip, 0, 0x1000, 0x2000, bytes(fpu))
    (one, call_one), (two, call_two) = (_ran(engine, code + _KEEP_RCX + SYSCALL, state) for engine in ("unicorn", "kvm"))
    assert [_seen(one), call_one] == [_seen(two), call_two]
    assert one.rflags & _DEFINED_FLAGS == two.rflags & _DEFINED_FLAGS
    assert (one.rip, one.fs_base, one.gs_base) == (two.rip, two.fs_base, two.gs_base)
    assert one.fpu[160:416] == two.fpu[160:416]


_STORE = b"\x48\xa3" + struct.pack("<Q", DATA)
_LEAKS = {
    # vextractf128 xmm1, ymm0, 1; movdqu [data], xmm1 … vpcmpeqd ymm0, ymm0, ymm0
    "upper half of a vector": (b"\xc4\xe3\x7d\x19\xc1\x01\xf3\x0f\x7f\x0c\x25" + struct.pack("<I", DATA), b"\xc5\xfd\x76\xc0"),
    "fs base": (b"\xf3\x48\x0f\xae\xc0" + _STORE, mov(RAX, 0x5000) + b"\xf3\x48\x0f\xae\xd0"),
    "gs base": (b"\xf3\x48\x0f\xae\xc8" + _STORE, mov(RAX, 0x5000) + b"\xf3\x48\x0f\xae\xd8"),
    "mmx": (
        b"\x48\x0f\x7e\xc0" + _STORE,  # movq rax, mm0
        mov(RAX, 0x77) + b"\x48\x0f\x6e\xc0",
    ),
    "a vector that only AVX-512 has": (
        b"\x62\xb1\xfe\x48\x6f\xc8\xf3\x0f\x7f\x0c\x25" + struct.pack("<I", DATA),  # vmovdqu64 zmm1, zmm16; movdqu [data], xmm1
        b"\x62\xa3\x7d\x40\x25\xc0\xff",  # vpternlogd zmm16, zmm16, zmm16, 255
    ),
    "a mask of AVX-512": (b"\x31\xc0\xc5\xf8\x93\xc7" + _STORE, b"\xc5\xc4\x46\xff"),  # kmovw eax, k7; kxnorw k7, k7, k7
    "mxcsr": (
        b"\x0f\xae\x1c\x25" + struct.pack("<I", DATA) + b"\x81\x34\x25" + struct.pack("<II", DATA, 0x1F80),  # stmxcsr; xor
        mov(RAX, 0x7FBF) + store_rax(DATA + 64) + b"\x0f\xae\x14\x25" + struct.pack("<I", DATA + 64),
    ),
    "where x87 was": (
        b"\xd9\x34\x25"
        + struct.pack("<I", DATA + 64)  # fnstenv; then FIP
        + b"\x8b\x04\x25"
        + struct.pack("<I", DATA + 64 + 12)
        + _STORE,
        b"\xd9\xe8\xdd\x1c\x25" + struct.pack("<I", DATA + 128),  # fld1; fstp [data + 128]
    ),
    "null selectors": (b"\x66\x8c\xd8\x48\x0f\xb7\xc0" + _STORE, mov(RAX, 3) + b"\x8e\xd8\x8e\xe0"),
}
"""What looks, and what leaves something behind."""


@pytest.fixture(name="way", params=["by ring 3", "by the engine"])
def way_fixture(request: pytest.FixtureRequest) -> Iterator[str]:
    """How floating-point state is restored: as is best here, and as is possible everywhere."""
    found = kvm_trial.proven() if request.param == "by ring 3" and os.access(kvm_api.DEVICE, os.W_OK) else False
    kept, kvm_trial._proofs[:] = list(kvm_trial._proofs), [found]
    yield request.param
    kvm_trial._proofs[:] = kept


@pytest.mark.parametrize("name", _LEAKS)
def test_nothing_is_left_in_the_processor(name: str, way: str, engine: str) -> None:
    look, leave = _LEAKS[name]
    template = boot(serve(look + leave + call(RESPOND, DATA, 16)), engine=engine)
    vms = [Vm(template, engine) for _ in range(2)]
    try:
        for vm in (vms[0], vms[0], vms[1], vms[0], vms[1]):
            result = serve_once(vm)
            if result.end == "fault":
                assert result.outcome.detail.startswith("invalid-instruction"), "the processor does not have it"
                return
            assert result.output == bytes(16)
    finally:
        for vm in vms:
            vm.close()
        template.close()


def test_registers_after_a_reset_are_the_templates(way: str, engine: str) -> None:
    template = boot(serve(b"\x66\x0f\x76\xc0" + call(RESPOND, DATA, 8)), engine=engine)
    vm = Vm(template, engine)
    for _ in range(3):
        assert serve_once(vm).end == "finished"
        state = vm._vcpu.save()
        assert (state.gprs, state.rip, state.rflags & ~2) == (template.cpu.gprs, template.cpu.rip, template.cpu.rflags & ~2)
        assert (state.fs_base, state.gs_base) == (template.cpu.fs_base, template.cpu.gs_base)
        vm.begin(GET, LIMITS)
        answered = vm._vcpu.save().gprs
        kept = [n for n in range(1, 16) if n not in (2, 11)]  # rcx and r11 are the system call's
        assert [answered[n] for n in kept] == [template.cpu.gprs[n] for n in kept]
        assert 0 < answered[0] < 4096, "the length of the request"
        assert finish(vm).end == "finished"
        vm.reset()
    vm.close()
    template.close()


def test_a_request_cut_anywhere_gets_the_uncut_answer(way: str, engine: str) -> None:
    """All registers and vectors are in the answer; somebody interrupts all the time, on the way into ring 3 too."""
    pushes = b"".join(b"\x41" * (n > 7) + bytes((0x50 | n & 7,)) for n in range(16) if n != 4)
    pointer = b"\x48\x89\x24\x25" + struct.pack("<I", DATA + 0x2100 + 15 * 8)  # mov [...], rsp
    vectors = b"".join(
        b"\xf3" + b"\x44" * (n > 7) + b"\x0f\x7f" + bytes((0x04 | (n & 7) << 3, 0x25)) + struct.pack("<I", DATA + 0x2000 + 16 * n)
        for n in range(16)
    )
    keep = pushes + pointer + vectors + mov(RDI, DATA + 0x2100) + mov(RCX, 15) + b"\x48\x89\xe6\xf3\x48\xa5"  # rep movsq
    ones = [b"\x66" + b"\x45" * (n > 7) + bytes((0x0F, 0x76, 0xC0 | (n & 7) * 9)) for n in range(16)]  # pcmpeqd
    work = keep + b"".join(ones) + mov(RDX, 7) + call(RESPOND, DATA + 0x2000, 0x180)
    template = boot(b"".join(ones[::2]) + serve(work), engine=engine)
    whole, cut = Vm(template, engine), Vm(template, engine)
    expected = {serve_once(whole).output for _ in range(3)}
    assert [output[: 16 * 16] for output in expected] == [(b"\xff" * 16 + bytes(16)) * 8]
    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(0.000_02):
            cut.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        for _ in range(200):
            assert {serve_once(cut).output} == expected
    finally:
        over.set()
        thread.join()
        for vm in (whole, cut):
            vm.close()
        template.close()


@pytest.mark.parametrize(
    "leave", [b"\x8e\xe0", b"\x8e\xe8", b"\xf3\x48\x0f\xae\xd0", b"\xf3\x48\x0f\xae\xd8", call(158, 0x1002, DATA)]
)
@pytest.mark.parametrize("value", [0, 3, 0x2B, 0x33, DATA + 0x2000, DATA + 0x3000])
def test_thread_pointers_are_the_templates_at_every_request(leave: bytes, value: int, engine: str) -> None:
    """Whatever a request does to FS and GS: by selector, by instruction where there is one, by system call."""
    words = b"".join(mov(RAX, n) + b"\x48\xa3" + struct.pack("<Q", DATA + 0x2000 * n) for n in (1, 2))
    look = (
        b"\x64\x48\x8b\x04\x25"
        + bytes(4)
        + _STORE
        + b"\x65\x48\x8b\x04\x25"
        + bytes(4)
        + b"\x48\xa3"
        + struct.pack("<Q", DATA + 8)
    )
    work = look + mov(RAX, value) + leave + call(RESPOND, DATA, 16)
    bases = call(158, 0x1002, DATA + 0x2000) + call(158, 0x1001, DATA + 0x4000)
    template = boot(bases + words + serve(work), engine=engine)
    vms = [Vm(template, engine) for _ in range(2)]
    try:
        for vm in (vms[0], vms[0], vms[1], vms[0], vms[1]):
            result = serve_once(vm)
            if result.end == "fault":
                assert result.outcome.detail.startswith(("invalid-instruction", "protection")), "the processor does not have it"
                return
            assert result.output == struct.pack("<QQ", 1, 2)
    finally:
        for vm in vms:
            vm.close()
        template.close()


def test_rights_taken_away_are_gone_at_once_and_back_after_a_reset(engine: str) -> None:
    """mprotect to read-only must hold against a translation that the processor has cached; a reset brings the right back."""
    store = b"\xc6\x04\x25" + struct.pack("<I", DATA + 0x2000) + b"\x01"
    with booted(serve(store + call(RESPOND, DATA, 8) + call(10, DATA + 0x2000, 4096, 1)), engine=engine) as vm:
        for _ in range(4):
            assert serve_once(vm).end == "finished"
    with booted(serve(store + call(10, DATA + 0x2000, 4096, 1) + store), engine=engine) as vm:
        assert serve_once(vm).outcome.detail.startswith(f"write of {DATA + 0x2000:#x}")


def test_a_device_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm_api, "DEVICE", "/dev/null/kvm")
    monkeypatch.setattr(kvm, "_opened", [])
    with pytest.raises(EngineUnavailable, match=r"cannot open /dev/null/kvm: .*; use --engine unicorn, or auto"):
        choose("kvm")
    monkeypatch.setattr(kvm_api, "DEVICE", "/dev/null")
    with pytest.raises(EngineUnavailable, match="/dev/null does not answer"):
        choose("kvm")


def test_files_are_given_back(kvm_reason: str) -> None:
    import os

    if kvm_reason:
        pytest.skip(f"no kvm engine: {kvm_reason}")
    template = load(program(SYSCALL, Convention.CGI), LIMITS)
    Vm(template, "kvm").close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        vm = Vm(template, "kvm")
        vm.close()
        vm.close()
    assert len(os.listdir("/proc/self/fd")) == before
    template.close()
