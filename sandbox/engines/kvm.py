"""The `kvm` engine: ring 3 on the processor itself, wherever /dev/kvm works.

The guest's only way out is the landing page (`pages/supervisor.py`): `syscall` and every exception arrive there in ring 0 at one
`out`, which ends KVM_RUN; the host returns to ring 3 by writing registers, so that ring 0 never runs anything else. `vm.py`
makes a `KvmVcpu` over a `memory.GuestMemory` and sees only the protocol of `base.py`.
"""

from __future__ import annotations

import errno
import signal
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from sandbox.engines import kvm_api as api
from sandbox.engines import restoring
from sandbox.engines.base import CpuState, Preempted, Stop, SystemCall
from sandbox.engines.cpuid import LEAVES
from sandbox.engines.processor import CR0, CR4, EFER, EXCEPTIONS, PAGE_FAULT, RFLAGS_FIXED, RFLAGS_KEPT
from sandbox.engines.selectors import reader
from sandbox.engines.sliced import Runs
from sandbox.errors import EngineUnavailable
from sandbox.memory import GuestMemory
from sandbox.outcome import Fault, FaultKind
from sandbox.pages.paging import USER_TOP
from sandbox.pages.supervisor import (
    EXCEPTION_PORT,
    GDT_ADDRESS,
    GDT_LIMIT,
    IDT_ADDRESS,
    IDT_LIMIT,
    KERNEL_BASE,
    KERNEL_CODE,
    LANDING_ADDRESS,
    SCRUB_ADDRESS,
    SYSTEM_CALL_PORT,
    TSS_ADDRESS,
    TSS_LIMIT,
    USER_CODE,
    USER_DATA,
    gate_vector,
)

_STAR, _LSTAR, _CSTAR, _SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
_MSRS: Final = {
    _STAR: (USER_CODE - 16) << 48 | KERNEL_CODE << 32,
    _LSTAR: LANDING_ADDRESS,
    _CSTAR: LANDING_ADDRESS,
    _SFMASK: 0x4_7700,  # AC NT IOPL DF IF TF: a trap flag must not follow into ring 0
}
_INTERRUPTS: Final = 1 << 9
"""RFLAGS.IF."""
_CPUID: Final = dict.fromkeys((*range(2, 0x20), *range(0x8000_0002, 0x8000_0008)), (0, 0, 0, 0)) | LEAVES
"""Zeros are said openly: past the highest leaf KVM answers with that one's values. Some KVMs cannot trap `cpuid` at all."""
_RAX, _RCX, _RSP, _R11 = 0, 2, 6, 11
_STATE: Final = struct.Struct("<18Q")
"""struct kvm_regs."""
_WORD: Final = struct.Struct("<Q")
_RETURN: Final = struct.Struct("<QQ")
_RAX_OFFSET: Final = api.REGS_OFFSET
_RSP_OFFSET: Final = api.REGS_OFFSET + 8 * _RSP
_RIP_OFFSET: Final = api.REGS_OFFSET + 16 * 8
_STATE_AREA: Final = slice(api.REGS_OFFSET, api.SREGS_OFFSET)
_SPECIAL_AREA: Final = slice(api.SREGS_OFFSET, api.SREGS_OFFSET + api.SREGS_BYTES)
_ALL_AREA: Final = slice(api.REGS_OFFSET, api.SREGS_OFFSET + api.SREGS_BYTES)
_CS_AREA: Final = slice(api.SREGS_OFFSET + api.SpecialRegisters.cs.offset, api.SREGS_OFFSET + api.SpecialRegisters.ds.offset)
_SS_AREA: Final = slice(api.SREGS_OFFSET + api.SpecialRegisters.ss.offset, api.SREGS_OFFSET + api.SpecialRegisters.tr.offset)
_ORDER: Final = (0, 1, 2, 3, 4, 5, 7, 6, *range(8, 16))
"""KVM's order of registers from `CpuState.gprs`'s and back: rsp and rbp change places."""
_ERROR_CODE: Final = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
_PROTECTION: Final = 13
_BY_GATE: Final = 1 << 1
"""Of an error code: the fault is in a gate of the IDT, as when ring 3 says `int n`."""
_WRITE, _FETCH = 1 << 1, 1 << 4
"""Of a page fault's error code."""
_FXSAVE_BYTES: Final = 512
_X87_SSE: Final = struct.pack("<Q", 3)
"""XSTATE_BV: all else, AVX above all, becomes what it is at power-up."""
_NO_PORT: Final = -1
_SCRUB_TRIES: Final = 1000
"""Signals may cut the few instructions short, but not for ever."""
_MASK: Final = (1 << 64) - 1

_opened: list[tuple[api.Kvm, Callable[[], int]]] = []


def prepare() -> tuple[api.Kvm, Callable[[], int]]:
    """Open what the engine needs while this process may: at the first vCPU at the latest. Raises EngineUnavailable.

    The device, and what reads the thread's own selectors.
    """
    if not _opened:
        device = api.Kvm()
        try:
            if signal.getsignal(api.KICK) in (signal.SIG_DFL, signal.SIG_IGN, None):
                signal.signal(api.KICK, _ignore)  # not SIG_IGN, which would not end KVM_RUN
        except ValueError as error:
            raise EngineUnavailable("the kvm engine has to be used first by the main thread") from error
        _opened.append((device, reader()))
    return _opened[0]


def _ignore(_number: int, _frame: object) -> None:
    """The signal has done its work when KVM_RUN has ended."""


class KvmVcpu:
    """One virtual CPU over one guest's memory. After a Fault it is good for nothing but `close`."""

    def __init__(self, memory: GuestMemory, *, may_restore: Callable[[], bool] = lambda: False) -> None:
        """`may_restore` is asked at a template that holds what `restoring` needs: whether ring 3 may load it here."""
        self._runs = Runs()
        self._may_restore = may_restore
        self._memory = memory
        self._layout = memory.layout
        self._closed = False
        kvm, self._selectors = prepare()
        self._machine = api.Machine(kvm, memory.address, memory.layout.total_bytes)
        try:
            self._machine.set_cpuid(_CPUID)
            self._machine.set_msrs(_MSRS)
            fresh = _special(self._machine.special_registers(), self._layout.root)
        except BaseException:
            self._machine.close()
            raise
        self._fresh, self._user_cs, self._user_ss = _shared(bytes(fresh)), _shared(bytes(fresh.cs)), _shared(bytes(fresh.ss))
        self._run = self._machine.run
        self._vcpu = self._machine.vcpu
        self._page = self._machine.page
        self._general, self._special = b"", b""
        """Registers and special registers of the state that was loaded last, as they stand in struct kvm_run."""
        self._fpu = bytearray()
        """Its struct kvm_xsave, once it has been needed."""
        self._entrance = b""
        """Registers that have ring 3 itself arrive at that state; empty where it may not: see `restoring`."""
        self._restores = False
        """The registers are those: the result of a system call belongs where RSP stands."""

    def run(self, slice_ns: int, now_ns: int | None = None) -> Stop:
        """See `base.Vcpu`. Raises EngineUnavailable when what another guest left in this thread cannot be removed."""
        page, vcpu = self._page, self._vcpu
        if self._selectors():
            self._scrub()
        page[api.IMMEDIATE_OFFSET] = 0
        self._restores = False
        alarm = self._runs.begin(slice_ns, now_ns, self._stop)
        self._runs.entered = True
        try:
            while True:
                error = api.enter(vcpu)
                page[api.DIRTY_OFFSET] = 0
                reason, port, *gprs, rip, rflags = api.EXIT.unpack_from(page, api.EXIT_OFFSET)
                if error == errno.EINTR or (not error and reason == api.EXIT_INTR):
                    if alarm.fired:
                        return Preempted()
                elif error:
                    return Fault(FaultKind.ENGINE, rip)
                else:
                    break
        finally:
            self._runs.finish(alarm)
        return self._told(port if reason == api.EXIT_IO else _NO_PORT, gprs, rip, rflags)

    def complete(self, result: int) -> None:
        if self._restores and not 0 <= result < USER_TOP:  # kvm_pvm enters ring 3 otherwise with such an RSP
            self._put(self._general)
            self._set_fpu()
            self._restores = False
        _WORD.pack_into(self._page, _RSP_OFFSET if self._restores else _RAX_OFFSET, result & _MASK)
        self._page[api.DIRTY_OFFSET] |= api.REGS

    def read_bases(self) -> tuple[int, int]:
        sregs = self._run.sregs
        return sregs.fs.base, sregs.gs.base

    def write_bases(self, fs_base: int, gs_base: int) -> None:
        sregs = self._run.sregs
        sregs.fs.base, sregs.gs.base = fs_base, gs_base
        self._run.dirty_regs |= api.SREGS

    def load(self, state: CpuState) -> None:
        """Take on `state`. Raises OSError when KVM refuses it."""
        if state is not self._runs.loaded:
            self._prepare(state)
        self._restores = bool(self._entrance)
        self._put(self._entrance or self._general)
        if not self._restores:
            self._set_fpu()

    def extended_state(self) -> bytes:
        """Its struct kvm_xsave, as of the last stop."""
        fpu = bytearray(api.XSAVE_BYTES)
        self._machine.transfer(api.GET_XSAVE, fpu)
        return bytes(fpu)

    def interrupt(self) -> None:
        self._runs.interrupt(self._stop)

    def save(self) -> CpuState:
        return self._runs.save(self._state)

    def memory_changed(self) -> None:
        self._machine.remap()

    def close(self) -> None:
        """Idempotent; after it the memory may be unmapped."""
        if not self._closed:
            self._closed = True
            self._page.release()
            self._run = api.Run()
            self._machine.close()

    def _put(self, general: bytes) -> None:
        page = self._page
        known = self._runs.entered and not page[api.DIRTY_OFFSET] & api.SREGS
        if known and bytes(page[_SPECIAL_AREA]) == self._special:  # as KVM told them at the last exit
            page[_STATE_AREA], page[api.DIRTY_OFFSET] = general, api.REGS
        else:
            page[_STATE_AREA], page[_SPECIAL_AREA] = general, self._special
            page[api.DIRTY_OFFSET] = api.REGS | api.SREGS

    def _prepare(self, state: CpuState) -> None:
        self._runs.loaded = state
        self._fpu.clear()
        rflags = state.rflags & RFLAGS_KEPT | RFLAGS_FIXED
        sregs = api.SpecialRegisters.from_buffer_copy(self._fresh)
        sregs.fs.base, sregs.gs.base = state.fs_base, state.gs_base
        self._special = _shared(bytes(sregs))
        self._general = _registers(state.gprs, state.rip, rflags)
        entrance = restoring.entrance(state)
        usable = entrance is not None and self._holds(state) and self._may_restore()
        self._entrance = _registers(*entrance, rflags) if entrance is not None and usable else b""

    def _set_fpu(self) -> None:
        if not self._fpu and self._runs.loaded is not None:
            self._fpu += (self._runs.loaded.fpu + _X87_SSE).ljust(api.XSAVE_BYTES, b"\0")
        self._machine.transfer(api.SET_XSAVE, self._fpu)

    def _holds(self, state: CpuState) -> bool:
        at, content = restoring.piece(self._layout, state)
        return bytes(self._memory.block[at : at + len(content)]) == content

    def _state(self) -> CpuState:
        if self._restores and self._runs.loaded is not None:
            result = _WORD.unpack_from(self._page, _RSP_OFFSET)
            return replace(self._runs.loaded, gprs=(*result, *self._runs.loaded.gprs[1:]))
        fs_base, gs_base = self.read_bases()
        *gprs, rip, rflags = _STATE.unpack_from(self._page, api.REGS_OFFSET)
        return CpuState(
            gprs=tuple(gprs[i] for i in _ORDER),
            rip=rip,
            rflags=rflags & RFLAGS_KEPT,
            fs_base=fs_base,
            gs_base=gs_base,
            fpu=self.extended_state()[:_FXSAVE_BYTES],
        )

    def _scrub(self) -> None:
        """Have ring 3 itself load null selectors, on a thread that has others: some guest's. This vCPU's state stays as it is.

        Raises EngineUnavailable when that fails: no guest may run on this thread any more.
        """
        kept = bytes(self._page[_ALL_AREA])
        self._page[_ALL_AREA] = _STATE.pack(*bytes(16), SCRUB_ADDRESS, RFLAGS_FIXED) + self._fresh
        self._run.dirty_regs = api.REGS | api.SREGS
        self._run.immediate_exit = 0
        for _ in range(_SCRUB_TRIES):
            error = api.enter(self._vcpu)
            self._run.dirty_regs = 0
            if not error and self._run.exit_reason == api.EXIT_IO and self._run.io_port == SYSTEM_CALL_PORT:
                self._page[_ALL_AREA] = kept
                self._run.dirty_regs = api.REGS | api.SREGS
                return
            if error != errno.EINTR and self._run.exit_reason != api.EXIT_INTR:
                break
        raise EngineUnavailable(f"KVM does not clean a vCPU: exit {self._run.exit_reason}, error {error}")

    def _stop(self) -> None:
        """Called by other threads: the flag ends a KVM_RUN that is about to begin, the signal one that has."""
        self._run.immediate_exit = 1
        signal.pthread_kill(self._runs.runner, api.KICK)

    def _told(self, port: int, gprs: list[int], rip: int, rflags: int) -> Stop:
        # Ring 3 runs with interrupts enabled and cannot change that: SFMASK and the gates do, on the way to the landing page.
        # That, and not the privilege level, tells an arrival from a jump: see supervisor._permissions.
        if not rflags & _INTERRUPTS:
            if port == SYSTEM_CALL_PORT:
                return self._system_call(gprs)
            if port == EXCEPTION_PORT:
                return self._exception(gate_vector(rip), rip, gprs[_RSP])
        return Fault(FaultKind.ENGINE if port == _NO_PORT else FaultKind.INTERRUPT, rip)

    def _system_call(self, gprs: list[int]) -> SystemCall:
        """Step back to ring 3 as `sysret` does: RCX holds the return address, R11 the flags."""
        page = self._page
        _RETURN.pack_into(page, _RIP_OFFSET, gprs[_RCX], gprs[_R11] & RFLAGS_KEPT | RFLAGS_FIXED)
        if bytes(page[_CS_AREA]) == self._user_cs and bytes(page[_SS_AREA]) == self._user_ss:
            page[api.DIRTY_OFFSET] = api.REGS  # kvm_pvm has never left them
        else:
            page[_CS_AREA], page[_SS_AREA] = self._user_cs, self._user_ss
            page[api.DIRTY_OFFSET] = api.REGS | api.SREGS
        return SystemCall(gprs[_RAX], (gprs[5], gprs[4], gprs[3], gprs[10], gprs[8], gprs[9]))

    def _exception(self, vector: int, landed: int, stack: int) -> Fault:
        """Read what the processor has pushed (SDM vol. 3, 6.14.2): an error code for some vectors, then RIP."""
        at = self._layout.supervisor_offset + (stack - KERNEL_BASE)
        if not self._layout.supervisor_offset <= at <= self._layout.stub_offset - 16:
            return Fault(FaultKind.ENGINE, landed)
        first, second = struct.unpack_from("<QQ", self._memory.block, at)
        code, rip = (first, second) if vector in _ERROR_CODE else (0, first)
        if vector == PAGE_FAULT:
            kind = FaultKind.EXECUTE if code & _FETCH else FaultKind.WRITE if code & _WRITE else FaultKind.READ
            return Fault(kind, rip, self._run.sregs.cr2)
        if vector == _PROTECTION and code & _BY_GATE:
            return Fault(FaultKind.INTERRUPT, rip)
        return Fault(EXCEPTIONS.get(vector, FaultKind.INTERRUPT), rip)


@lru_cache(maxsize=64)
def _shared(content: bytes) -> bytes:
    """The same bytes, one object for all vCPUs: what all of them look at stays in the processor's caches."""
    return content


def _registers(gprs: tuple[int, ...], rip: int, rflags: int) -> bytes:
    return _STATE.pack(*(gprs[i] for i in _ORDER), rip, rflags)


def _segment(selector: int, kind: int, *, ring: int, long_mode: bool) -> api.Segment:
    return api.Segment(
        base=0, limit=0xFFFF_FFFF, selector=selector, type=kind, present=1, dpl=ring, db=not long_mode, s=1, l=long_mode, g=1
    )


def _special(sregs: api.SpecialRegisters, root: int) -> api.SpecialRegisters:
    """A vCPU's special registers at its first instruction, from what KVM made them."""
    sregs.cs = _segment(USER_CODE, 11, ring=3, long_mode=True)
    sregs.ss = _segment(USER_DATA, 3, ring=3, long_mode=False)
    for name in ("ds", "es", "fs", "gs"):
        setattr(sregs, name, api.Segment(unusable=1))
    sregs.tr = api.Segment(base=TSS_ADDRESS, limit=TSS_LIMIT, selector=0x18, type=11, present=1)
    sregs.ldt = api.Segment(unusable=1)
    sregs.gdt = api.Table(base=GDT_ADDRESS, limit=GDT_LIMIT)
    sregs.idt = api.Table(base=IDT_ADDRESS, limit=IDT_LIMIT)
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = CR0, root, CR4, EFER
    return sregs
