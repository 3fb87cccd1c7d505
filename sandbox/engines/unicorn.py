"""The `unicorn` engine: QEMU's translator as a library, running ring 3 behind real page tables, on any host.

Every trap of Unicorn and of its Python binding is dealt with here and in no other module. `vm.py` makes a `UnicornVcpu` over a
`memory.GuestMemory` and sees only the protocol of `base.py`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86
from unicorn.unicorn_py3.arch.intel import UcIntel
from unicorn.unicorn_py3.unicorn import Uc, UcContext, UcError, uclib

from sandbox.engines.base import CpuState, Preempted, Stop, SystemCall
from sandbox.engines.cpuid import cpuid
from sandbox.engines.processor import CR0, CR4, EFER, EXCEPTIONS, PAGE_FAULT, RFLAGS_FIXED, RFLAGS_KEPT
from sandbox.engines.registers import GPRS, RegisterFile, RegisterList
from sandbox.engines.sliced import Runs
from sandbox.engines.unicorn_replay import replay
from sandbox.memory import GuestMemory
from sandbox.outcome import Fault, FaultKind
from sandbox.pages.paging import NO_EXECUTE, PAGE, PRESENT
from sandbox.pages.supervisor import FRAME_ADDRESS, FRAME_OFFSET, GDT_ADDRESS, GDT_LIMIT, STUB_ADDRESS
from sandbox.pages.supervisor import USER_CODE as CODE
from sandbox.pages.supervisor import USER_DATA as DATA

TRANSLATION_BYTES: Final = 1 << 20
"""Unicorn's own default costs 7 ms and 2 MiB more a VM."""

_NO_EXIT: Final = 0
_EFER: Final = 0xC000_0080
_LONGEST_INSTRUCTION: Final = 15

_UNTOLD: Final = FaultKind.ENGINE
"""Of a page fault, until the replay has told a read from a write."""

_SYSCALL_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_CPUID_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_INTERRUPT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_IN_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
_OUT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)

_ALL: Final = RegisterList(*GPRS)
_BASES: Final = RegisterList(x86.UC_X86_REG_FS_BASE, x86.UC_X86_REG_GS_BASE)
_CALL: Final = RegisterList(
    x86.UC_X86_REG_RAX,
    x86.UC_X86_REG_RDI,
    x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_R10,
    x86.UC_X86_REG_R8,
    x86.UC_X86_REG_R9,
    x86.UC_X86_REG_RIP,
    x86.UC_X86_REG_RFLAGS,
)
_POSITION: Final = RegisterList(x86.UC_X86_REG_RIP, x86.UC_X86_REG_RFLAGS)
_SELECTORS: Final = (x86.UC_X86_REG_DS, x86.UC_X86_REG_ES, x86.UC_X86_REG_FS, x86.UC_X86_REG_GS)
_RETURN: Final = RegisterList(x86.UC_X86_REG_RAX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_R11)
_MASK: Final = (1 << 64) - 1


_M_MMAP_THRESHOLD: Final = -3
_SPARSE_BYTES: Final = 40 << 10
"""Unicorn's tables from this size on are written in small part; less catches what is written whole, and costs calls."""
_USUAL_BYTES: Final = 128 << 10
"""glibc's own choice before it has seen any block freed."""
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)


@contextmanager
def _sparse_allocations() -> Iterator[None]:
    """Large blocks come from the kernel, as pages that take no memory until they are written; 60 KiB less a VM. glibc only."""
    if _mallopt is None:
        yield
        return
    _mallopt(_M_MMAP_THRESHOLD, _SPARSE_BYTES)
    try:
        yield
    finally:
        _mallopt(_M_MMAP_THRESHOLD, _USUAL_BYTES)


class UnicornVcpu:
    """One virtual CPU over one guest's memory. After a Fault it is good for nothing but `close`."""

    def __init__(self, memory: GuestMemory) -> None:
        self._runs = Runs()
        self._memory = memory
        self._layout = memory.layout
        uc = Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64)
        if not isinstance(uc, UcIntel):
            raise TypeError("Unicorn made no x86 machine")
        self._uc = uc
        self._uc.ctl_set_tcg_buffer_size(TRANSLATION_BYTES)
        # With an `until`, every emu_start ends by looking that address up: a page fault that the CPU remembers, so that the
        # guest's next one is a double fault. With an empty set of exits there is none.
        uc.ctl_exits_enabled(True)
        self._handle = self._uc._uch
        self._callbacks: list[Any] = []
        self._event: Stop | None = None
        self._rip = STUB_ADDRESS
        self._rflags = RFLAGS_FIXED
        self._context: tuple[CpuState, UcContext] | None = None
        with _sparse_allocations():
            self._map()
        self._registers = RegisterFile(self._handle)
        self._hook()
        self._enable_paging()

    def run(self, slice_ns: int, now_ns: int | None = None) -> Stop:
        """See `base.Vcpu`. Raises nothing for anything that a guest does."""
        self._event = None
        alarm = self._runs.begin(slice_ns, now_ns, self._stop)
        try:
            while True:
                status = uclib.uc_emu_start(self._handle, self._rip, _NO_EXIT, 0, 0)
                call = self._registers.read(_CALL)
                self._rip, self._rflags = call[7], call[8]
                self._runs.entered = self._runs.entered or self._rip != STUB_ADDRESS
                if self._event is not None:
                    return _system_call(call) if self._event is _CALL_PENDING else self._told(self._event)
                if status != uc_const.UC_ERR_OK:
                    return self._failed(status)
                if alarm.fired:
                    return Preempted()
        finally:
            self._runs.finish(alarm)

    def complete(self, result: int) -> None:
        """Return from the pending call as `sysret` does: RCX holds the return address, R11 the flags."""
        rip = self._runs.loaded.rip if self._rip == STUB_ADDRESS and self._runs.loaded is not None else self._rip
        self._registers.write(_RETURN, (result & _MASK, rip, self._rflags))

    def read_bases(self) -> tuple[int, int]:
        fs_base, gs_base = self._registers.read(_BASES)
        return fs_base, gs_base

    def write_bases(self, fs_base: int, gs_base: int) -> None:
        self._registers.write(_BASES, (fs_base, gs_base))

    def load(self, state: CpuState) -> None:
        """Take on `state`. The second load of the same state on a vCPU, and all that follow, are one copy."""
        if self._context is not None and self._context[0] is state:
            self._uc.context_restore(self._context[1])
            self._rip, self._rflags = state.rip, state.rflags | RFLAGS_FIXED
            return
        self._runs.loaded = state
        self._rflags = state.rflags & RFLAGS_KEPT | RFLAGS_FIXED
        if self._runs.entered:
            for selector in _SELECTORS:  # before the bases, which a selector's load clears
                self._uc.reg_write(selector, 0)
        self._registers.write(_ALL, state.gprs)
        self._registers.write(_BASES, (state.fs_base, state.gs_base))
        self._registers.write_fpu(state.fpu)
        if self._runs.entered:
            self._rip = state.rip
            self._registers.write(_POSITION, (self._rip, self._rflags))
            self._context = (state, self._uc.context_save())
        else:
            self._enter(state)

    def interrupt(self) -> None:
        self._runs.interrupt(self._stop)

    def save(self) -> CpuState:
        return self._runs.save(self._state)

    def memory_changed(self) -> None:
        self._uc.ctl(uc_const.UC_CTL_TLB_FLUSH, uc_const.UC_CTL_IO_WRITE)

    def close(self) -> None:
        """Free the translator and its buffers. Idempotent; after it the memory may be unmapped."""
        self._context = None
        self._callbacks.clear()
        uc: Uc | None = self.__dict__.pop("_uc", None)
        if uc is not None:
            uc._callbacks.clear()
            del uc

    def _map(self) -> None:
        """Three kinds of physical memory: text and the stub run, all else is never executable, which makes stores fast."""
        layout, address, at = self._layout, self._memory.address, 0
        for start, end in (*self._memory.text, (layout.stub_offset, layout.total_bytes)):
            if start > at:
                self._uc.mem_map_ptr(at, start - at, uc_const.UC_PROT_READ | uc_const.UC_PROT_WRITE, address + at)
            self._uc.mem_map_ptr(start, end - start, uc_const.UC_PROT_READ | uc_const.UC_PROT_EXEC, address + start)
            at = end

    def _hook(self) -> None:
        """Callbacks straight into ctypes: the binding's wrappers cost more than the calls."""
        instruction = uc_const.UC_HOOK_INSN
        self._add(instruction, _SYSCALL_CALLBACK(self._on_syscall), x86.UC_X86_INS_SYSCALL)
        self._add(instruction, _SYSCALL_CALLBACK(self._on_sysenter), x86.UC_X86_INS_SYSENTER)
        self._add(instruction, _CPUID_CALLBACK(self._on_cpuid), x86.UC_X86_INS_CPUID)
        self._add(instruction, _IN_CALLBACK(self._on_in), x86.UC_X86_INS_IN)
        self._add(instruction, _OUT_CALLBACK(self._on_out), x86.UC_X86_INS_OUT)
        self._add(uc_const.UC_HOOK_INTR, _INTERRUPT_CALLBACK(self._on_interrupt))

    def _add(self, kind: int, callback: Any, *arguments: int) -> None:
        hook = ctypes.c_size_t()
        self._callbacks.append(callback)
        status = uclib.uc_hook_add(
            self._handle,
            ctypes.byref(hook),
            kind,
            ctypes.cast(callback, ctypes.c_void_p),
            None,
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
            *(ctypes.c_int(a) for a in arguments),
        )
        if status != uc_const.UC_ERR_OK:
            raise UcError(status)

    def _enable_paging(self) -> None:
        uc = self._uc
        uc.reg_write(x86.UC_X86_REG_CR3, self._layout.root)
        uc.reg_write(x86.UC_X86_REG_CR4, CR4)
        uc.msr_write(_EFER, EFER)
        uc.reg_write(x86.UC_X86_REG_CR0, CR0)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT_ADDRESS, GDT_LIMIT, 0))

    def _enter(self, state: CpuState) -> None:
        """Ring 3 is reached by `iretq` alone: writing CS does not change the privilege level."""
        self._write_frame(state.rip, state.gprs[7])
        self._rip = STUB_ADDRESS
        self._uc.reg_write(x86.UC_X86_REG_RSP, FRAME_ADDRESS)

    def _write_frame(self, rip: int, rsp: int) -> None:
        at = self._layout.supervisor_offset + FRAME_OFFSET
        struct.pack_into("<5Q", self._memory.block, at, rip, CODE, self._rflags, rsp, DATA)

    def _state(self) -> CpuState:
        fs_base, gs_base = self._registers.read(_BASES)
        return CpuState(
            gprs=tuple(self._registers.read(_ALL)),
            rip=self._rip,
            rflags=self._registers.read(_POSITION)[1] & RFLAGS_KEPT,
            fs_base=fs_base,
            gs_base=gs_base,
            fpu=self._registers.read_fpu(),
        )

    def _stop(self) -> None:
        uclib.uc_emu_stop(self._handle)

    def _end(self, event: Stop) -> None:
        """Keep the first event of a run: a few more instructions of the same block may follow it."""
        if self._event is None:
            self._event = event
        self._stop()

    def _on_syscall(self, _handle: int, _data: int) -> None:
        self._end(_CALL_PENDING)

    def _on_sysenter(self, _handle: int, _data: int) -> None:
        self._end(Fault(FaultKind.INTERRUPT, self._rip_now()))

    def _on_in(self, _handle: int, _port: int, _size: int, _data: int) -> int:
        self._end(Fault(FaultKind.INTERRUPT, self._rip_now()))
        return 0

    def _on_out(self, _handle: int, _port: int, _size: int, _value: int, _data: int) -> None:
        self._end(Fault(FaultKind.INTERRUPT, self._rip_now()))

    def _on_cpuid(self, _handle: int, _data: int) -> int:
        registers = (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX)
        for register, value in zip(registers, cpuid(self._uc.reg_read(x86.UC_X86_REG_RAX)), strict=True):
            self._uc.reg_write(register, value)
        return 1

    def _on_interrupt(self, _handle: int, number: int, _data: int) -> None:
        rip = self._rip_now()
        if number == PAGE_FAULT and not self._is_software(rip, number):
            address = int(self._uc.reg_read(x86.UC_X86_REG_CR2))
            self._end(Fault(self._access(rip, address), rip, address))
        elif self._is_software(rip, number):
            self._end(Fault(FaultKind.INTERRUPT, rip - 2))
        else:
            self._end(Fault(EXCEPTIONS.get(number, FaultKind.INTERRUPT), rip))

    def _rip_now(self) -> int:
        return int(self._uc.reg_read(x86.UC_X86_REG_RIP))

    def _is_software(self, rip: int, number: int) -> bool:
        """Whether exception `number` is really the instruction `int number`, behind which RIP then stands."""
        offset = rip - 2 - self._layout.base
        return any(start <= offset and offset + 2 <= end for start, end in self._memory.text) and bytes(
            self._memory.block[offset : offset + 2]
        ) == bytes((0xCD, number & 0xFF))

    def _access(self, rip: int, address: int) -> FaultKind:
        """What a page fault was about. Unicorn keeps no error code: told from the tables, and by a replay where they cannot."""
        entry = self._memory.entry(address)
        executable = entry & PRESENT and not entry & NO_EXECUTE
        if not executable and (address == rip or (address % PAGE == 0 and 0 < address - rip < _LONGEST_INSTRUCTION)):
            return FaultKind.EXECUTE
        return FaultKind.WRITE if entry & PRESENT else _UNTOLD

    def _told(self, event: Stop) -> Stop:
        if isinstance(event, Fault) and event.kind is _UNTOLD:
            return replace(event, kind=replay(self._memory, self.save()))
        return event

    def _failed(self, status: int) -> Fault:
        kind = FaultKind.INVALID_INSTRUCTION if status == uc_const.UC_ERR_INSN_INVALID else FaultKind.ENGINE
        return Fault(kind, self._rip)


_CALL_PENDING: Final = SystemCall(0, (0, 0, 0, 0, 0, 0))


def _system_call(call: list[int]) -> SystemCall:
    return SystemCall(call[0], (call[1], call[2], call[3], call[4], call[5], call[6]))
