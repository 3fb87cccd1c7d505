"""Whether a private mapping may have got a new copy of a page since one last looked: told by the process's count of page faults.

A page becomes a copy in a page fault of a thread that writes to it, or for which KVM does; the kernel counts those
(mm_account_fault, getrusage(2)). `memory.py` asks before it has the kernel walk page tables.
"""

from __future__ import annotations

import mmap
import os
import resource
from typing import Final

_MINOR: Final = 6
_MAJOR: Final = 7
"""A fault that had to be tried again counts as one of these."""
_counted: list[bool] = []
_process: list[object] = [object()]
"""Names this process: a fork counts from 0."""


def mark() -> tuple[object, int] | None:
    """Equal to an earlier mark: this process has had no fault since. None where the kernel does not count them."""
    if not _counted:
        prepare()
    return (_process[0], _faults()) if _counted[0] else None


def prepare() -> bool:
    """Try once whether faults are counted, while a process may still make files. Whether they are."""
    if not _counted:
        _counted.append(_try())
    return _counted[0]


def _try() -> bool:
    """Write to pages of a private file mapping, read before and not: each must count."""
    pages = 4
    fd = os.memfd_create("faults", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, pages * mmap.PAGESIZE)
        with mmap.mmap(fd, pages * mmap.PAGESIZE, mmap.MAP_PRIVATE) as trial:
            for at in range(0, pages * mmap.PAGESIZE, mmap.PAGESIZE):
                _ = trial[at] if at else 0
                before = _faults()
                trial[at] = 1
                if _faults() <= before:
                    return False
    finally:
        os.close(fd)
    return True


def _faults() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage[_MINOR] + usage[_MAJOR]


def _renamed() -> None:
    _process[0] = object()


os.register_at_fork(after_in_child=_renamed)
