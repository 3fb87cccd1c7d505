"""The hostile corpus: what strangers may send as programs, each with the end that it must come to.

Data only: machine code, an ELF file around it, and expectations. `test_corpus.py` runs it through the monitor, on every engine.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sandbox.guest.calls import CALLS
from sandbox.limits import MIB, MILLISECOND_NS
from sandbox.outcome import End
from sandbox.pages.paging import USER_TOP
from sandbox.pages.supervisor import GDT_ADDRESS, RESTORE_ADDRESS, STUB_ADDRESS
from sandbox.program import Convention
from tests.unit.sandbox.machine_code import (
    DATA,
    DATA_BYTES,
    FETCH,
    FINISH,
    KV_GET,
    LOG,
    NEXT_REQUEST,
    RAX,
    RBX,
    RCX,
    RDI,
    RESPOND,
    RODATA,
    RSI,
    RSP,
    SYSCALL,
    TEXT,
    Seg,
    call,
    call_with_result,
    dump,
    elf,
    exit_,
    image,
    mov,
    put,
    serve,
    store_rax,
)

MEMORY: Final = 8 * MIB
END: Final = TEXT + MEMORY
STACK: Final = END - MEMORY // 8
LOAD, STORE, JUMP = b"\x8a\x00", b"\x88\x00", b"\xff\xe0"
ENOSYS: Final = -38


@dataclass(frozen=True)
class Hostile:
    """One guest. `detail` must be in the outcome's; `only` names what an engine does otherwise: (end, detail)."""

    image: bytes
    end: End
    detail: str = ""
    convention: Convention = Convention.CGI
    words: tuple[int, ...] | None = None
    """The answer, as signed 64-bit words."""
    output: bytes | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    only: Mapping[str, tuple[End, str]] = field(default_factory=dict)

    def expected(self, engine: str) -> tuple[End, str]:
        return self.only.get(engine, (self.end, self.detail))


def code(text: bytes, end: End, detail: str = "", **more: object) -> Hostile:
    return Hostile(image(text), end, detail, **more)  # type: ignore[arg-type]


def fault(text: bytes, detail: str, **more: object) -> Hostile:
    """What follows the fault would answer, and must not."""
    return code(text + put(b"alive") + exit_(), End.FAULT, detail, **more)


def resident(text: bytes, end: End, detail: str = "", **more: object) -> Hostile:
    return code(text, end, detail, convention=Convention.RESIDENT, **more)


def loop(text: bytes) -> bytes:
    return text + b"\xe9" + struct.pack("<i", -len(text) - 5)


def refused(number: int, *args: int) -> Hostile:
    """A call for what does not exist here: -ENOSYS, and the program goes on."""
    return code(call_with_result(number, *args) + dump(8), End.FINISHED, words=(ENOSYS,))


def path_call(path: bytes, number: int, *args: int) -> Hostile:
    """`number` with a path, which stands at DATA + 64."""
    text = call_with_result(number, *(DATA + 64 if arg == PATH else arg for arg in args)) + dump(8)
    return Hostile(image(text, bytes(64) + path + b"\0"), End.FINISHED, words=(-2,))


PATH: Final = -1000

# Under a nested hypervisor the gate that refuses `int n` may be reported as another fault: see `only`.
SOFT_INTERRUPTS: Final = {"int 0x80", "int 8", "int 14"}
INSTRUCTIONS: Final[dict[str, Hostile]] = {
    name: fault(text, detail, only={"kvm": (End.FAULT, "")} if name in SOFT_INTERRUPTS else {})
    for name, text, detail in (
        ("cli", b"\xfa", "protection"),
        ("sti", b"\xfb", "protection"),
        ("hlt", b"\xf4", "protection"),
        ("mov from cr0", b"\x0f\x20\xc0", "protection"),
        ("mov to cr0", b"\x0f\x22\xc0", "protection"),
        ("mov to cr3", b"\x0f\x22\xd8", "protection"),
        ("mov to cr4", b"\x0f\x22\xe0", "protection"),
        ("mov to dr7", b"\x0f\x23\xf8", "protection"),
        ("lgdt", mov(RAX, DATA) + b"\x0f\x01\x10", "protection"),
        ("lidt", mov(RAX, DATA) + b"\x0f\x01\x18", "protection"),
        ("lldt", mov(RAX, 0x28) + b"\x0f\x00\xd0", ""),
        ("ltr", mov(RAX, 0x28) + b"\x0f\x00\xd8", ""),
        ("lmsw", b"\x0f\x01\xf0", "protection"),
        ("clts", b"\x0f\x06", "protection"),
        ("invlpg", mov(RAX, DATA) + b"\x0f\x01\x38", "protection"),
        ("invd", b"\x0f\x08", "protection"),
        ("wbinvd", b"\x0f\x09", "protection"),
        ("rdmsr", mov(RCX, 0xC0000082) + b"\x0f\x32", "protection"),
        ("wrmsr", mov(RCX, 0xC0000082) + b"\x0f\x30", "protection"),
        ("swapgs", b"\x0f\x01\xf8", "protection"),
        ("sysret", b"\x48\x0f\x07", "protection"),
        ("iretq to nowhere", b"\x48\xcf", "protection"),
        ("interrupts on by popf, then cli", b"\x68\x00\x32\x00\x00\x9d\xfa", "protection"),
        ("vmcall", b"\x0f\x01\xc1", ""),
        ("xsetbv", b"\x0f\x01\xd1", ""),
        ("monitor", b"\x0f\x01\xc8", ""),
        ("in", b"\xec", ""),
        ("out", b"\xee", ""),
        ("insb", mov(RDI, DATA) + b"\x6c", ""),
        ("rep outsb", mov(RSI, DATA) + mov(RCX, 9) + b"\xf3\x6e", ""),
        ("int3", b"\xcc", "interrupt"),
        ("int 0x80", b"\xcd\x80", "interrupt"),
        ("int 8", b"\xcd\x08", "interrupt"),
        ("int 14", b"\xcd\x0e", "interrupt"),
        ("sysenter", b"\x0f\x34", ""),
        ("single step", b"\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x90", "interrupt"),
        ("ud2", b"\x0f\x0b", "invalid-instruction"),
        ("lock on a register", b"\xf0\x48\x01\xc0", "invalid-instruction"),
        ("sixteen prefixes", b"\x66" * 16 + b"\x90", ""),
        ("bogus data selector", mov(RAX, 0x77) + b"\x8e\xd8", "protection"),
        ("null stack selector", mov(RAX, 0) + b"\x8e\xd0", "protection"),
        ("kernel stack selector", mov(RAX, 0x10) + b"\x8e\xd0", "protection"),
        ("far return to 32-bit code", b"\x6a\x23\x68" + struct.pack("<i", TEXT) + b"\x48\xcb", "protection"),
        ("far jump through memory", mov(RAX, DATA) + b"\xc7\x00\x00\x00\x00\x00\x66\xc7\x40\x04\x77\x00\xff\x28", "protection"),
        ("far call through memory", mov(RAX, DATA) + b"\xc7\x00\x00\x00\x00\x00\x66\xc7\x40\x04\x77\x00\xff\x18", "protection"),
        ("divide by zero", mov(RCX, 0) + b"\xf7\xf1", "divide"),
        ("divide overflow", mov(RAX, 1 << 63) + b"\x48\x99" + mov(RCX, -1) + b"\x48\xf7\xf9", "divide"),
        (
            "x87 exception",
            mov(RAX, DATA) + b"\xc7\x00\x00\x00\x00\x00\xd9\x28\xd9\xe8\xd9\xee\xde\xf9\x9b\xd9\xe8",
            "floating-point",
        ),
    )
}
MEMORY_TRICKS: Final[dict[str, Hostile]] = {
    name: fault(text, detail)
    for name, text, detail in (
        ("read null", mov(RAX, 0) + LOAD, "read"),
        ("write null", mov(RAX, 8) + STORE, "write of 0x8"),
        ("self-modifying code", mov(RAX, TEXT + 64) + b"\xc6\x00\x90", "write of 0x401040"),
        ("execute data", mov(RAX, DATA) + JUMP, "execute"),
        ("execute the stack", b"\xff\xe4", "execute"),
        ("execute read-only data", mov(RAX, RODATA) + JUMP, "execute"),
        ("write read-only data", mov(RAX, RODATA) + STORE, "write"),
        ("jump into the stub", mov(RAX, STUB_ADDRESS) + JUMP, "execute"),
        ("call the stub's middle", mov(RAX, STUB_ADDRESS + 1) + b"\xff\xd0", "execute"),
        ("stack in the stub", mov(RSP, STUB_ADDRESS + 0x800) + b"\x50", "write"),
        ("write the descriptor table", mov(RAX, GDT_ADDRESS) + STORE, "write"),
        ("past the window", mov(RAX, END) + LOAD, "read"),
        ("the top of user space", mov(RAX, USER_TOP) + LOAD, "read"),
        ("the kernel's half", mov(RAX, -4096) + LOAD, "read"),
        ("non-canonical load", mov(RAX, 1 << 63) + LOAD, "protection"),
        ("non-canonical jump", mov(RAX, 1 << 47) + JUMP, ""),
        ("non-canonical stack", mov(RSP, 1 << 62) + b"\x50", ""),
        ("non-canonical FS", call(158, 0x1002, (1 << 47) - 1) + b"\x64\x8a\x04\x25\x7f\0\0\0", ""),
        ("huge rep store", mov(RDI, DATA) + mov(RCX, 1 << 62) + b"\xf3\xaa", "write of 0x608000"),
        ("huge rep load", mov(RSI, DATA) + mov(RCX, 1 << 62) + b"\xf3\xac", "read of 0x608000"),
        ("huge rep copy backwards", b"\xfd" + mov(RSI, DATA + 8) + mov(RDI, DATA + 16) + mov(RCX, 1 << 62) + b"\xf3\xa4", "read"),
        ("recursion without end", b"\xe8\xfb\xff\xff\xff", "stack"),
        ("below the stack", mov(RSP, STACK) + b"\x50", "stack"),
        ("an unmapped page after munmap", call(11, DATA, 4096) + mov(RAX, DATA) + LOAD, "read"),
        ("a page made read-only", call(10, DATA, 4096, 1) + mov(RAX, DATA) + STORE, "write"),
        ("text made unreadable", call(10, TEXT, 4096, 0), "execute"),
        ("code in a mapping", call(9, 0, 4096, 3, 0x22, -1, 0) + JUMP, "execute"),
    )
}
ENGINE_KILLERS: Final = {
    # unicorn#1716: a far call through a register aborted the process before the engine looked for it; hardware says #UD.
    "FF D8": fault(b"\xff\xd8", "invalid-instruction"),
}
ABSENT_CALLS: Final = {
    name: refused(number, *args)
    for name, number, args in (
        ("fork", 57, ()), ("vfork", 58, ()), ("clone", 56, (0x11, 0, 0, 0, 0)), ("clone3", 435, (DATA, 88)),
        ("execve", 59, (DATA, 0, 0)), ("execveat", 322, (-100, DATA, 0, 0, 0)), ("socket", 41, (2, 1, 0)),
        ("connect", 42, (0, DATA, 16)), ("sendto", 44, (1, DATA, 8, 0, 0, 0)), ("ptrace", 101, (16, 1, 0, 0)),
        ("process_vm_readv", 310, (1, DATA, 1, DATA, 1, 0)), ("memfd_create", 319, (DATA, 0)), ("mount", 165, (DATA,) * 3),
        ("bpf", 321, (0, DATA, 128)), ("io_uring_setup", 425, (8, DATA)), ("perf_event_open", 298, (DATA, 0, -1, -1, 0)),
        ("userfaultfd", 323, (0,)), ("setuid", 105, (0,)), ("reboot", 169, (0xFEE1DEAD,)), ("kexec_load", 246, ()),
        ("prctl", 157, (4, 1)), ("seccomp", 317, (1, 0, DATA)), ("a negative number", -1, ()), ("an x32 call", 0x4000_0027, ()),
        ("an edge call that does not exist", 0x4544_0000, ()),
    )
}  # fmt: skip
FILES: Final = {
    "the host's passwords": path_call(b"/etc/passwd", 2, PATH, 0),
    "out of the bundle": path_call(b"../../../../etc/passwd", 257, -100, PATH, 0),
    "its own memory as a file": path_call(b"/proc/self/mem", 2, PATH, 2),
    "the KVM device": path_call(b"/dev/kvm", 2, PATH, 2),
}
FLOODS: Final = {
    "a loop": code(loop(b""), End.CPU_LIMIT, "CPU time", limits={"cpu_ns": 30 * MILLISECOND_NS}),
    "a loop of stores": code(
        loop(mov(RDI, DATA) + mov(RCX, DATA_BYTES) + b"\xf3\xaa"), End.CPU_LIMIT, limits={"cpu_ns": 30 * MILLISECOND_NS}
    ),
    "a loop over the time stamp": code(loop(b"\x0f\x31"), End.CPU_LIMIT, limits={"cpu_ns": 30 * MILLISECOND_NS}),
    "system calls": code(loop(call(39)), End.SYSTEM_CALL_LIMIT, "2000", limits={"system_calls": 2000}),
    "unknown system calls": code(
        mov(RBX, 1000) + loop(b"\xff\xc3\x89\xd8" + SYSCALL), End.SYSTEM_CALL_LIMIT, limits={"system_calls": 2000}),
    "slow system calls": code(
        loop(call(318, DATA, DATA_BYTES)), End.CPU_LIMIT, limits={"cpu_ns": 30 * MILLISECOND_NS, "system_calls": 1 << 30}
    ),
    "log by edge calls": code(loop(call(LOG, DATA, 1)), End.EDGE_CALL_LIMIT, limits={"edge_calls": 50}),
    "log by stderr": code(
        loop(call(1, 2, DATA, DATA_BYTES)), End.SYSTEM_CALL_LIMIT, limits={"system_calls": 2000, "log_bytes": 1000}
    ),
    "output": code(loop(call(1, 1, DATA, DATA_BYTES)), End.OUTPUT_LIMIT, limits={"output_bytes": MIB}),
    "all output at once": code(call(1, 1, DATA, 1 << 62), End.OUTPUT_LIMIT),
    "sub-requests": code(loop(call(FETCH, DATA, 8, DATA, 64)), End.EDGE_CALL_LIMIT, limits={"sub_requests": 3}),
    "look-ups in its store": code(loop(call(KV_GET, DATA, 8, DATA, 64)), End.EDGE_CALL_LIMIT, limits={"edge_calls": 3}),
    "sleeps": code(loop(call(35, DATA, 0) + b"\xc6\x04\x25" + struct.pack("<I", DATA) + b"\x01"), End.SYSTEM_CALL_LIMIT,
                   limits={"system_calls": 2000}),
    "memory by mmap": code(
        loop(call(9, 0, 1 << 16, 3, 0x22, -1, 0) + b"\xc6\x00\x01"), End.MEMORY_LIMIT, "refused"
    ),
    "memory in one map": code(call(9, 0, 1 << 60, 3, 0x22, -1, 0) + STORE, End.MEMORY_LIMIT, "refused"),
    "memory by brk": code(
        call(12, 0) + b"\x48\x89\xc3" + loop(
            b"\x48\x81\xc3" + struct.pack("<I", 1 << 16) + b"\x48\x89\xdf" + mov(RAX, 12) + SYSCALL + b"\xc6\x43\xff\x01"
        ),
        End.MEMORY_LIMIT,
        "refused",
    ),
    "mappings": code(loop(call(9, 0, 4096, 3, 0x22, -1, 0) + b"\x48\x89\xc7" + mov(RSI, 1) + mov(RAX, 11) + SYSCALL),
                     End.SYSTEM_CALL_LIMIT, limits={"system_calls": 2000}),
    "open files": code(loop(call(32, 1)), End.SYSTEM_CALL_LIMIT, limits={"system_calls": 2000}),
}  # fmt: skip
ENDS: Final = {
    "no answer": code(exit_(), End.NO_ANSWER),
    "an exit status": code(put(b"x") + exit_(7), End.EXIT_STATUS, "status 7"),
    "a signal to itself": code(put(b"x") + call(62, 1, 9), End.EXIT_STATUS, "signal 9"),
    "a signal to all": code(call_with_result(62, -1, 9) + dump(8), End.FINISHED, words=(-3,)),
    "a signal to another": code(call_with_result(62, 4242, 9) + dump(8), End.FINISHED, words=(-3,)),
    "a request for a request, by a cgi program": code(
        call_with_result(NEXT_REQUEST, DATA, 4096) + dump(8), End.FINISHED, words=(ENOSYS,)
    ),
    "an answer by respond, by a cgi program": code(
        call_with_result(RESPOND, DATA, 8) + dump(8), End.FINISHED, words=(ENOSYS,)
    ),
    "an answer finished by a cgi program": code(
        call_with_result(FINISH, DATA, 8, DATA, 4096) + dump(8), End.FINISHED, words=(ENOSYS,)
    ),
    "no answer, finished": resident(serve(call(FINISH, DATA, 0, DATA, 4096)), End.NO_ANSWER),
    "an answer from nowhere, finished": resident(
        serve(call(FINISH, 1 << 63, 8, DATA, 4096) + store_rax(DATA) + call(FINISH, DATA, 8, 0, -1)), End.FINISHED, words=(-14,)
    ),
    "an answer too large, finished": resident(serve(call(FINISH, DATA, 1 << 62, 0, -1)), End.OUTPUT_LIMIT),
    "a boot that finishes": resident(call(FINISH, DATA, 8, DATA, 8) + b"\x0f\x0b", End.BOOT_FAILED, "fault"),
    "no answer, and on to the next request": resident(serve(b""), End.NO_ANSWER),
    "an exit within an answer": resident(serve(call(RESPOND, DATA, 8) + exit_()), End.EXIT_STATUS, "status 0"),
    "a fault within an answer": resident(serve(call(RESPOND, DATA, 8) + b"\x0f\x0b"), End.FAULT, "invalid-instruction"),
    "a buffer too small for the request": resident(serve(b"", size=4), End.NO_ANSWER, "do not fit"),
    "a buffer in its text": resident(call(NEXT_REQUEST, TEXT, 4096) + b"\x0f\x0b", End.FAULT, "invalid-instruction"),
    "a boot that exits": resident(exit_(), End.BOOT_FAILED),
    "a boot that faults": resident(b"\x0f\x0b", End.BOOT_FAILED, "fault"),
    "a boot without end": resident(loop(b""), End.BOOT_FAILED, "cpu-limit", limits={"boot_cpu_ns": 30 * MILLISECOND_NS}),
    "a boot that answers": resident(call(RESPOND, DATA, 8) + loop(call(39)), End.BOOT_FAILED, "system-call-limit",
                                    limits={"system_calls": 2000}),
    "a deadline while it computes": code(loop(b""), End.WALL_LIMIT, limits={"wall_ns": 200 * MILLISECOND_NS}),
    "a jump to where ring 3 restores itself": fault(mov(RAX, RESTORE_ADDRESS) + JUMP, ""),
    "the time stamp counter": code(b"\x0f\x31" + put(b"ticks") + exit_(), End.FINISHED, output=b"ticks"),
    "its processor's name": code(b"\x31\xc0\x0f\xa2" + put(b"name") + exit_(), End.FINISHED, output=b"name"),
}  # fmt: skip


def _wild() -> bytes:
    """Every call with wild pointers and lengths in every argument, and then an answer."""
    values = (0, 1, DATA + DATA_BYTES - 4, TEXT, RODATA, USER_TOP, 1 << 47, 1 << 63, (1 << 64) - 1, STUB_ADDRESS)
    ends = {
        "exit",
        "exit_group",
        "kill",
        "tkill",
        "tgkill",
        "next_request",
        "arch_prctl",
        "munmap",
        "mprotect",
        "brk",
        "close",
        "dup2",
        "dup3",
    }
    text = b""
    for number, row in CALLS.items():
        if row.name not in ends:
            for value in values:
                text += call(number, value, value, value, value, value, value)
                text += call(number, 3, value, 16, value, 16, value)
    return text


BROKEN: Final = {
    "an empty file": b"",
    "a script": b"#!/bin/sh\n",
    "half a header": image(b"\xc3")[:40],
    "headers past the end": elf([Seg(TEXT, b"\xc3", 5)], count=60)[:128],
    "65535 headers": elf([Seg(TEXT, b"\xc3", 5)], count=65535),
    "no headers": elf([], count=0),
    "a truncated segment": image(b"\xc3")[:5000],
    "overlapping segments": elf([Seg(TEXT, bytes(64), 5, 0x3000), Seg(TEXT + 0x1000, bytes(64), 4, 0x3000)]),
    "a segment of 2^63 bytes": elf([Seg(TEXT, b"\xc3", 5, 1 << 63)]),
    "a segment that wraps": elf([Seg((1 << 64) - 4096, b"\xc3", 5, 8192)], entry=(1 << 64) - 4096),
    "a segment as large as user space": elf([Seg(TEXT, b"\xc3", 5, USER_TOP - TEXT)]),
    "a segment at null": elf([Seg(0, b"\xc3", 5)], entry=0),
    "a segment over the stub": elf([Seg(STUB_ADDRESS & -4096, b"\xc3", 5)], entry=STUB_ADDRESS & -4096),
    "write and execute": elf([Seg(TEXT, b"\xc3", 7)]),
    "write and execute in one page": elf([Seg(TEXT, b"\xc3", 5, 8), Seg(TEXT + 8, b"x", 6, 8)]),
    "more in the file than in memory": elf([Seg(TEXT, bytes(64), 5, 8)]),
    "an entry in data": elf([Seg(TEXT, b"\xc3", 5), Seg(DATA, b"\xc3", 6)], entry=DATA),
    "an entry nowhere": elf([Seg(TEXT, b"\xc3", 5)], entry=1 << 62),
    "another machine's": elf([Seg(TEXT, b"\xc3", 5)], machine=183),
    "a dynamic one": elf([Seg(TEXT, b"\xc3", 5), Seg(RODATA, b"/lib/ld.so\0", 4, kind=3)]),
    "an object file": elf([Seg(TEXT, b"\xc3", 5)], kind=1),
}
CORPUS: Final[dict[str, Hostile]] = {
    **INSTRUCTIONS,
    **MEMORY_TRICKS,
    **ENGINE_KILLERS,
    **{f"call {name}": guest for name, guest in ABSENT_CALLS.items()},
    **{f"open {name}": guest for name, guest in FILES.items()},
    **{f"endless {name}": guest for name, guest in FLOODS.items()},
    **ENDS,
    **{f"image: {name}": Hostile(data, End.REJECTED) for name, data in BROKEN.items()},
    "wild pointers in every call": Hostile(
        elf([Seg(TEXT, _wild() + put(b"alive") + exit_(), 5), Seg(0x5FF000, bytes(16), 4), Seg(DATA, b"", 6, DATA_BYTES)]),
        End.FINISHED,
        output=b"alive",
        limits={"edge_calls": 1000, "sub_requests": 1000},
    ),
}
