"""Where things stand in a guest's physical memory, and the x86-64 page tables that describe it.

Pure arithmetic and bytes: no mapping, no I/O. `memory.py` puts the bytes in place, `image.py` chooses the flags, every engine
loads CR3 with `Layout.root` (Intel SDM vol. 3, 4.5: 4-level paging).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sandbox.pages import supervisor

PAGE: Final = 4096
PRESENT: Final = 1 << 0
WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
ACCESSED_DIRTY: Final = 0x60
"""Preset everywhere: a page walk that has to set them would write to the tables, and so copy them."""
MAPPED: Final = 1 << 9
"""Ignored by the processor: the page is the guest's, even while PROT_NONE leaves it not present."""
NO_EXECUTE: Final = 1 << 63
FRAME_MASK: Final = 0x000F_FFFF_FFFF_F000

LOWEST_BASE: Final = 0x10000
"""As Linux's vm.mmap_min_addr: a null pointer with a large offset still faults."""
USER_TOP: Final = 0x7FFF_FFFF_F000

_TABLE = PRESENT | WRITABLE | USER | ACCESSED_DIRTY
_SUPERVISOR = PRESENT | ACCESSED_DIRTY
"""Rights of a page that ring 3 cannot see: all levels above it say USER, the page itself does not."""


def page_flags(*, read: bool, write: bool, execute: bool) -> int:
    """Flags of a guest's page. Write implies read, as on every x86; without any right it is kept, but not present."""
    if not (read or write or execute):
        return MAPPED
    return MAPPED | PRESENT | USER | ACCESSED_DIRTY | (WRITABLE if write else 0) | (0 if execute else NO_EXECUTE)


@dataclass(frozen=True, slots=True)
class Layout:
    """One linear window: virtual [base, base + window_bytes) is physical [0, window_bytes); tables and supervisor follow it."""

    base: int
    window_bytes: int
    pdpts: int = field(init=False)
    directories: int = field(init=False)
    tables: int = field(init=False)

    def __post_init__(self) -> None:
        if self.base % PAGE or self.window_bytes % PAGE or self.window_bytes <= 0:
            raise ValueError("window is not made of whole pages")
        if self.base < LOWEST_BASE or self.end > USER_TOP:
            raise ValueError("window leaves the user half of the address space")
        for name, shift in (("pdpts", 39), ("directories", 30), ("tables", 21)):
            object.__setattr__(self, name, ((self.end - 1) >> shift) - (self.base >> shift) + 1)

    @property
    def end(self) -> int:
        return self.base + self.window_bytes

    @property
    def root(self) -> int:
        """Physical address of the PML4: the value of CR3."""
        return self.window_bytes

    @property
    def entries_offset(self) -> int:
        """Where the page-table entries begin, one run of 64-bit words for all pages from `first_page`."""
        return self.root + PAGE * (1 + self.pdpts + self.directories + 3)

    @property
    def first_page(self) -> int:
        """Virtual page number that the first entry describes."""
        return (self.base >> 21) << 9

    @property
    def supervisor_offset(self) -> int:
        """The supervisor page of `supervisor.py`; past everything that a guest's calls may change."""
        return self.entries_offset + PAGE * self.tables

    @property
    def stub_offset(self) -> int:
        return self.supervisor_offset + PAGE

    @property
    def landing_offset(self) -> int:
        return self.stub_offset + PAGE

    @property
    def total_bytes(self) -> int:
        return self.landing_offset + PAGE

    def entry_index(self, address: int) -> int:
        return (address >> 12) - self.first_page


def fixed_pages(layout: Layout) -> Iterator[tuple[int, bytes]]:
    """Offset and content of the upper-level tables, the supervisor page and the stub."""
    pdpt = layout.root + PAGE
    directory = pdpt + PAGE * layout.pdpts
    kernel = directory + PAGE * layout.directories
    yield (
        layout.root,
        _table(
            {layout_index(layout.base, 39, i): pdpt + PAGE * i | _TABLE for i in range(layout.pdpts)} | {511: kernel | _TABLE}
        ),
    )
    yield from _level(layout.base, 30, layout.directories, pdpt, directory)
    yield from _level(layout.base, 21, layout.tables, directory, layout.entries_offset)
    yield kernel, _table({0: kernel + PAGE | _TABLE})
    yield kernel + PAGE, _table({0: kernel + 2 * PAGE | _TABLE})
    yield (
        kernel + 2 * PAGE,
        _table(
            {
                0: layout.supervisor_offset | _SUPERVISOR | WRITABLE | NO_EXECUTE,
                1: layout.stub_offset | _SUPERVISOR,
                2: layout.landing_offset | _SUPERVISOR | USER,
            }
        ),
    )
    yield layout.supervisor_offset, supervisor.page().ljust(PAGE, b"\0")
    yield layout.stub_offset, supervisor.STUB.ljust(PAGE, supervisor.HLT)
    yield layout.landing_offset, supervisor.landing().ljust(PAGE, supervisor.HLT)


def layout_index(base: int, shift: int, i: int) -> int:
    """Index in its table of the i-th entry that covers a window from `base`."""
    return ((base >> shift) + i) & 511


def _level(base: int, shift: int, count: int, parents: int, children: int) -> Iterator[tuple[int, bytes]]:
    """The parents' pages, each entry pointing at the next of `count` consecutive children."""
    first = base >> shift
    pages: dict[int, dict[int, int]] = {}
    for i in range(count):
        parent = ((first + i) >> 9) - (first >> 9)
        pages.setdefault(parent, {})[(first + i) & 511] = children + PAGE * i | _TABLE
    for parent, entries in pages.items():
        yield parents + PAGE * parent, _table(entries)


def _table(entries: dict[int, int]) -> bytes:
    words = [0] * 512
    for index, entry in entries.items():
        words[index] = entry
    return struct.pack("<512Q", *words)
