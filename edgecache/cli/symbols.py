"""Where in a program's source an address is, for messages about faults: addr2line(1), else the symbol table (elf(5)).

`generator build` keeps a copy of the program with symbols beside it, which is not pushed; `generator run` asks here. A program
without symbols, or with broken ones, has no places.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_SHT_SYMTAB: Final = 2
_STT_FUNC: Final = 2
_MAX_NAME: Final = 200
_ADDRESS: Final = re.compile(r" at 0x([0-9a-f]{1,16})\b")


_ADDR2LINE_SECONDS: Final = 10.0
_MAX_FILE_BYTES: Final = 64 << 20


def symbols_of(program: Path) -> Path:
    """Where the copy with symbols is: a hidden file, so that it is part of no bundle."""
    return program.with_name(f".{program.name}.debug")


def placed(detail: str, program: Path) -> str:
    """`detail` of a fault ("write of 0x10 at 0x1002f2e") with the place of the instruction, where that is known.

    Nothing is known of a program that is newer than its symbols: another tool made it.
    """
    found = _ADDRESS.search(detail)
    symbols = symbols_of(program)
    if found is None:
        return detail
    try:
        if symbols.stat().st_mtime < program.stat().st_mtime or symbols.stat().st_size > _MAX_FILE_BYTES:
            return detail
        place = _line_at(symbols, int(found[1], 16)) or function_at(symbols.read_bytes(), int(found[1], 16))
    except OSError:
        return detail
    return f"{detail}, in {place}" if place else detail


def _line_at(symbols: Path, address: int) -> str | None:
    """`function (file:line)`, as addr2line tells it. Raises OSError."""
    tool = shutil.which("addr2line")
    if tool is None:
        return None
    command = [tool, "--functions", "--basenames", "--exe", str(symbols), f"{address:#x}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ADDR2LINE_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired:
        return None
    function, _, line = done.stdout.strip().partition("\n")
    known = done.returncode == 0 and "?" not in function and "?" not in line and line
    return f"{function} ({line.split(' ')[0]})" if known else None


def function_at(program: bytes, address: int) -> str | None:
    """The name of the function whose code holds `address`, or None."""
    try:
        return _function_at(program, address)
    except (struct.error, ValueError, IndexError):
        return None


def _function_at(program: bytes, address: int) -> str | None:
    if program[:6] != b"\x7fELF\x02\x01":
        return None
    offset, size, count = *struct.unpack_from("<Q", program, 40), *struct.unpack_from("<HH", program, 58)
    if size != _SECTION.size:
        return None
    sections = [_SECTION.unpack_from(program, offset + number * size) for number in range(count)]
    for _, kind, _, _, start, length, link, _, _, _ in sections:
        if kind != _SHT_SYMTAB:
            continue
        names = sections[link][4]
        table = program[start : start + length]
        for name, info, _, _, value, extent in _SYMBOL.iter_unpack(table[: len(table) - len(table) % _SYMBOL.size]):
            if info & 0xF == _STT_FUNC and value <= address < value + extent:
                return program[names + name : program.index(b"\0", names + name)][:_MAX_NAME].decode("ascii", "replace")
    return None
