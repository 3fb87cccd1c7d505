"""Unicorn's registers, read and written many at a time.

The binding builds its argument arrays anew at each call; here they are made once a vCPU. Used by `unicorn.py` only.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any, Final

from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

_FX_HEAD: Final = struct.Struct("<HHBBHQQII")
_MXCSR_MASK: Final = 0xFFFF
_EMPTY: Final = 3


GPRS: Final = (
    x86.UC_X86_REG_RAX,
    x86.UC_X86_REG_RBX,
    x86.UC_X86_REG_RCX,
    x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDI,
    x86.UC_X86_REG_RBP,
    x86.UC_X86_REG_RSP,
    *range(x86.UC_X86_REG_R8, x86.UC_X86_REG_R15 + 1),
)
"""In the order of `CpuState.gprs`."""


class RegisterFile:
    """A fixed list of 64-bit registers."""

    __slots__ = ("_buffer", "_count", "_handle", "_ids", "_pointers")

    def __init__(self, handle: Any, ids: Iterable[int]) -> None:
        wanted = tuple(ids)
        self._count = len(wanted)
        self._handle = handle
        self._ids = (ctypes.c_int * self._count)(*wanted)
        self._buffer = (ctypes.c_uint64 * self._count)()
        start = ctypes.addressof(self._buffer)
        self._pointers = (ctypes.c_void_p * self._count)(*(start + 8 * i for i in range(self._count)))

    def read(self) -> list[int]:
        status = uclib.uc_reg_read_batch(self._handle, self._ids, self._pointers, self._count)
        if status:
            raise UcError(status)
        return self._buffer[:]

    def write(self, values: tuple[int, ...]) -> None:
        self._buffer[:] = list(values)
        status = uclib.uc_reg_write_batch(self._handle, self._ids, self._pointers, self._count)
        if status:
            raise UcError(status)


def read_fpu(uc: Uc) -> bytes:
    """x87, MXCSR and XMM0-15 as a 512-byte FXSAVE area in its 64-bit form (Intel SDM vol. 1, 10.5.1)."""
    status_word = uc.reg_read(x86.UC_X86_REG_FPSW)
    tags = uc.reg_read(x86.UC_X86_REG_FPTAG)
    in_use = sum(1 << i for i in range(8) if tags >> 2 * i & 3 != _EMPTY)
    head = _FX_HEAD.pack(
        uc.reg_read(x86.UC_X86_REG_FPCW),
        status_word,
        in_use,
        0,
        uc.reg_read(x86.UC_X86_REG_FOP) & 0x7FF,
        uc.reg_read(x86.UC_X86_REG_FIP),
        uc.reg_read(x86.UC_X86_REG_FDP),
        uc.reg_read(x86.UC_X86_REG_MXCSR),
        _MXCSR_MASK,
    )
    top = status_word >> 11 & 7
    stack = b"".join(struct.pack("<QH6x", *uc.reg_read(x86.UC_X86_REG_FP0 + (top + i) % 8)) for i in range(8))
    vectors = b"".join(uc.reg_read(x86.UC_X86_REG_XMM0 + i).to_bytes(16, "little") for i in range(16))
    return (head + stack + vectors).ljust(512, b"\0")


def write_fpu(uc: Uc, area: bytes) -> None:
    """Load an FXSAVE area; the inverse of `read_fpu`."""
    control, status_word, in_use, _, opcode, ip, dp, mxcsr, _ = _FX_HEAD.unpack_from(area)
    uc.reg_write(x86.UC_X86_REG_FPCW, control)
    uc.reg_write(x86.UC_X86_REG_FPSW, status_word)
    top = status_word >> 11 & 7
    for i in range(8):
        uc.reg_write(x86.UC_X86_REG_FP0 + (top + i) % 8, struct.unpack_from("<QH", area, 32 + 16 * i))
    uc.reg_write(x86.UC_X86_REG_FPTAG, sum(_EMPTY << 2 * i for i in range(8) if not in_use >> i & 1))
    uc.reg_write(x86.UC_X86_REG_FOP, opcode)
    uc.reg_write(x86.UC_X86_REG_FIP, ip)
    uc.reg_write(x86.UC_X86_REG_FDP, dp)
    uc.reg_write(x86.UC_X86_REG_MXCSR, mxcsr)
    for i in range(16):
        uc.reg_write(x86.UC_X86_REG_XMM0 + i, int.from_bytes(area[160 + 16 * i : 176 + 16 * i], "little"))
