"""An ELF file becomes an `Image`: segments, entry and page flags, or an `ImageError` that says what is wrong and what would do.

Pure parsing of hostile bytes: no memory is mapped here. `template.py` places the image in a guest (System V gABI, chapters 4
and 5; the AMD64 supplement).
"""

from __future__ import annotations

import enum
import itertools
import struct
from dataclasses import dataclass
from typing import Final

from sandbox.errors import ImageError
from sandbox.pages.paging import LOWEST_BASE, PAGE, USER_TOP, page_flags

MAX_HEADERS: Final = 64
PIE_BASE: Final = 0x400000
"""Where a static PIE goes: fixed, for a template is shared by all forks anyway."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_INTERP, _PT_PHDR = 1, 3, 6
_ET_EXEC, _ET_DYN = 2, 3
_X86_64 = 62
_TYPES = {0: "no", 1: "an object file (link it first)", 4: "a core dump"}
_MACHINES = {
    2: "SPARC", 3: "x86 (32-bit)", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "S/390", 40: "ARM (32-bit)",
    50: "IA-64", 183: "AArch64", 243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip
_NOT_FOR_US = "; this machine runs static x86-64 ELF executables"


class _Flag(enum.IntFlag):
    EXECUTE = 1
    WRITE = 2
    READ = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD: where it goes, what it holds, and what the guest may do there."""

    address: int
    memory_bytes: int
    content: bytes
    flags: int

    @property
    def end(self) -> int:
        return self.address + self.memory_bytes


@dataclass(frozen=True, slots=True)
class Image:
    """A program that can be placed: addresses are final (a PIE's bias is already in them)."""

    entry: int
    segments: tuple[Segment, ...]
    header_address: int
    """Where the program headers are in memory (AT_PHDR), 0 when no segment holds them."""
    header_count: int
    pages: tuple[tuple[int, int], ...]
    """Virtual page number and flags, ascending."""

    @property
    def base(self) -> int:
        return self.pages[0][0] * PAGE

    @property
    def end(self) -> int:
        return (self.pages[-1][0] + 1) * PAGE

    @property
    def text(self) -> tuple[tuple[int, int], ...]:
        """Address ranges of the executable pages, merged."""
        executable = page_flags(read=True, write=False, execute=True)
        ranges: list[tuple[int, int]] = []
        for page, flags in self.pages:
            if flags == executable:
                start = page * PAGE
                if ranges and ranges[-1][1] == start:
                    ranges[-1] = (ranges[-1][0], start + PAGE)
                else:
                    ranges.append((start, start + PAGE))
        return tuple(ranges)


@dataclass(frozen=True, slots=True)
class _Program:
    """One program header as it stands in the file."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_bytes: int
    memory_bytes: int
    alignment: int


def parse(data: bytes, memory_bytes: int = USER_TOP) -> Image:
    """Read a static x86-64 executable for a guest of `memory_bytes`. Raises ImageError, and nothing else, for any other bytes."""
    kind, entry, table, count = _header(data)
    programs = [_Program(*_PROGRAM.unpack_from(data, table + i * _PROGRAM.size)) for i in range(count)]
    if any(p.kind == _PT_INTERP for p in programs):
        raise ImageError("it is dynamically linked (it names an interpreter): link it statically (-static)")
    loads = [p for p in programs if p.kind == _PT_LOAD and p.memory_bytes]
    if not loads:
        raise ImageError("it has no segment to load: is it a linked executable?")
    for number, load in enumerate(loads):
        _check(load, number, len(data))
    loads.sort(key=lambda p: p.address)
    for lower, upper in itertools.pairwise(loads):
        if lower.address + lower.memory_bytes > upper.address:
            raise ImageError(f"segments overlap at {upper.address:#x}")
    bias = PIE_BASE if kind == _ET_DYN else 0
    span = loads[-1].address + loads[-1].memory_bytes - loads[0].address // PAGE * PAGE
    if span > memory_bytes:
        raise ImageError(
            f"its segments span {span} bytes, and the machine has {memory_bytes}: raise the memory limit or shrink it"
        )
    lowest, highest = loads[0].address + bias, loads[-1].address + loads[-1].memory_bytes + bias
    if lowest < LOWEST_BASE:
        raise ImageError(f"a segment is at {lowest:#x}: nothing may be below {LOWEST_BASE:#x}, where null pointers fault")
    if highest > USER_TOP:
        raise ImageError(f"a segment ends at {highest:#x}, outside the user half of the address space")
    entry += bias
    if not any(p.flags & _Flag.EXECUTE and p.address + bias <= entry < p.address + bias + p.memory_bytes for p in loads):
        raise ImageError(f"its entry point {entry:#x} is in no executable segment")
    return Image(
        entry=entry,
        segments=tuple(
            Segment(p.address + bias, p.memory_bytes, data[p.offset : p.offset + p.file_bytes], p.flags) for p in loads
        ),
        header_address=_headers_in_memory(programs, loads, table, bias),
        header_count=count,
        pages=_pages(loads, bias),
    )


def _header(data: bytes) -> tuple[int, int, int, int]:
    """Type, entry, offset and number of program headers of an acceptable file header."""
    if data[:4] != b"\x7fELF":
        found = "a script (#!)" if data[:2] == b"#!" else "a WebAssembly module" if data[:4] == b"\0asm" else "not an ELF file"
        raise ImageError(f"it is {found}{_NOT_FOR_US}")
    if data[4:5] == b"\1":
        raise ImageError(f"it is a 32-bit ELF file{_NOT_FOR_US}")
    if data[5:6] == b"\2":
        raise ImageError(f"it is a big-endian ELF file{_NOT_FOR_US}")
    if len(data) < _HEADER.size:
        raise ImageError(f"it is truncated: {len(data)} bytes do not hold an ELF header")
    ident, kind, machine, version, entry, table, _, _, _, entry_bytes, count, *_ = _HEADER.unpack_from(data)
    if ident[4] != 2 or ident[5] != 1 or ident[6] != 1 or version != 1:
        raise ImageError(f"its ELF identification is not valid{_NOT_FOR_US}")
    if machine != _X86_64:
        raise ImageError(f"it is for {_MACHINES.get(machine, f'machine {machine}')}{_NOT_FOR_US}")
    if kind not in (_ET_EXEC, _ET_DYN):
        raise ImageError(f"it is {_TYPES.get(kind, f'of ELF type {kind}')}, not an executable")
    if not count:
        raise ImageError("it has no program headers: is it a linked executable?")
    if count > MAX_HEADERS:
        raise ImageError(f"it has {count} program headers; at most {MAX_HEADERS} are accepted")
    if entry_bytes != _PROGRAM.size:
        raise ImageError(f"its program headers are {entry_bytes} bytes long, not {_PROGRAM.size}")
    if table + count * _PROGRAM.size > len(data):
        raise ImageError(f"it is truncated: its program headers end past its {len(data)} bytes")
    return kind, entry, table, count


def _check(load: _Program, number: int, file_bytes: int) -> None:
    where = f"segment {number} at {load.address:#x}"
    if load.file_bytes > load.memory_bytes:
        raise ImageError(f"{where} is larger in the file than in memory")
    if load.offset + load.file_bytes > file_bytes:
        raise ImageError(f"it is truncated: {where} ends past its {file_bytes} bytes")
    if load.address + load.memory_bytes > USER_TOP:
        raise ImageError(f"{where} ends outside the user half of the address space")
    if load.flags & _Flag.WRITE and load.flags & _Flag.EXECUTE:
        raise ImageError(f"{where} is both writable and executable: data is never executable here")
    if load.file_bytes and (load.address - load.offset) % PAGE:
        raise ImageError(f"{where} is misaligned: its address and its file offset differ by no multiple of {PAGE}")
    if load.alignment > 1 and load.alignment & (load.alignment - 1):
        raise ImageError(f"{where} is misaligned: its alignment {load.alignment} is no power of two")


def _pages(loads: list[_Program], bias: int) -> tuple[tuple[int, int], ...]:
    """Flags by page. Where segments meet in one page, it has the rights of both; writable and executable do not meet."""
    rights: dict[int, int] = {}
    for load in loads:
        first = (load.address + bias) // PAGE
        last = (load.address + bias + load.memory_bytes - 1) // PAGE
        for page in range(first, last + 1):
            rights[page] = rights.get(page, 0) | load.flags
            if rights[page] & _Flag.WRITE and rights[page] & _Flag.EXECUTE:
                raise ImageError(
                    f"the page at {page * PAGE:#x} is in a writable and in an executable segment: align them to pages"
                )
    return tuple(
        (page, page_flags(read=bool(r & _Flag.READ), write=bool(r & _Flag.WRITE), execute=bool(r & _Flag.EXECUTE)))
        for page, r in sorted(rights.items())
    )


def _headers_in_memory(programs: list[_Program], loads: list[_Program], table: int, bias: int) -> int:
    for program in programs:
        if program.kind == _PT_PHDR:
            if program.address + bias > USER_TOP:
                raise ImageError(f"its program headers are at {program.address:#x}, outside the user half of the address space")
            return program.address + bias
    for load in loads:
        if load.offset <= table < load.offset + load.file_bytes:
            return load.address + table - load.offset + bias
    return 0
