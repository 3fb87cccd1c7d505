"""Which pages of a private mapping have been written: asked of the kernel, in one call where it can.

Linux >= 6.7 answers ioctl PAGEMAP_SCAN; before that /proc/self/pagemap is read. `open_pagemap` is called while a process may
still open files: a jailed worker cannot.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from typing import Final

from sandbox.pages.paging import PAGE

_FILE: Final = 1 << 2
_PRESENT: Final = 1 << 3
_SWAPPED: Final = 1 << 4
_REGIONS: Final = 1024


class _Scan(ctypes.Structure):
    """struct pm_scan_arg of linux/fs.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    ]


_PAGEMAP_SCAN: Final = 3 << 30 | ctypes.sizeof(_Scan) << 16 | ord("f") << 8 | 16


class Pagemap:
    """This process's page map. Good only in the process that opened it: a fork opens its own."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._regions = (ctypes.c_uint64 * (3 * _REGIONS))()
        self._scan = _Scan(
            size=ctypes.sizeof(_Scan),
            vec=ctypes.addressof(self._regions),
            vec_len=_REGIONS,
            category_inverted=_FILE,
            category_mask=_FILE,
            category_anyof_mask=_PRESENT | _SWAPPED,
            return_mask=_PRESENT,
        )
        self.scans = self._supports_scan()

    def close(self) -> None:
        os.close(self._fd)

    def written(self, address: int, length: int) -> list[tuple[int, int]]:
        """Start and end addresses of the pages in a MAP_PRIVATE file mapping that are this process's own copies."""
        return self._scanned(address, length) if self.scans else self._read(address, length)

    def _supports_scan(self) -> bool:
        self._scan.start, self._scan.end = 0, 0
        try:
            fcntl.ioctl(self._fd, _PAGEMAP_SCAN, self._scan)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EPERM):
                return False
            raise
        return True

    def _scanned(self, address: int, length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        scan, regions, end = self._scan, self._regions, address + length
        scan.start, scan.end = address, end
        while scan.start < end:
            count = fcntl.ioctl(self._fd, _PAGEMAP_SCAN, scan)
            words = regions[: 3 * count]
            found += zip(words[0::3], words[1::3], strict=True)
            if count < _REGIONS:
                break
            scan.start = words[-2]  # not walk_end: Linux leaves it behind when it fills its own buffer and then ends
        return found

    def _read(self, address: int, length: int) -> list[tuple[int, int]]:
        """admin-guide/mm/pagemap: bit 63 present, 62 swapped, 61 file-backed or shared."""
        found: list[tuple[int, int]] = []
        raw = os.pread(self._fd, length // PAGE * 8, address // PAGE * 8)
        for index, word in enumerate(memoryview(raw).cast("Q")):
            if word >> 62 and not word >> 61 & 1:
                start = address + index * PAGE
                if found and found[-1][1] == start:
                    found[-1] = (found[-1][0], start + PAGE)
                else:
                    found.append((start, start + PAGE))
        return found


_opened: list[Pagemap] = []


def open_pagemap() -> Pagemap:
    """This process's page map, opened at the first call after start or fork."""
    if not _opened:
        _opened.append(Pagemap())
    return _opened[0]


def _forget() -> None:
    while _opened:
        with contextlib.suppress(OSError):
            _opened.pop().close()


os.register_at_fork(after_in_child=_forget)
