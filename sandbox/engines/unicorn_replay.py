"""Whether a faulting instruction read or wrote: Unicorn keeps no page-fault error code, so the instruction is run once more.

The replay is a second, bare machine over the same memory whose translations are answered one by one from the page tables; it ends
at the first access that they do not allow. Only a VM that is to be discarded is replayed. Called by `unicorn.py`.
"""

from __future__ import annotations

from typing import Any, Final

from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import Uc, UcError

from sandbox.engines.base import CpuState
from sandbox.engines.registers import GPRS
from sandbox.memory import GuestMemory
from sandbox.outcome import FaultKind
from sandbox.pages.paging import FRAME_MASK, NO_EXECUTE, PAGE, PRESENT, WRITABLE

_TRANSLATION_BYTES: Final = 1 << 20
_KINDS: Final = {
    uc_const.UC_MEM_READ: FaultKind.READ,
    uc_const.UC_MEM_WRITE: FaultKind.WRITE,
    uc_const.UC_MEM_FETCH: FaultKind.EXECUTE,
}


class _Translation:
    """Answers a machine's address translations as the guest's tables would, and keeps the first refusal."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.refused: FaultKind | None = None

    def fill(self, _uc: Any, address: int, access: int, result: Any, _data: Any) -> bool:
        entry = self._memory.entry(address)
        allowed = self.refused is None and bool(entry & PRESENT)
        if access == uc_const.UC_MEM_WRITE:
            allowed = allowed and bool(entry & WRITABLE)
        elif access == uc_const.UC_MEM_FETCH:
            allowed = allowed and not entry & NO_EXECUTE
        if not allowed:
            self.refused = self.refused or _KINDS.get(access, FaultKind.READ)
            return False
        result.paddr = entry & FRAME_MASK
        result.perms = uc_const.UC_PROT_READ
        if entry & WRITABLE:
            result.perms |= uc_const.UC_PROT_WRITE
        if not entry & NO_EXECUTE:
            result.perms |= uc_const.UC_PROT_EXEC
        return True


def replay(memory: GuestMemory, state: CpuState) -> FaultKind:
    """READ, WRITE or EXECUTE: the first thing that the instruction at `state.rip` does and may not. READ when it is none."""
    uc = Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64)
    uc.ctl_set_tcg_buffer_size(_TRANSLATION_BYTES)
    uc.ctl_set_tlb_mode(uc_const.UC_TLB_VIRTUAL)
    uc.mem_map_ptr(0, memory.layout.window_bytes, uc_const.UC_PROT_ALL, memory.address)
    translation = _Translation(memory)
    uc.hook_add(uc_const.UC_HOOK_TLB_FILL, translation.fill)
    for register, value in zip(GPRS, state.gprs, strict=True):
        uc.reg_write(register, value)
    uc.reg_write(x86.UC_X86_REG_RFLAGS, state.rflags)
    uc.reg_write(x86.UC_X86_REG_FS_BASE, state.fs_base)
    uc.reg_write(x86.UC_X86_REG_GS_BASE, state.gs_base)
    try:
        uc.emu_start(state.rip, PAGE - 1)
    except UcError:
        return translation.refused or FaultKind.READ
    return translation.refused or FaultKind.READ
