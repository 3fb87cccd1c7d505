"""brk, mmap and their kin: changes to page tables inside the guest's fixed window, never to the host's mappings.

Every page outside an area or the heap holds zeros, which is what makes a new mapping cheap. Data never becomes executable.
"""

from __future__ import annotations

import errno
from typing import Final

from sandbox.guest.access import CallError
from sandbox.guest.areas import TooManyAreas
from sandbox.guest.files import FileKind
from sandbox.guest.process import Process
from sandbox.pages.paging import NO_EXECUTE, PAGE, PRESENT, page_flags

_READ, _WRITE, _EXECUTE = 1, 2, 4
_MAP_TYPE, _MAP_PRIVATE = 0x0F, 0x02
_MAP_FIXED, _MAP_ANONYMOUS, _MAP_NOREPLACE = 0x10, 0x20, 0x10_0000
_MREMAP_MAYMOVE: Final = 1
_MADV_DONTNEED: Final = 4
_DATA: Final = page_flags(read=True, write=True, execute=False)


def brk(process: Process, address: int, *_: int) -> int:
    """brk(2): grows the heap up from the program's end; the answer is the break that holds, moved or not."""
    state, space = process.state, process.space
    if address < space.image_end:
        return state.brk
    old, new = _page_up(state.brk), _page_up(address)
    if new > old:
        if new > space.stack_guard or not state.areas.free(old, new):
            process.exchange.refused_bytes = address - state.brk
            return state.brk
        process.memory.add_pages(old, new, _DATA)
    elif new < old:
        _release(process, new, old)
    state.brk = address
    return address


def mmap(  # noqa: PLR0917 -- the call has six arguments
    process: Process, address: int, length: int, protection: int, flags: int, fd: int, offset: int
) -> int:
    """mmap(2), anonymous or of a bundle file; an address is a hint that is not taken, unless MAP_FIXED."""
    if not length or offset % PAGE:
        raise CallError(errno.EINVAL)
    if protection & _EXECUTE:
        raise CallError(errno.EACCES)
    content = b"" if flags & _MAP_ANONYMOUS else _file_content(process, fd, offset, length)
    if not flags & _MAP_ANONYMOUS and flags & _MAP_TYPE != _MAP_PRIVATE and protection & _WRITE:
        raise CallError(errno.EACCES)
    size = _whole(process, length)
    if flags & (_MAP_FIXED | _MAP_NOREPLACE):
        start = _fixed(process, address, size, replace=not flags & _MAP_NOREPLACE)
        put_pages = process.memory.set_pages
    else:
        start = _place(process, size)
        put_pages = process.memory.add_pages
    _take(process, start, start + size)
    put_pages(start, start + size, _flags(protection))
    at = start - process.memory.layout.base
    process.memory.window[at : at + len(content)] = content
    return start


def munmap(process: Process, address: int, length: int, *_: int) -> int:
    """munmap(2)."""
    layout = process.memory.layout
    if address % PAGE or not length or address + length > 1 << 47:
        raise CallError(errno.EINVAL)
    start, end = max(address, layout.base), min(_page_up(address + length), layout.end)
    if start < end:
        low, high = max(start, process.space.image_end), min(end, process.space.stack_guard)
        if low < high:
            _free(process, low, high)
            process.memory.zero(low, high)
        process.memory.drop_pages(start, end)
    return 0


def mprotect(process: Process, address: int, length: int, protection: int, *_: int) -> int:
    """mprotect(2) under W^X: text may lose rights for good, nothing becomes executable."""
    start, end = _range(address, length)
    memory = process.memory
    if not memory.mapped(start, end):
        raise CallError(errno.ENOMEM)
    pages = range(start, end, PAGE)
    if protection & _EXECUTE:
        if protection & _WRITE or any(memory.entry(page) & (NO_EXECUTE | PRESENT) != PRESENT for page in pages):
            raise CallError(errno.EACCES)
        return 0
    offset = memory.layout.base
    if protection & _WRITE and any(low < end - offset and high > start - offset for low, high in memory.text):
        raise CallError(errno.EACCES)
    memory.set_pages(start, end, _flags(protection))
    return 0


def mremap(process: Process, address: int, old_length: int, new_length: int, flags: int, *_: int) -> int:
    """mremap(2) of a mapping, in place or with MREMAP_MAYMOVE; the other flags are EINVAL."""
    if address % PAGE or not new_length or not old_length or flags & ~_MREMAP_MAYMOVE:
        raise CallError(errno.EINVAL)
    old, new = _whole(process, old_length), _whole(process, new_length)
    end = address + old
    if address < process.space.image_end or end > process.space.stack_guard or not process.memory.mapped(address, end):
        raise CallError(errno.EFAULT)
    if new <= old:
        if new < old:
            _free(process, address + new, end)
            _release(process, address + new, end)
        return address
    rights = process.memory.entry(address) & ~process.memory.frame(process.memory.entry(address))
    grown = address + new
    if grown <= process.space.stack_guard and end >= _page_up(process.state.brk) and process.state.areas.free(end, grown):
        _take(process, end, grown)
        process.memory.add_pages(end, grown, rights)
        return address
    if not flags & _MREMAP_MAYMOVE:
        raise CallError(errno.ENOMEM)
    return _move(process, address, old, new, rights)


def madvise(process: Process, address: int, length: int, advice: int, *_: int) -> int:
    """madvise(2): DONTNEED zeroes, as anonymous memory must; other advice is not needed here."""
    start, end = _range(address, length)
    if not process.memory.mapped(start, end):
        raise CallError(errno.ENOMEM)
    if advice == _MADV_DONTNEED:
        if start < process.space.image_end:
            raise CallError(errno.EINVAL)
        process.memory.zero(start, end)
    return 0


def _move(process: Process, address: int, old: int, new: int, rights: int) -> int:
    """Grow by moving: the new place, with the old one's content."""
    start = _place(process, new)
    _take(process, start, start + new)
    memory = process.memory
    memory.set_pages(start, start + new, rights)
    for offset in memory.touched(address, address + old):
        target = start - address + offset
        memory.window[target : target + PAGE] = memory.window[offset : offset + PAGE]
    _free(process, address, address + old)
    _release(process, address, address + old)
    return start


def _file_content(process: Process, fd: int, offset: int, length: int) -> bytes:
    file = process.state.files.get(fd & 0xFFFF_FFFF)
    if file is None:
        raise CallError(errno.EBADF)
    if file.kind is not FileKind.FILE:
        raise CallError(errno.EACCES)
    return process.files.content(file)[offset : offset + length]


def _fixed(process: Process, address: int, size: int, *, replace: bool) -> int:
    """A place the guest insists on: only between the program and the stack's guard."""
    if address % PAGE:
        raise CallError(errno.EINVAL)
    if address < process.space.image_end or address + size > process.space.stack_guard:
        raise CallError(errno.ENOMEM)
    heap_end = _page_up(process.state.brk)
    if not replace and (address < heap_end or not process.state.areas.free(address, address + size)):
        raise CallError(errno.EEXIST)
    if replace:
        process.memory.zero(address, address + size)
    return address


def _place(process: Process, size: int) -> int:
    found = process.state.areas.place(size, _page_up(process.state.brk), process.space.stack_guard)
    if found is None:
        process.exchange.refused_bytes = size
        raise CallError(errno.ENOMEM)
    return found


def _take(process: Process, start: int, end: int) -> None:
    try:
        process.state.areas.add(start, end)
    except TooManyAreas:
        raise CallError(errno.ENOMEM) from None


def _free(process: Process, start: int, end: int) -> None:
    try:
        process.state.areas.remove(start, end)
    except TooManyAreas:
        raise CallError(errno.ENOMEM) from None


def _release(process: Process, start: int, end: int) -> None:
    process.memory.zero(start, end)
    process.memory.drop_pages(start, end)


def _flags(protection: int) -> int:
    return page_flags(read=bool(protection & _READ), write=bool(protection & _WRITE), execute=False)


def _range(address: int, length: int) -> tuple[int, int]:
    if address % PAGE or length > 1 << 47:
        raise CallError(errno.EINVAL)
    return address, _page_up(address + length)


def _whole(process: Process, length: int) -> int:
    """`length` in whole pages; what the window cannot hold is refused before any arithmetic with it."""
    if length > process.memory.layout.window_bytes:
        process.exchange.refused_bytes = length
        raise CallError(errno.ENOMEM)
    return _page_up(length)


def _page_up(address: int) -> int:
    return (address + PAGE - 1) & -PAGE
