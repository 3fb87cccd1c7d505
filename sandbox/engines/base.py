"""The protocol between the machine and what executes its instructions.

An engine owns one vCPU in ring 3 over one guest-physical memory that the machine maps (`memory.GuestMemory`: window, page
tables and supervisor page in one block; permissions live in real x86-64 page tables inside it, so every engine enforces the same
ones). The engine never interprets a system call: it stops, and `vm.py` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sandbox.outcome import Fault


@dataclass(frozen=True, slots=True)
class CpuState:
    """Everything of a vCPU that a program can see, independent of the engine: what a template keeps and a fork receives."""

    gprs: tuple[int, ...]
    """rax rbx rcx rdx rsi rdi rbp rsp r8 … r15, in that order."""
    rip: int
    rflags: int
    fs_base: int
    gs_base: int
    fpu: bytes
    """The 512-byte FXSAVE area (Intel SDM vol. 1, 10.5.1): x87, MXCSR, XMM0-15."""


class SystemCall(NamedTuple):
    """The guest executed `syscall`; the vCPU stands behind it and waits for `Vcpu.complete`."""

    number: int
    args: tuple[int, int, int, int, int, int]
    """rdi rsi rdx r10 r8 r9."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """The slice's CPU time is used, or `Vcpu.interrupt` was called. `run` continues exactly there."""


Stop = SystemCall | Preempted | Fault


class Vcpu(Protocol):
    """One virtual CPU. Used by one thread at a time, but for `interrupt`."""

    def run(self, slice_ns: int, now_ns: int | None = None) -> Stop:
        """Run until a system call, a fault, or `slice_ns` nanoseconds of this thread's CPU time are used.

        `now_ns` is that time, for who has looked at it just now.
        """

    def complete(self, result: int) -> None:
        """Return `result` (two's complement, 64 bits) from the pending system call."""

    def read_bases(self) -> tuple[int, int]:
        """FS base and GS base."""

    def write_bases(self, fs_base: int, gs_base: int) -> None:
        """Set both; canonical addresses, which the caller has checked."""

    def interrupt(self) -> None:
        """Make a `run` in another thread return Preempted soon. Harmless when none is running."""

    def save(self) -> CpuState: ...

    def load(self, state: CpuState) -> None: ...

    def memory_changed(self) -> None:
        """Page tables have changed behind the engine's back: forget cached translations."""

    def close(self) -> None: ...
