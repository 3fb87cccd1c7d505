"""A guest's memory: a sealed template shared by all forks, a private copy-on-write view of it, and that view's reset.

The template is a memfd; a fork maps it MAP_PRIVATE, so unwritten pages are shared and a reset copies back just the pages that
were written. Nothing here knows of programs or calls. `vm.py` forks and resets; `guest/` changes page tables through here.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from sandbox.pages import faults
from sandbox.pages.common import NO_FILE, SEALS, Common, hold
from sandbox.pages.pagemap import open_pagemap
from sandbox.pages.paging import FRAME_MASK, MAPPED, PAGE, Layout, fixed_pages
from sandbox.pages.undoing import Undoing, page_count

__all__ = ["DROP_FACTOR", "DROP_SLACK", "FrozenMemory", "GuestMemory", "open_pagemap"]

DROP_FACTOR: Final = 4
DROP_SLACK: Final = 64
"""A reset gives pages back in place of copying them when there are more than this many and DROP_FACTOR times the usual.

A page once written stays a copy, and is copied again at every reset (0.4 us each, measured), written or not: one large request
would burden all later ones. Dropping costs the next writer a fault (3.4 us a page against 1.7 for write and copy).
"""

_MADV_DONTNEED: Final = 4
_MAP_FIXED: Final = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _map(fd: int, length: int, protection: int, common: Sequence[Common]) -> int:
    """Map a template privately, what it has in common with others over it. Raises OSError."""
    address = _mapped(None, length, protection, mmap.MAP_PRIVATE, fd)
    try:
        for part in common:
            if part.fd != NO_FILE:
                _mapped(address + part.start, part.end - part.start, protection, mmap.MAP_PRIVATE | _MAP_FIXED, part.fd)
    except OSError:
        _munmap(address, length)
        raise
    return address


def _mapped(at: int | None, length: int, protection: int, flags: int, fd: int) -> int:
    address = _mmap(at, length, protection, flags, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(address)


class FrozenMemory:
    """The memory of a template: never written again, shared by every fork."""

    def __init__(
        self,
        layout: Layout,
        pieces: Iterable[tuple[int, bytes | memoryview]],
        text: tuple[tuple[int, int], ...],
        common: Sequence[Common] = (),
    ) -> None:
        """`pieces` are (offset, content), later ones over earlier; `text` the offsets [start, end) that the guest may execute;
        `common` what of the content other programs hold, too, ascending: held for this template by its maker.
        """
        self.layout = layout
        self.text = text
        self.common = common
        data = bytearray(layout.total_bytes // PAGE)
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._address = 0
        self._forks = 0
        try:
            os.ftruncate(self.fd, layout.total_bytes)
            for offset, content in pieces:
                self._put(offset, memoryview(content))
                first, last = offset // PAGE, (offset + len(content) + PAGE - 1) // PAGE
                data[first:last] = b"\1" * (last - first)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
            self._address = _map(self.fd, layout.total_bytes, mmap.PROT_READ, common)
        except BaseException:
            os.close(self.fd)
            raise
        self.data = bytes(data)
        """One byte a page: 1 where the template holds something, 0 where it holds zeros and no memory."""
        self.view = memoryview((ctypes.c_ubyte * layout.total_bytes).from_address(self._address)).cast("B")
        """The template's own content. Good for as long as a fork is open."""

    @classmethod
    def build(
        cls,
        layout: Layout,
        contents: Iterable[tuple[int, bytes]],
        pages: dict[int, int],
        text: tuple[tuple[int, int], ...],
        *,
        runs: Iterable[tuple[int, int, int]] = (),
        alike: tuple[int, int] | None = None,
    ) -> FrozenMemory:
        """Lay out tables for a new guest. `pages` gives the flags of each virtual page number that is mapped; `runs` of long rows
        of pages: first, end, flags; `alike` the offsets of whole pages that other guests may well hold, too.
        """
        entries = bytearray(PAGE * layout.tables)
        words = memoryview(entries).cast("Q")
        for page, flags in pages.items():
            words[page - layout.first_page] = flags | (page * PAGE - layout.base)
        for start, end, flags in runs:
            words[start - layout.first_page : end - layout.first_page] = _entries(flags, start * PAGE - layout.base, end - start)
        words.release()
        tables = (
            (layout.entries_offset + at, bytes(entries[at : at + PAGE]))
            for at in range(0, len(entries), PAGE)
            if entries.count(0, at, at + PAGE) < PAGE
        )
        pieces = [*fixed_pages(layout), *tables, *contents]
        common = [] if alike is None else [hold(alike[0], _content(pieces, *alike))]
        try:
            return cls(layout, pieces, text, common)
        except BaseException:
            _release(common)
            raise

    @property
    def resident_bytes(self) -> int:
        """Memory that the template itself takes: pages it holds, shared by all forks, without those that others hold, too."""
        return os.fstat(self.fd).st_blocks * 512

    def fork(self) -> GuestMemory:
        fork = GuestMemory(self)
        self._forks += 1
        return fork

    def map(self) -> int:
        """The address of a private mapping for a fork. Raises OSError."""
        return _map(self.fd, self.layout.total_bytes, mmap.PROT_READ | mmap.PROT_WRITE, self.common)

    def close(self) -> None:
        """Forks live on, and what their resets copy with the last of them. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            _release(self.common)
            self._unmap()

    def release(self) -> None:
        """A fork is closed."""
        self._forks -= 1
        self._unmap()

    def _put(self, offset: int, content: memoryview) -> None:
        """Into the template's own file, but for what stands in one that others have, too."""
        at, end = offset, offset + len(content)
        for part in self.common:
            if part.fd != NO_FILE and at < part.end and part.start < end:
                before = max(at, part.start)
                _write_all(self.fd, content[at - offset : before - offset], at)
                at = min(end, part.end)
        _write_all(self.fd, content[at - offset :], at)

    def _unmap(self) -> None:
        if self.fd < 0 and not self._forks and self._address:
            self.view.release()
            _munmap(self._address, self.layout.total_bytes)
            self._address = 0


class _Looks:
    """The last look that anybody's memory in this process had at what is written, and how many there were."""

    def __init__(self) -> None:
        self.serial = 0
        self.mark: tuple[object, int] | None = None
        """The thread's count of page faults at that look."""


_looks: Final = _Looks()


class GuestMemory:
    """One VM's view: window, page tables and supervisor page in one private mapping at `address`."""

    def __init__(self, template: FrozenMemory) -> None:
        self.template = template
        self.layout = layout = template.layout
        self.text = template.text
        self.address = template.map()
        block = (ctypes.c_ubyte * layout.total_bytes).from_address(self.address)
        self.block = memoryview(block).cast("B")
        self.window = self.block[: layout.window_bytes]
        self.entries = self.block[layout.entries_offset : layout.supervisor_offset].cast("Q")
        self.tables_changed = False
        """A right has been taken from a page since this was last cleared: engines must forget cached translations."""
        self._usual_pages: int | None = None
        """Written by the first request after the fork or the last drop."""
        self._looked: int | None = None
        """The last look, by anybody, before the first write that its own last look does not tell of; None: all may be written."""
        self._written: list[tuple[int, int]] = []
        self._undoing: Undoing | None = None
        """For `_written`."""
        self.pages_written = 0
        """In what `written` has answered last."""

    def close(self) -> None:
        """Idempotent. The engine that runs on this memory is closed first."""
        if self.address:
            self._undoing = None
            for view in (self.entries, self.window, self.block):
                view.release()
            _munmap(self.address, self.layout.total_bytes)
            self.address = 0
            self.template.release()

    def entry(self, address: int) -> int:
        """The page-table entry of an address; 0 outside the window."""
        if not self.layout.base <= address < self.layout.end:
            return 0
        return int(self.entries[self.layout.entry_index(address)])

    def set_pages(self, start: int, end: int, flags: int) -> None:
        """Give every page of [start, end), inside the window, these flags."""
        index, offset = self.layout.entry_index(start), start - self.layout.base
        count = (end - start) // PAGE
        self.entries[index : index + count] = _entries(flags, offset, count)
        self.tables_changed = True

    def add_pages(self, start: int, end: int, flags: int) -> None:
        """`set_pages` for pages that were absent: an absent page is never cached, so nothing has to be forgotten."""
        changed = self.tables_changed
        self.set_pages(start, end, flags)
        self.tables_changed = changed

    def drop_pages(self, start: int, end: int) -> None:
        """Make [start, end) absent. What it held stays there: see `zero`."""
        index = self.layout.entry_index(start)
        count = (end - start) // PAGE
        self.entries[index : index + count] = memoryview(bytes(8 * count)).cast("Q")
        self.tables_changed = True

    def mapped(self, start: int, end: int) -> bool:
        """Whether all of [start, end) is the guest's, whatever its rights."""
        if not self.layout.base <= start <= end <= self.layout.end:
            return False
        index = self.layout.entry_index(start)
        return all(entry & MAPPED for entry in self.entries[index : index + (end - start) // PAGE])

    def touched(self, start: int, end: int) -> list[int]:
        """Offsets of the pages in [start, end) that may hold something else than zeros."""
        low, high = start - self.layout.base, end - self.layout.base
        pages: set[int] = set()
        data, at = self.template.data, low // PAGE
        while (at := data.find(b"\1", at, high // PAGE)) >= 0:
            pages.add(at * PAGE)
            at += 1
        for first, last in open_pagemap().written(self.address + low, high - low):
            pages.update(range(first - self.address, last - self.address, PAGE))
        return sorted(pages)

    def zero(self, start: int, end: int) -> None:
        """Fill [start, end) with zeros, touching only pages that may hold something else."""
        for offset in self.touched(start, end):
            ctypes.memset(self.address + offset, 0, PAGE)

    def written(self) -> list[tuple[int, int]]:
        """Offsets [start, end) written since the fork or the last drop; the supervisor page is the engine's and not counted.

        The same list, not to be changed, for as long as it is true.
        """
        mark, looks = faults.mark(), _looks
        if mark is None or mark != looks.mark or self._looked != looks.serial:
            address = self.address
            found = [(s - address, e - address) for s, e in open_pagemap().written(address, self.layout.supervisor_offset)]
            if found != self._written:
                self._written, self._undoing = found, None
                self.pages_written = page_count(found)
        looks.serial += 1
        looks.mark, self._looked = mark, looks.serial
        return self._written

    def begin(self) -> None:
        """A request begins: nothing has been written since the last look but by a reset, which makes no copies.

        Page faults before this moment are others'. One that is nobody's in particular then costs one look, not one of each VM.
        """
        if self._looked is not None:
            self._looked = _looks.serial

    def distrust(self) -> None:
        """Another thread than before may write: what the next `written` says is looked up."""
        self._looked = None

    def reset(self, written: list[tuple[int, int]]) -> bool:
        """Make the memory the template's again, given what `written` said. Whether page tables have changed by it."""
        undoing = self._undoing
        if undoing is None or written is not self._written:
            pages = page_count(written)
            if self._usual_pages is None:
                self._usual_pages = pages
            if pages > DROP_SLACK + DROP_FACTOR * self._usual_pages:
                return self._drop(written)
            undoing = Undoing(self.block, self.template.view, self.template.data, self.layout.window_bytes, written)
            if written is self._written:
                self._undoing = undoing
        changed = undoing.undo() or self.tables_changed
        self.tables_changed = False
        return changed

    def _drop(self, written: list[tuple[int, int]]) -> bool:
        self._usual_pages = self._looked = self._undoing = None
        for start, end in written:
            if _madvise(self.address + start, end - start, _MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")
        self.tables_changed = False
        return any(end > self.layout.window_bytes for _, end in written)

    def freeze(self, *more: tuple[int, bytes]) -> FrozenMemory:
        """A template of its own with this very content, so that forks share what was written so far; `more` over it."""
        block, template = self.block, self.template
        full = bytearray(template.data)
        for start, end in self.written():
            full[start // PAGE : end // PAGE] = b"\1" * ((end - start) // PAGE)
        pieces: list[tuple[int, bytes | memoryview]] = []
        at = 0
        while (at := full.find(b"\1", at)) >= 0:
            stop = full.find(b"\0", at)
            stop = len(full) if stop < 0 else stop
            pieces.append((at * PAGE, block[at * PAGE : stop * PAGE]))
            at = stop
        common = [part for part in template.common if not _meet(self.written(), part)]
        for part in common:
            part.hold()
        try:
            return FrozenMemory(self.layout, [*pieces, *more], self.text, common)
        except BaseException:
            _release(common)
            raise
        finally:
            for _, piece in pieces:
                if isinstance(piece, memoryview):
                    piece.release()

    def frame(self, entry: int) -> int:
        """The window offset that a present entry names."""
        return entry & FRAME_MASK


def _entries(flags: int, offset: int, count: int) -> memoryview:
    """Page-table entries of `count` pages whose frames begin at `offset`, all with the same flags."""
    first = flags | offset
    return memoryview(array("Q", range(first, first + count * PAGE, PAGE)))


def _content(pieces: Iterable[tuple[int, bytes]], start: int, end: int) -> bytearray:
    """What the pieces make of [start, end)."""
    content = bytearray(end - start)
    for offset, piece in pieces:
        first, last = max(start, offset), min(end, offset + len(piece))
        if first < last:
            content[first - start : last - start] = piece[first - offset : last - offset]
    return content


def _meet(runs: list[tuple[int, int]], common: Common) -> bool:
    """Whether any of it has been written."""
    return any(start < common.end and common.start < end for start, end in runs)


def _release(common: Sequence[Common]) -> None:
    for part in common:
        part.release()


def _write_all(fd: int, content: bytes | memoryview, offset: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
