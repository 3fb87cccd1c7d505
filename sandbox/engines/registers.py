"""Unicorn's registers, read and written many at a time.

The binding builds its argument arrays anew at each call, and takes 2 us for each register; here the lists are made once, and the
place for values once a vCPU. Used by `unicorn.py` and `unicorn_replay.py`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any, Final

from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import UcError, uclib

_FX_HEAD: Final = struct.Struct("<HHBBHQQII")
_FX_BYTES: Final = 512
_FX_STACK: Final = 32
_FX_VECTORS: Final = 160
_MXCSR_MASK: Final = 0xFFFF
_EMPTY: Final = 3
_MOST: Final = 16

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


class RegisterList:
    """The numbers of some registers of at most 64 bits, 16 at most: the same for all vCPUs."""

    __slots__ = ("count", "ids")

    def __init__(self, *ids: int) -> None:
        self.count = len(ids)
        if self.count > _MOST:
            raise ValueError(f"a list of {self.count} registers")
        self.ids = (ctypes.c_int * self.count)(*ids)


class RegisterFile:
    """One vCPU's registers."""

    __slots__ = ("_handle", "_pointers", "_values")

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._values = (ctypes.c_uint64 * _MOST)()
        start = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * _MOST)(*range(start, start + 8 * _MOST, 8))

    def read(self, registers: RegisterList) -> list[int]:
        _check(uclib.uc_reg_read_batch(self._handle, registers.ids, self._pointers, registers.count))
        return self._values[: registers.count]

    def write(self, registers: RegisterList, values: Sequence[int]) -> None:
        self._values[: registers.count] = list(values)
        _check(uclib.uc_reg_write_batch(self._handle, registers.ids, self._pointers, registers.count))

    def read_fpu(self) -> bytes:
        """x87, MXCSR and XMM0-15 as a 512-byte FXSAVE area in its 64-bit form (Intel SDM vol. 1, 10.5.1)."""
        ctypes.memset(self._values, 0, ctypes.sizeof(self._values))  # some of these are shorter than the place for them
        control, status_word, tags, opcode, ip, dp, mxcsr = self.read(_FPU_HEAD)
        in_use = sum(1 << i for i in range(8) if tags >> 2 * i & 3 != _EMPTY)
        area = ctypes.create_string_buffer(_FX_BYTES)
        ids, pointers = _vectors(ctypes.addressof(area), status_word)
        _check(uclib.uc_reg_read_batch(self._handle, ids, pointers, len(ids)))
        head = _FX_HEAD.pack(control, status_word, in_use, 0, opcode & 0x7FF, ip, dp, mxcsr, _MXCSR_MASK)
        return head + area.raw[_FX_STACK:]

    def write_fpu(self, area: bytes) -> None:
        """Load an FXSAVE area; the inverse of `read_fpu`."""
        control, status_word, in_use, _, opcode, ip, dp, mxcsr, _ = _FX_HEAD.unpack_from(area)
        tags = sum(_EMPTY << 2 * i for i in range(8) if not in_use >> i & 1)
        buffer = ctypes.create_string_buffer(area, _FX_BYTES)
        ids, pointers = _vectors(ctypes.addressof(buffer), status_word)
        _check(uclib.uc_reg_write_batch(self._handle, ids, pointers, len(ids)))
        self.write(_FPU_HEAD, (control, status_word, tags, opcode, ip, dp, mxcsr))


def _vectors(area: int, status_word: int) -> tuple[ctypes.Array[ctypes.c_int], ctypes.Array[ctypes.c_void_p]]:
    """The x87 stack from its top, and XMM0-15, as they stand in an FXSAVE area."""
    top = status_word >> 11 & 7
    ids = (ctypes.c_int * 24)(*(x86.UC_X86_REG_FP0 + (top + i) % 8 for i in range(8)), *_XMM)
    return ids, (ctypes.c_void_p * 24)(
        *range(area + _FX_STACK, area + _FX_VECTORS, 16), *range(area + _FX_VECTORS, area + _FX_VECTORS + 256, 16)
    )


def _check(status: int) -> None:
    if status:
        raise UcError(status)


_XMM: Final = range(x86.UC_X86_REG_XMM0, x86.UC_X86_REG_XMM0 + 16)
_FPU_HEAD: Final = RegisterList(
    x86.UC_X86_REG_FPCW,
    x86.UC_X86_REG_FPSW,
    x86.UC_X86_REG_FPTAG,
    x86.UC_X86_REG_FOP,
    x86.UC_X86_REG_FIP,
    x86.UC_X86_REG_FDP,
    x86.UC_X86_REG_MXCSR,
)
