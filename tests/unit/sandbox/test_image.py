"""ELF files: what is taken, and a precise word for everything that is not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.image import MAX_HEADERS, PIE_BASE, parse
from sandbox.limits import DEFAULT_LIMITS, MIB
from sandbox.pages.paging import PAGE, page_flags
from sandbox.program import Convention, Program
from sandbox.vm import load
from tests.unit.sandbox.machine_code import DATA, LIMITS, TEXT, Seg, elf, image

GOOD = image(b"\x90" * 64, b"data")
CODE = Seg(TEXT, b"\x90" * 16, 5)


def test_segments_entry_and_rights() -> None:
    parsed = parse(GOOD)
    assert (parsed.entry, parsed.base, parsed.end) == (TEXT, TEXT, DATA + 0x8000)
    flags = dict(parsed.pages)
    assert flags[TEXT // PAGE] == page_flags(read=True, write=False, execute=True)
    assert flags[DATA // PAGE] == page_flags(read=True, write=True, execute=False)
    assert parsed.text == ((TEXT, TEXT + PAGE),)
    assert parsed.header_count == 3


def test_static_pie_gets_a_fixed_base() -> None:
    parsed = parse(elf([Seg(0, b"\x7fELF", 4), Seg(0x1000, b"\x90", 5)], 0x1000, kind=3))
    assert (parsed.base, parsed.entry) == (PIE_BASE, PIE_BASE + 0x1000)


def test_headers_are_found_in_memory() -> None:
    with_phdr = elf([Seg(TEXT, b"\x90", 5), Seg(0x700040, b"", 4, 0, 6)])
    assert parse(with_phdr).header_address == 0x700040
    whole = bytearray(elf([Seg(TEXT, b"\x90" * 64, 5)]))
    struct.pack_into("<QQQ", whole, 64 + 8, 0, 0x400000, 0x400000)
    struct.pack_into("<QQ", whole, 64 + 32, len(whole), len(whole))
    struct.pack_into("<Q", whole, 24, 0x401000)
    assert parse(bytes(whole)).header_address == 0x400040
    assert parse(GOOD).header_address == 0


def patched(offset: int, form: str, *values: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


BAD = {
    "empty": (b"", "not an ELF file"),
    "script": (b"#!/bin/sh\n", "script"),
    "wasm": (b"\0asm\1\0\0\0", "WebAssembly"),
    "32-bit": (patched(4, "<B", 1), "32-bit"),
    "big-endian": (patched(5, "<B", 2), "big-endian"),
    "odd identification": (patched(6, "<B", 9), "identification"),
    "arm": (patched(18, "<H", 183), "AArch64"),
    "unknown machine": (patched(18, "<H", 4711), "machine 4711"),
    "object file": (patched(16, "<H", 1), "object file"),
    "odd type": (patched(16, "<H", 77), "type 77"),
    "cut in the header": (GOOD[:40], "truncated"),
    "cut in the program headers": (GOOD[:100], "truncated"),
    "cut in a segment": (GOOD[:-PAGE], "truncated"),
    "no headers": (patched(56, "<H", 0), "no program headers"),
    "too many headers": (patched(56, "<H", MAX_HEADERS + 1), "at most 64"),
    "odd header size": (patched(54, "<H", 32), "32 bytes"),
    "dynamic": (elf([CODE, Seg(0x500000, b"/lib/ld.so\0", 4, None, 3)]), "statically"),
    "nothing to load": (elf([Seg(TEXT, b"", 5, 0)]), "no segment"),
    "overlap": (elf([CODE, Seg(TEXT + 8, b"x", 4)]), "overlap"),
    "writable text": (elf([Seg(TEXT, b"\x90", 7)]), "writable and executable"),
    "text and data in one page": (elf([CODE, Seg(TEXT + 0x100, b"x", 6)]), "align"),
    "file larger than memory": (elf([Seg(TEXT, b"\x90" * 64, 5, 32)]), "larger in the file"),
    "misaligned": (patched(64 + 16, "<Q", TEXT + 1), "misaligned"),
    "odd alignment": (patched(64 + 48, "<Q", 3), "power of two"),
    "null page": (elf([CODE, Seg(0x1000, b"x", 4)]), "null pointers"),
    "kernel half": (elf([CODE, Seg(0xFFFF_8000_0000_0000, b"x", 4)]), "outside"),
    "wrapping": (elf([CODE, Seg(0xFFFF_FFFF_FFFF_F000, b"x", 4, 0x2000)]), "outside"),
    "entry in data": (patched(24, "<Q", DATA), "no executable segment"),
    "entry nowhere": (patched(24, "<Q", 0), "no executable segment"),
    "program headers nowhere": (elf([CODE, Seg(0xFFFF_FFFF_FFFF_FFFF, b"", 4, 0, 6)], kind=3), "program headers"),
    "PIE past the top": (elf([Seg(0x7FFF_FFFF_D000, b"\x90", 5)], 0x7FFF_FFFF_D000, kind=3), "outside"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_says_what_is_wrong(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(ImageError, match=message):
        parse(data)


def test_what_does_not_fit_the_memory_is_refused() -> None:
    huge = elf([CODE, Seg(DATA, b"x", 6, 1 << 40)])
    with pytest.raises(ImageError, match="raise the memory limit"):
        load(Program(huge, Convention.CGI), DEFAULT_LIMITS)
    full = elf([CODE, Seg(DATA, b"x", 6, LIMITS.memory_bytes - (DATA - TEXT) - PAGE)])
    with pytest.raises(ImageError, match="no room for a stack"):
        load(Program(full, Convention.CGI), LIMITS)
    high = elf([Seg(0x7FFF_FFF0_0000, b"\x90", 5)], 0x7FFF_FFF0_0000)
    with pytest.raises(ImageError, match="leaves no room"):
        load(Program(high, Convention.CGI), LIMITS)
    with pytest.raises(ImageError, match="do not fit its stack"):
        load(Program(GOOD, Convention.RESIDENT, args=("x" * MIB,)), LIMITS)


@pytest.mark.parametrize("convention", Convention)
def test_an_address_of_program_headers_that_no_word_holds_is_refused(convention: Convention) -> None:
    """It stands on the initial stack: of a cgi program only once a request has come, in a worker that others may share."""
    with pytest.raises(ImageError, match="program headers"):
        load(Program(elf([CODE, Seg(0xFFFF_FFFF_FFFF_FFFF, b"", 4, 0, 6)], kind=3), convention), LIMITS)


def test_arguments_and_variables_are_text_without_nul() -> None:
    for more in ({"args": ("a\0b",)}, {"env": (("A", "\ud800"),)}):
        with pytest.raises(ImageError, match="its argument or variable"):
            load(Program(GOOD, Convention.CGI, **more), LIMITS)  # type: ignore[arg-type]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_only_ever_raise_image_error(data: bytes) -> None:
    for candidate in (data, b"\x7fELF\2\1\1" + data):
        try:
            parse(candidate, 8 * MIB)
        except ImageError as error:
            assert str(error)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, 64 + 3 * 56 - 1), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, len(GOOD))
)
def test_mutated_files_load_or_raise_image_error(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(GOOD)
    for offset, value in changes:
        data[offset] = value
    for candidate in (bytes(data), bytes(data[:length])):
        try:
            load(Program(candidate, Convention.RESIDENT), LIMITS).close()
        except ImageError as error:
            assert str(error)


def test_a_dynamic_program_of_this_machine_is_refused() -> None:
    shell = Path("/bin/sh")
    if not shell.exists():
        pytest.skip("no /bin/sh")
    with pytest.raises(ImageError):
        parse(shell.read_bytes())
