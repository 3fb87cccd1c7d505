"""What a guest's instructions may not do ends its request with a named fault, and nothing else."""

from __future__ import annotations

import struct

import pytest

from sandbox.limits import MIB
from sandbox.pages.paging import USER_TOP
from sandbox.pages.supervisor import GDT_ADDRESS, STUB_ADDRESS
from tests.unit.sandbox.machine_code import DATA, LIMITS, RAX, RCX, RDI, RODATA, RSI, RSP, SYSCALL, TEXT, exit_, mov, put, run

OUTSIDE = TEXT + LIMITS.memory_bytes
STACK = OUTSIDE - MIB
LOAD, STORE, JUMP = b"\x8a\x00", b"\x88\x00", b"\xff\xe0"

FAULTS = {
    "read null": (mov(RAX, 0) + LOAD, "read at 0x40100a"),
    "write null": (mov(RAX, 8) + STORE, "write of 0x8 at 0x40100a"),
    "jump to null": (mov(RAX, 0) + JUMP, "execute at 0x0"),
    "read an unmapped page of the window": (mov(RAX, 0x580000) + LOAD, "read of 0x580000"),
    "write an unmapped page of the window": (mov(RAX, 0x580000) + STORE, "write of 0x580000"),
    "read and write back an unmapped page": (mov(RAX, 0x580000) + b"\xfe\x00", "of 0x580000"),
    "read past the window": (mov(RAX, OUTSIDE) + LOAD, f"read of {OUTSIDE:#x}"),
    "write past the window": (mov(RAX, OUTSIDE) + STORE, f"write of {OUTSIDE:#x}"),
    "read the top of user space": (mov(RAX, USER_TOP) + LOAD, f"read of {USER_TOP:#x}"),
    "jump to the top of user space": (mov(RAX, USER_TOP) + JUMP, f"execute of {USER_TOP:#x}"),
    "write read-only data": (mov(RAX, RODATA) + STORE, f"write of {RODATA:#x}"),
    "write text": (mov(RAX, TEXT) + STORE, f"write of {TEXT:#x}"),
    "execute data": (mov(RAX, DATA) + JUMP, f"execute of {DATA:#x}"),
    "execute read-only data": (mov(RAX, RODATA) + JUMP, f"execute of {RODATA:#x}"),
    "execute the stack": (b"\xff\xe4", "execute of"),
    "execute past the text": (mov(RAX, TEXT + 0x1000) + JUMP, "execute of 0x402000 at 0x402000"),
    "jump into the stub": (mov(RAX, STUB_ADDRESS) + JUMP, f"execute of {STUB_ADDRESS:#x}"),
    "read the stub": (mov(RAX, STUB_ADDRESS) + LOAD, f"read of {STUB_ADDRESS:#x}"),
    "write the GDT": (mov(RAX, GDT_ADDRESS) + STORE, f"write of {GDT_ADDRESS:#x}"),
    "stack in the stub": (mov(RSP, STUB_ADDRESS + 0x800) + b"\x50", f"write of {STUB_ADDRESS + 0x7F8:#x}"),
    "non-canonical address": (mov(RAX, 1 << 63) + LOAD, "protection"),
    "non-canonical jump": (mov(RAX, 1 << 47) + JUMP, ""),
    "push below the stack": (mov(RSP, STACK) + b"\x50", f"stack of {STACK - 8:#x}"),
    "endless recursion": (b"\xe8\xfb\xff\xff\xff", "stack of"),
    "cli": (b"\xfa", "protection at 0x401000"),
    "hlt": (b"\xf4", "protection at 0x401000"),
    "mov cr3": (b"\x0f\x22\xd8", "protection"),
    "mov dr7": (b"\x0f\x23\xf8", "protection"),
    "lgdt": (mov(RAX, DATA) + b"\x0f\x01\x10", "protection"),
    "lidt": (mov(RAX, DATA) + b"\x0f\x01\x18", "protection"),
    "invlpg": (mov(RAX, DATA) + b"\x0f\x01\x38", "protection"),
    "wbinvd": (b"\x0f\x09", "protection"),
    "rdmsr": (b"\x0f\x32", "protection"),
    "wrmsr": (b"\x0f\x30", "protection"),
    "swapgs": (b"\x0f\x01\xf8", "protection"),
    "iretq": (b"\x48\xcf", "protection"),
    "sysret": (b"\x48\x0f\x07", "protection"),
    "sysexit": (b"\x0f\x35", "protection"),
    "bogus selector": (mov(RAX, 0x77) + b"\x8e\xd8", "protection"),
    "null stack selector": (mov(RAX, 0) + b"\x8e\xd0", "protection"),
    "far return to 32-bit code": (b"\x6a\x23\x68" + struct.pack("<i", TEXT) + b"\x48\xcb", "protection"),
    "vmcall": (b"\x0f\x01\xc1", ""),
    "vmrun": (b"\x0f\x01\xd8", ""),
    "vmmcall": (b"\x0f\x01\xd9", ""),
    "xsetbv": (b"\x0f\x01\xd1", ""),
    "monitor": (b"\x0f\x01\xc8", ""),
    "ltr": (mov(RAX, 0x28) + b"\x0f\x00\xd8", ""),
    "lldt": (mov(RAX, 0x28) + b"\x0f\x00\xd0", ""),
    "lmsw": (b"\x0f\x01\xf0", "protection"),
    "clts": (b"\x0f\x06", "protection"),
    "rsm": (b"\x0f\xaa", ""),
    "lock on a register": (b"\xf0\x48\x01\xc0", "invalid-instruction"),
    "huge rep store": (mov(RDI, DATA) + mov(RCX, 1 << 62) + b"\xf3\xaa", "write of 0x608000"),
    "huge rep load": (mov(RSI, DATA) + mov(RCX, 1 << 62) + b"\xf3\xac", "read of 0x608000"),
    "huge rep copy backwards": (
        b"\xfd" + mov(RSI, DATA + 8) + mov(RDI, DATA + 16) + mov(RCX, 1 << 62) + b"\xf3\xa4",
        "read of 0x5fffff",
    ),
    "ud2": (b"\x0f\x0b", "invalid-instruction at 0x401000"),
    "an old opcode": (b"\x06", "invalid-instruction"),
    "xgetbv": (b"\x0f\x01\xd0", "invalid-instruction"),
    "wrfsbase": (b"\xf3\x48\x0f\xae\xd0", "invalid-instruction"),
    "divide by zero": (mov(RCX, 0) + b"\xf7\xf1", "divide at 0x40100a"),
    "int3": (b"\xcc", "interrupt"),
    "int 0x80": (b"\xcd\x80", "interrupt at 0x401000"),
    "int 14 is no page fault": (b"\xcd\x0e", "interrupt at 0x401000"),
    "int 13 is no protection fault": (b"\xcd\x0d", "interrupt at 0x401000"),
    "sysenter": (b"\x0f\x34", "interrupt"),
    "in": (b"\xec", "interrupt"),
    "out": (b"\xee", "interrupt"),
    "insb": (mov(RDI, DATA) + b"\x6c", "interrupt"),
    "rep outsb": (mov(RSI, DATA) + mov(RCX, 9) + b"\xf3\x6e", "interrupt"),
    "single step": (b"\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x90", "interrupt"),
    "unmasked x87 exception": (
        mov(RAX, DATA) + b"\xc7\x00\x00\x00\x00\x00" + b"\xd9\x28" + b"\xd9\xe8\xd9\xee\xde\xf9\x9b\xd9\xe8", "floating-point",
    ),
}  # fmt: skip

ON_KVM = {
    "in": "protection",
    "out": "protection",
    "insb": "protection",
    "rep outsb": "protection",
    "int 0x80": "",
    "int 14 is no page fault": "",
    "int 13 is no protection fault": "",
    "sysenter": "",
}
"""Where the processor itself has another word for it, or KVM on paravirtual page tables has."""
HARMLESS_ON_KVM = {"vmcall", "vmmcall", "xgetbv", "wrfsbase", "monitor"}
"""May also do nothing at all: a hypercall from ring 3 is refused, and what the processor has is not always hidden."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str, engine: str) -> None:
    code, expected = FAULTS[name]
    result = run(code + put(b"alive") + exit_(), engine=engine)
    if engine == "kvm":
        expected = ON_KVM.get(name, expected)
        if name in HARMLESS_ON_KVM and result.end == "finished":
            return
    assert result.end == "fault", result
    assert expected in result.outcome.detail
    assert result.output in (b"", b"alive"), "nothing that follows a fault is sent as a finished answer"


def test_text_is_never_rewritten(engine: str) -> None:
    """Self-modifying code does not modify: the store itself faults."""
    patch = mov(RAX, TEXT + 64) + b"\xc6\x00\x90"
    result = run(patch.ljust(64, b"\x90") + put(b"x") + exit_(), engine=engine)
    assert result.outcome.detail.startswith("write of 0x401040")


def test_a_system_call_behind_a_fault_is_not_answered(engine: str) -> None:
    result = run(b"\xec" + mov(RAX, 231) + SYSCALL, engine=engine)
    assert (result.end, result.outcome.usage.system_calls) == ("fault", 0)


def test_unmasked_sse_exception(engine: str) -> None:
    code = mov(RAX, DATA) + b"\xc7\x00\x00\x00\x00\x00" + b"\x0f\xae\x10" + b"\x0f\x57\xc0\x0f\x57\xc9\xf3\x0f\x5e\xc1" + exit_()
    result = run(code, engine=engine)
    assert result.end in ("fault", "no-answer"), "an engine may not deliver it, but then nothing else happens"
