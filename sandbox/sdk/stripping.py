"""An executable without what only debuggers and linkers read. `build` calls it on what the compiler has just made."""

from __future__ import annotations

import struct
from typing import Final

_PROGRAM_HEADERS: Final = struct.Struct("<32xQ14xHH")
"""Of a 64-bit ELF header (elf(5)): e_phoff, e_phentsize and e_phnum."""
_SEGMENT: Final = struct.Struct("<8xQ16xQ")
"""Of a program header: p_offset and p_filesz."""
_SECTION_HEADERS: Final = (slice(40, 48), slice(58, 64))
"""e_shoff; e_shentsize, e_shnum and e_shstrndx."""


def stripped(executable: bytes) -> bytes:
    """`executable`, a 64-bit ELF file, up to the end of its last segment, and without a table of sections: what is loaded."""
    table, size, count = _PROGRAM_HEADERS.unpack_from(executable)
    ends = [table + size * count]
    for number in range(count):
        offset, length = _SEGMENT.unpack_from(executable, table + size * number)
        ends.append(offset + length)
    kept = bytearray(executable[: max(ends)])
    for place in _SECTION_HEADERS:
        kept[place] = bytes(place.stop - place.start)
    return bytes(kept)
