"""What stands in the supervisor half of a guest's address space: descriptors, gates, a task state, and a few instructions.

Bytes only; `paging.py` puts them in place. Constant but for two areas: the frame that `iretq` pops, and the stack that the
processor pushes to when it delivers an exception, which no guest survives (Intel SDM vol. 3, 3.4.5, 6.14, 7.7).
"""

from __future__ import annotations

import struct
from typing import Final

USER_CODE: Final = 0x33
USER_DATA: Final = 0x2B
"""Selectors as Linux gives them; no other selector loads in ring 3, above all no 32-bit code segment."""
KERNEL_CODE: Final = 0x08

KERNEL_BASE: Final = 0xFFFF_FF80_0000_0000
GDT_ADDRESS: Final = KERNEL_BASE
GDT_LIMIT: Final = 7 * 8 - 1
IDT_OFFSET: Final = 0x100
IDT_ADDRESS: Final = KERNEL_BASE + IDT_OFFSET
VECTORS: Final = 32
IDT_LIMIT: Final = VECTORS * 16 - 1
TSS_OFFSET: Final = 0x400
TSS_ADDRESS: Final = KERNEL_BASE + TSS_OFFSET
_TSS_BYTES: Final = 0x68
TSS_LIMIT: Final = _TSS_BYTES + 3
FRAME_OFFSET: Final = 0x800
FRAME_ADDRESS: Final = KERNEL_BASE + FRAME_OFFSET
"""What the stub's `iretq` pops: RIP, CS, RFLAGS, RSP, SS."""
EXCEPTION_STACK: Final = KERNEL_BASE + 0xF00
"""Where the stack of every exception begins; it grows down."""
STUB_ADDRESS: Final = KERNEL_BASE + 0x1000
LANDING_ADDRESS: Final = KERNEL_BASE + 0x2000
"""Where `syscall` and the gates arrive. Ring 3 may read it and jump to it, with interrupts enabled: so a jump is told."""

SCRUB_ADDRESS: Final = LANDING_ADDRESS + 0x80
"""Ring 3: loads null selectors and says so at the system call's port."""

RESTORE_ADDRESS: Final = LANDING_ADDRESS + 0xA0
"""Ring 3: loads floating-point state and RDX from the page's other part, RAX from RSP, RSP from there, and goes to RCX."""
RESTORED_OFFSET: Final = 0x3C0
"""Where in the landing page what it loads stands: RSP, RDX, and 64 bytes from here an XSAVE area without extensions.

Some processors look at as much of the page as the extensions would take.
"""

STUB: Final = b"\x48\xcf"
"""iretq."""
HLT: Final = b"\xf4"

SYSTEM_CALL_PORT: Final = 0x10
EXCEPTION_PORT: Final = 0x11
_GATE_BYTES: Final = 16
_GATES: Final = LANDING_ADDRESS + 0x100


def gate_address(vector: int) -> int:
    """Where the processor goes for an exception."""
    return _GATES + _GATE_BYTES * vector


def gate_vector(address: int) -> int:
    """The exception whose code `address` stands in, -1 when it stands in none."""
    vector = (address - _GATES) // _GATE_BYTES
    return vector if 0 <= vector < VECTORS else -1


def landing() -> bytes:
    """`out` to the one port, and for each gate `out` to the other: nothing else ever runs in ring 0."""
    code = _out(SYSTEM_CALL_PORT).ljust(SCRUB_ADDRESS - LANDING_ADDRESS, HLT)
    code += b"\x31\xc0\x8e\xd8\x8e\xc0\x8e\xe0\x8e\xe8" + _out(SYSTEM_CALL_PORT)  # xor eax, eax; mov ds, es, fs, gs
    code = code.ljust(RESTORE_ADDRESS - LANDING_ADDRESS, HLT) + _restore()
    return code.ljust(_GATES - LANDING_ADDRESS, HLT) + VECTORS * _out(EXCEPTION_PORT).ljust(_GATE_BYTES, HLT)


def _restore() -> bytes:
    """xrstor64 [area]; mov rax, rsp; mov rsp, [saved]; mov rdx, [saved + 8]; jmp rcx. Changes no flag."""
    code, saved = b"", RESTORED_OFFSET - (RESTORE_ADDRESS - LANDING_ADDRESS)
    for instruction, offset in ((b"\x48\x0f\xae\x2d", 64), (b"\x48\x89\xe0\x48\x8b\x25", 0), (b"\x48\x8b\x15", 8)):
        end = len(code) + len(instruction) + 4
        code += instruction + struct.pack("<i", saved + offset - end)
    return code + b"\xff\xe1"


def page() -> bytes:
    """GDT, IDT and TSS."""
    content = bytearray(TSS_OFFSET + TSS_LIMIT + 1)
    struct.pack_into("<7Q", content, 0, 0, *_kernel(), 0, 0, _descriptor(3, ring=3), _descriptor(11, ring=3))
    for vector in range(VECTORS):
        struct.pack_into("<QQ", content, IDT_OFFSET + 16 * vector, *_gate(gate_address(vector)))
    struct.pack_into("<Q", content, TSS_OFFSET + 4, EXCEPTION_STACK)
    struct.pack_into("<Q", content, TSS_OFFSET + 36, EXCEPTION_STACK)
    struct.pack_into("<H", content, TSS_OFFSET + 0x66, _TSS_BYTES)
    content[TSS_OFFSET + _TSS_BYTES :] = _permissions()
    return bytes(content)


def _permissions() -> bytes:
    """I/O permission bitmap: ring 3 may not use any port but the system call's.

    KVM on paravirtual page tables (kvm_pvm) runs the landing of a `syscall` with the rights of ring 3.
    """
    bits = (1 << 32) - 1 & ~(1 << SYSTEM_CALL_PORT)
    return bits.to_bytes(4, "little")


def _kernel() -> tuple[int, int]:
    return _descriptor(11, ring=0), _descriptor(3, ring=0)


def _out(port: int) -> bytes:
    return bytes((0xE6, port))


def _descriptor(kind: int, *, ring: int) -> int:
    """A flat, present, accessed data (3) or 64-bit code (11) descriptor."""
    access = kind | 0x10 | ring << 5 | 0x80
    return 0xFFFF | 0xF << 48 | access << 40 | (1 << 53 if kind == 11 else 1 << 54) | 1 << 55


def _gate(target: int) -> tuple[int, int]:
    """An interrupt gate of ring 0 on interrupt stack 1: `int n` from ring 3 is a protection fault that tells n."""
    low = target & 0xFFFF | KERNEL_CODE << 16 | 1 << 32 | 0x8E << 40 | (target >> 16 & 0xFFFF) << 48
    return low, target >> 32
