"""How a vCPU gets a template's floating-point state back without a call to the hypervisor: ring 3 itself loads it (XRSTOR).

Pure values: what has to stand in the landing page for that, and with which registers the code there is entered. A template holds
the first (`vm.py` puts it there), `kvm.py` uses it where `kvm_trial.py` has proved that it leaves nothing behind.
"""

from __future__ import annotations

import struct
from typing import Final

from sandbox.engines.base import CpuState
from sandbox.pages.paging import USER_TOP, Layout
from sandbox.pages.supervisor import RESTORE_ADDRESS, RESTORED_OFFSET

_RAX, _RCX, _RDX, _RSP = 0, 2, 3, 7
_TRAP: Final = 1 << 8
_MASK: Final = 0xFFFF_FFFF
"""Of each half of the components: all that the processor has enabled."""
_X87_SSE: Final = 3
"""XSTATE_BV: all other components become what they are at power-up (Intel SDM vol. 1, 13.8)."""


def content(state: CpuState) -> bytes:
    """What the landing page has to hold from RESTORED_OFFSET."""
    return struct.pack("<QQ48x512sQ56x", state.gprs[_RSP], state.gprs[_RDX], state.fpu, _X87_SSE)


def piece(layout: Layout, state: CpuState) -> tuple[int, bytes]:
    """The same, with its place in guest-physical memory."""
    return layout.landing_offset + RESTORED_OFFSET, content(state)


def entrance(state: CpuState) -> tuple[tuple[int, ...], int] | None:
    """Registers (as `CpuState.gprs`) and RIP with which the code is entered to arrive at `state`; None where it cannot be.

    It leaves by RCX, which holds RIP after a system call. RSP carries the value that RAX shall have, below USER_TOP.
    """
    if state.gprs[_RCX] != state.rip or max(state.rip, state.gprs[_RAX]) >= USER_TOP or state.rflags & _TRAP:
        return None
    gprs = list(state.gprs)
    gprs[_RSP], gprs[_RAX], gprs[_RDX] = gprs[_RAX], _MASK, _MASK
    return tuple(gprs), RESTORE_ADDRESS
