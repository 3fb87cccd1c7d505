"""The data segment selectors of the calling thread itself: where KVM on paravirtual page tables (kvm_pvm) leaves a guest's.

A guest that loads DS, ES, FS or GS there has loaded them for every vCPU that the thread runs; KVM neither tells nor resets them
(on VMX and SVM it does both). A few instructions of the host's own can see them. Called by `kvm.py`.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Final

_READ: Final = (
    b"\x8c\xd8"  # mov eax, ds
    b"\x8c\xc1\x09\xc8"  # mov ecx, es; or eax, ecx
    b"\x8c\xe1\x09\xc8"  # mov ecx, fs; or eax, ecx
    b"\x8c\xe9\x09\xc8"  # mov ecx, gs; or eax, ecx
    b"\xc3"  # ret
)


def reader() -> Callable[[], int]:
    """What reads them, or-ed together: 0 when all are null, as Linux starts a program. Where no code can be mapped: always 1."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError:
        return _unknown
    page.write(_READ)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if _mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        return _unknown
    _pages.append(page)
    return ctypes.CFUNCTYPE(ctypes.c_uint32)(address)


_pages: list[mmap.mmap] = []
"""For as long as somebody may call into them: the process's life."""
_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _unknown() -> int:
    return 1
