"""The `kvm` engine: ring 3 on the processor itself, wherever /dev/kvm works.

The guest's only way out is the landing page (`supervisor.py`): `syscall` and every exception arrive there in ring 0 at one `out`,
which ends KVM_RUN; the host returns to ring 3 by writing registers, so that ring 0 never runs anything else. `vm.py` makes a
`KvmVcpu` over a `memory.GuestMemory` and sees only the protocol of `base.py`.
"""

from __future__ import annotations

import ctypes
import errno
import signal
import struct
import threading
import time
from typing import Final

from sandbox.engines import kvm_api as api
from sandbox.engines.base import CpuState, Preempted, Stop, SystemCall
from sandbox.engines.cpuid import LEAVES
from sandbox.engines.processor import CR0, CR4, EFER, EXCEPTIONS, PAGE_FAULT, RFLAGS_FIXED, RFLAGS_KEPT
from sandbox.engines.watchdog import Alarm, watchdog
from sandbox.errors import EngineUnavailable
from sandbox.memory import GuestMemory
from sandbox.outcome import Fault, FaultKind
from sandbox.supervisor import (
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
_RAX, _RCX, _R11 = 0, 2, 11
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
_SCRUB_TRIES: Final = 1000
"""Signals may cut the few instructions short, but not for ever."""
_MASK: Final = (1 << 64) - 1

_opened: list[api.Kvm] = []


def prepare() -> api.Kvm:
    """Open what the engine needs while this process may: at the first vCPU at the latest. Raises EngineUnavailable."""
    if not _opened:
        device = api.Kvm()
        try:
            if signal.getsignal(api.KICK) in (signal.SIG_DFL, signal.SIG_IGN, None):
                signal.signal(api.KICK, _ignore)  # not SIG_IGN, which would not end KVM_RUN
        except ValueError as error:
            raise EngineUnavailable("the kvm engine has to be used first by the main thread") from error
        _opened.append(device)
    return _opened[0]


def _ignore(_number: int, _frame: object) -> None:
    """The signal has done its work when KVM_RUN has ended."""


class KvmVcpu:
    """One virtual CPU over one guest's memory. After a Fault it is good for nothing but `close`."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._layout = memory.layout
        self._alarm: Alarm | None = None
        self._thread = 0
        self._entered = False
        self._loaded: CpuState | None = None
        self._closed = False
        kvm = prepare()
        self._machine = api.Machine(kvm, memory.address, memory.layout.total_bytes)
        try:
            self._machine.set_cpuid(_CPUID)
            self._machine.set_msrs(_MSRS)
            self._fresh = bytes(_special(self._machine.special_registers(), self._layout.root))
        except BaseException:
            self._machine.close()
            raise
        self._run = self._machine.run
        self._regs = self._run.regs
        self._sregs = self._run.sregs
        self._user_cs = bytes(api.SpecialRegisters.from_buffer_copy(self._fresh).cs)
        self._user_ss = bytes(api.SpecialRegisters.from_buffer_copy(self._fresh).ss)
        self._fpu = ctypes.create_string_buffer(api.XSAVE_BYTES)

    def run(self, slice_ns: int) -> Stop:
        """See `base.Vcpu`. Raises nothing for anything that a guest does."""
        run, enter = self._run, self._machine.enter
        clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.get_ident()
        run.immediate_exit = 0
        alarm = watchdog().arm(clock, time.clock_gettime_ns(clock) + slice_ns, self._stop)
        self._alarm = alarm
        self._entered = True
        try:
            while True:
                error = enter()
                run.dirty_regs = 0
                if error == errno.EINTR or (not error and run.exit_reason == api.EXIT_INTR):
                    if alarm.fired:
                        return Preempted()
                elif error:
                    return Fault(FaultKind.ENGINE, self._regs.rip)
                else:
                    return self._told()
        finally:
            self._alarm = None
            watchdog().disarm(alarm)

    def complete(self, result: int) -> None:
        self._regs.gprs[_RAX] = result & _MASK
        self._run.dirty_regs |= api.REGS

    def read_bases(self) -> tuple[int, int]:
        return self._sregs.fs.base, self._sregs.gs.base

    def write_bases(self, fs_base: int, gs_base: int) -> None:
        self._sregs.fs.base, self._sregs.gs.base = fs_base, gs_base
        self._run.dirty_regs |= api.SREGS

    def interrupt(self) -> None:
        alarm = self._alarm
        if alarm is not None:
            alarm.fire()
            self._stop()

    def save(self) -> CpuState:
        """The state to load into a fork; what was loaded, if no instruction has run since."""
        if not self._entered:
            if self._loaded is None:
                raise RuntimeError("save before load")
            return self._loaded
        fs_base, gs_base = self.read_bases()
        self._machine.transfer(api.GET_XSAVE, self._fpu)
        gprs = self._regs.gprs
        return CpuState(
            gprs=tuple(gprs[i] for i in _ORDER),
            rip=self._regs.rip,
            rflags=self._regs.rflags & RFLAGS_KEPT,
            fs_base=fs_base,
            gs_base=gs_base,
            fpu=self._fpu.raw[:_FXSAVE_BYTES],
        )

    def load(self, state: CpuState) -> None:
        """Take on `state`. Raises EngineUnavailable when the vCPU cannot be cleaned of what ran before."""
        if self._entered:
            self._scrub()
        self._loaded = state
        for index, source in enumerate(_ORDER):
            self._regs.gprs[index] = state.gprs[source]
        self._start(state.rip, state.rflags & RFLAGS_KEPT | RFLAGS_FIXED)
        self.write_bases(state.fs_base, state.gs_base)
        self._fpu.raw = (state.fpu + _X87_SSE).ljust(api.XSAVE_BYTES, b"\0")
        self._machine.transfer(api.SET_XSAVE, self._fpu)

    def memory_changed(self) -> None:
        self._machine.remap()

    def close(self) -> None:
        """Idempotent; after it the memory may be unmapped."""
        if not self._closed:
            self._closed = True
            del self._run, self._regs, self._sregs
            self._machine.close()

    def _start(self, rip: int, rflags: int) -> None:
        self._regs.rip, self._regs.rflags = rip, rflags
        ctypes.memmove(ctypes.addressof(self._sregs), self._fresh, api.SREGS_BYTES)
        self._run.dirty_regs = api.REGS | api.SREGS

    def _scrub(self) -> None:
        """Have ring 3 itself load null selectors: kvm_pvm leaves in the processor what the guest loaded last."""
        self._start(SCRUB_ADDRESS, RFLAGS_FIXED)
        self._run.immediate_exit = 0
        for _ in range(_SCRUB_TRIES):
            error = self._machine.enter()
            self._run.dirty_regs = 0
            if not error and self._run.exit_reason == api.EXIT_IO and self._run.io_port == SYSTEM_CALL_PORT:
                return
            if error != errno.EINTR and self._run.exit_reason != api.EXIT_INTR:
                break
        raise EngineUnavailable(f"KVM does not clean a vCPU: exit {self._run.exit_reason}, error {error}")

    def _stop(self) -> None:
        """Called by other threads: the flag ends a KVM_RUN that is about to begin, the signal one that has."""
        self._run.immediate_exit = 1
        signal.pthread_kill(self._thread, api.KICK)

    def _told(self) -> Stop:
        run, regs = self._run, self._regs
        # Ring 3 runs with interrupts enabled and cannot change that: SFMASK and the gates do, on the way to the landing page.
        # That, and not the privilege level, tells an arrival from a jump: see supervisor._permissions.
        arrived = run.exit_reason == api.EXIT_IO and not regs.rflags & _INTERRUPTS
        if arrived and run.io_port == SYSTEM_CALL_PORT:
            return self._system_call()
        if arrived and run.io_port == EXCEPTION_PORT:
            return self._exception(gate_vector(regs.rip))
        return Fault(FaultKind.INTERRUPT if run.exit_reason == api.EXIT_IO else FaultKind.ENGINE, regs.rip)

    def _system_call(self) -> SystemCall:
        """Step back to ring 3 as `sysret` does: RCX holds the return address, R11 the flags."""
        regs, sregs = self._regs, self._sregs
        gprs = regs.gprs[:]
        regs.rip, regs.rflags = gprs[_RCX], gprs[_R11] & RFLAGS_KEPT | RFLAGS_FIXED
        ctypes.memmove(ctypes.addressof(sregs.cs), self._user_cs, len(self._user_cs))
        ctypes.memmove(ctypes.addressof(sregs.ss), self._user_ss, len(self._user_ss))
        self._run.dirty_regs = api.REGS | api.SREGS
        return SystemCall(gprs[_RAX], (gprs[5], gprs[4], gprs[3], gprs[10], gprs[8], gprs[9]))

    def _exception(self, vector: int) -> Fault:
        """Read what the processor has pushed (SDM vol. 3, 6.14.2): an error code for some vectors, then RIP."""
        at = self._layout.supervisor_offset + (self._regs.gprs[6] - KERNEL_BASE)
        if not self._layout.supervisor_offset <= at <= self._layout.stub_offset - 16:
            return Fault(FaultKind.ENGINE, self._regs.rip)
        first, second = struct.unpack_from("<QQ", self._memory.block, at)
        code, rip = (first, second) if vector in _ERROR_CODE else (0, first)
        if vector == PAGE_FAULT:
            kind = FaultKind.EXECUTE if code & _FETCH else FaultKind.WRITE if code & _WRITE else FaultKind.READ
            return Fault(kind, rip, self._sregs.cr2)
        if vector == _PROTECTION and code & _BY_GATE:
            return Fault(FaultKind.INTERRUPT, rip)
        return Fault(EXCEPTIONS.get(vector, FaultKind.INTERRUPT), rip)


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
