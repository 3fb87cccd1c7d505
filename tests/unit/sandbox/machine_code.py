"""Guests in machine code: a few instructions, an ELF file around them, and a run to the end."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from sandbox.events import Ended, HostCall
from sandbox.limits import DEFAULT_LIMITS, MIB, SECOND_NS, Limits
from sandbox.outcome import Outcome
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.vm import Template, Vm, load

TEXT = 0x401000
DATA = 0x600000
DATA_BYTES = 0x8000
RODATA = 0x500000
LIMITS = replace(DEFAULT_LIMITS, memory_bytes=8 * MIB, cpu_ns=SECOND_NS)
GET = GuestRequest(((b"REQUEST_METHOD", b"GET"), (b"PATH_INFO", b"/")))

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10 = range(11)
SYSCALL = b"\x0f\x05"
NEXT_REQUEST, RESPOND, LOG, FETCH, KV_GET, KV_PUT, FINISH = range(0x45440001, 0x45440008)
LOOP = b"\xeb\xfe"
"""A jump to itself."""


def mov(register: int, value: int) -> bytes:
    """mov r64, imm64."""
    return bytes((0x48 | register >> 3, 0xB8 | register & 7)) + struct.pack("<Q", value & (1 << 64) - 1)


ECHO = b"\x48\x89\xc6" + mov(RDI, DATA + 0x1000) + mov(RAX, RESPOND) + SYSCALL
"""Respond with the request as it came."""


def call(number: int, *args: int) -> bytes:
    """A system call with constant arguments."""
    registers = (RDI, RSI, RDX, R10, R8, R9)
    return b"".join(mov(r, v) for r, v in zip(registers, args, strict=False)) + mov(RAX, number) + SYSCALL


def call_with_result(number: int, *args: int, into: int = 0) -> bytes:
    """A system call whose result is stored at DATA + into."""
    return call(number, *args) + store_rax(DATA + into)


def store_rax(address: int) -> bytes:
    """mov [address], rax."""
    return b"\x48\xa3" + struct.pack("<Q", address)


def load_rax(address: int) -> bytes:
    """mov rax, [address]."""
    return b"\x48\xa1" + struct.pack("<Q", address)


def exit_(status: int = 0) -> bytes:
    return call(231, status)


def put(text: bytes) -> bytes:
    """Write `text` to stdout, from where it stands behind a jump."""
    jump = b"\xe9" + struct.pack("<i", len(text))
    lea = b"\x48\x8d\x35" + struct.pack("<i", -len(text) - 7)
    return jump + text + lea + mov(RDI, 1) + mov(RDX, len(text)) + mov(RAX, 1) + SYSCALL


def dump(length: int, at: int = DATA) -> bytes:
    """Write guest memory to stdout, and exit."""
    return call(1, 1, at, length) + exit_()


def serve(work: bytes, size: int = 4096) -> bytes:
    """A resident program: ask for a request into DATA + 0x1000, do `work`, ask again."""
    loop = call(NEXT_REQUEST, DATA + 0x1000, size) + work
    return loop + b"\xe9" + struct.pack("<i", -len(loop) - 5)


@dataclass(frozen=True)
class Seg:
    """A program header of an ELF under construction, with its content."""

    address: int
    content: bytes
    flags: int
    memory_bytes: int | None = None
    kind: int = 1


def elf(segments: list[Seg], entry: int = TEXT, *, kind: int = 2, machine: int = 62, count: int | None = None) -> bytes:
    """An ELF executable: headers, then each segment on a page of its own in the file."""
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1".ljust(16, b"\0"), kind, machine, 1, entry, 64, 0, 0, 64, 56,
        len(segments) if count is None else count, 0, 0, 0,
    )  # fmt: skip
    table, body, offset = b"", b"", 4096
    for seg in segments:
        place = offset + seg.address % 4096
        size = len(seg.content) if seg.memory_bytes is None else seg.memory_bytes
        table += struct.pack("<IIQQQQQQ", seg.kind, seg.flags, place, seg.address, seg.address, len(seg.content), size, 4096)
        chunk = bytes(seg.address % 4096) + seg.content
        body += chunk.ljust(-(-len(chunk) // 4096) * 4096, b"\0")
        offset = 4096 + len(body)
    return (head + table).ljust(4096, b"\0") + body


def image(code: bytes, data: bytes = b"") -> bytes:
    return elf(
        [
            Seg(TEXT, code, 5),
            Seg(RODATA, b"read-only".ljust(64, b"."), 4),
            Seg(DATA, data, 6, DATA_BYTES),
        ]
    )


def program(code: bytes, convention: Convention = Convention.CGI, **more: object) -> Program:
    return replace(Program(image(code), convention), **more)  # type: ignore[arg-type]


@dataclass
class Result:
    outcome: Outcome
    output: bytes = b""
    log: bytes = b""
    asked: list[HostCall] = field(default_factory=list)

    @property
    def end(self) -> str:
        return str(self.outcome.end)

    def words(self) -> tuple[int, ...]:
        """The output as signed 64-bit words."""
        return struct.unpack(f"<{len(self.output) // 8}q", self.output)


def finish(vm: Vm, slice_ns: int = SECOND_NS, answers: list[int | bytes] | None = None) -> Result:
    """Run a VM's request to its end, answering host calls from `answers`."""
    output, log, asked, answers = b"", b"", [], list(answers or [])
    for _ in range(100_000):
        part = vm.run(slice_ns)
        output += part.output
        log += part.log
        if isinstance(part.event, Ended):
            return Result(part.event.outcome, output, log, asked)
        if isinstance(part.event, HostCall):
            asked.append(part.event)
            vm.answer(answers.pop(0) if answers else -38)
    raise AssertionError("no end")


def run(code: bytes, request: GuestRequest = GET, limits: Limits = LIMITS, *, engine: str = "unicorn", **more: object) -> Result:
    """Load, fork, run and close a `cgi` guest."""
    answers = more.pop("answers", None)
    template = load(program(code, **more), limits)
    vm = Vm(template, engine)
    try:
        vm.begin(request, limits)
        return finish(vm, answers=answers)  # type: ignore[arg-type]
    finally:
        vm.close()
        template.close()


def boot(code: bytes | Program, limits: Limits = LIMITS, *, engine: str = "unicorn") -> Template:
    """Boot a resident guest and freeze it."""
    first = load(code if isinstance(code, Program) else program(code, Convention.RESIDENT), limits)
    vm = Vm(first, engine)
    try:
        part = vm.run(SECOND_NS)
        while not isinstance(part.event, Ended) and type(part.event).__name__ != "Booted":
            part = vm.run(SECOND_NS)
        assert not isinstance(part.event, Ended), part.event
        return vm.freeze()
    finally:
        vm.close()
        first.close()


@contextmanager
def loaded(code: bytes, limits: Limits = LIMITS, *, engine: str) -> Iterator[Vm]:
    """A VM of a cgi program, before its first request."""
    template = load(program(code), limits)
    try:
        with closing(Vm(template, engine)) as vm:
            yield vm
    finally:
        template.close()


@contextmanager
def booted(code: bytes | Program, limits: Limits = LIMITS, *, engine: str) -> Iterator[Vm]:
    """A VM of a resident program, before its first request."""
    template = boot(code, limits, engine=engine)
    try:
        with closing(Vm(template, engine)) as vm:
            yield vm
    finally:
        template.close()


def serve_once(vm: Vm, request: GuestRequest = GET, limits: Limits = LIMITS) -> Result:
    vm.begin(request, limits)
    result = finish(vm)
    if result.end == "finished":
        vm.reset()
    return result
