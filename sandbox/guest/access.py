"""The one way from a system call to guest memory: checked against the page tables, EFAULT for whatever they do not allow.

A guest's pointer and length are numbers without meaning until they have passed here. Handlers in this package use nothing else.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from sandbox.memory import GuestMemory
from sandbox.pages.paging import PAGE, PRESENT, WRITABLE

PATH_MAX: Final = 4096


class CallError(Exception):
    """A system call fails with this errno; the guest alone hears of it."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


class GuestAccess:
    """Reads and writes by guest-virtual address."""

    __slots__ = ("_base", "_end", "_entries", "_first_page", "_window")

    def __init__(self, memory: GuestMemory) -> None:
        self._window, self._entries = memory.window, memory.entries
        self._base = memory.layout.base
        self._end = memory.layout.end
        self._first_page = memory.layout.first_page

    def check(self, address: int, length: int, *, write: bool = False) -> int:
        """The window offset of [address, address + length). Raises CallError(EFAULT) unless all of it may be touched so."""
        end = address + length
        if not self._base <= address <= end <= self._end:
            raise CallError(errno.EFAULT)
        need = PRESENT | WRITABLE if write else PRESENT
        entries, first = self._entries, self._first_page
        for page in range(address // PAGE - first, (end + PAGE - 1) // PAGE - first):
            if entries[page] & need != need:
                raise CallError(errno.EFAULT)
        return address - self._base

    def read(self, address: int, length: int) -> bytes:
        """Raises CallError(EFAULT)."""
        if not length:
            return b""
        offset = self.check(address, length)
        return bytes(self._window[offset : offset + length])

    def write(self, address: int, data: bytes | memoryview) -> None:
        """All of `data` or nothing. Raises CallError(EFAULT)."""
        if data:
            offset = self.check(address, len(data), write=True)
            self._window[offset : offset + len(data)] = data

    def read_struct(self, layout: struct.Struct, address: int) -> tuple[int, ...]:
        """Raises CallError(EFAULT)."""
        return layout.unpack(self.read(address, layout.size))

    def read_path(self, address: int) -> bytes:
        """A NUL-terminated string. Raises CallError: EFAULT, or ENAMETOOLONG past PATH_MAX."""
        found = bytearray()
        while len(found) < PATH_MAX:
            chunk = self.read(address, min(PAGE - address % PAGE, PATH_MAX - len(found)))
            end = chunk.find(b"\0")
            if end >= 0:
                return bytes(found + chunk[:end])
            found += chunk
            address += len(chunk)
        raise CallError(errno.ENAMETOOLONG)
