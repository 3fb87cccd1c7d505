"""Whether a private mapping may have got a new copy of a page since one last looked: told by this thread's count of page faults.

A page becomes a copy in a page fault of the thread that writes to it, or for which KVM does; the kernel counts those
(mm_account_fault, getrusage(2)). `memory.py` asks before it has the kernel walk page tables; `vm.py` has it forget what it knows
when another thread comes. The process's count would be a sum over its threads, of which KVM makes one for each VM.
"""

from __future__ import annotations

import mmap
import os
import resource
import threading
from typing import Final

_MINOR: Final = 6
_MAJOR: Final = 7
"""A fault that had to be tried again counts as one of these."""
_counted: list[bool] = []
_threads = threading.local()


def thread() -> object:
    """Names this thread as no other is ever named, in this process or in a fork, whose count begins at 0."""
    try:
        name: object = _threads.name
    except AttributeError:
        name = _threads.name = object()
    return name


def mark() -> tuple[object, int] | None:
    """Equal to an earlier mark: this is the same thread, and it has had no fault since. None where faults are not counted."""
    if not _counted:
        prepare()
    return (thread(), _faults()) if _counted[0] else None


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
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage[_MINOR] + usage[_MAJOR]


def _renamed() -> None:
    _threads.name = object()


os.register_at_fork(after_in_child=_renamed)
