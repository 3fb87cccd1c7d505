"""How every engine sets up the processor, and what its exceptions are called (Intel SDM vol. 3, 2.5, 6.15)."""

from __future__ import annotations

from typing import Final

from sandbox.outcome import FaultKind

CR0: Final = 0x8005_0033
"""PG AM WP NE ET MP PE."""
CR4: Final = 1 << 5 | 1 << 9 | 1 << 10
"""PAE, OSFXSR, OSXMMEXCPT; OSXSAVE stays off, and AVX with it."""
EFER: Final = 1 | 1 << 8 | 1 << 10 | 1 << 11
"""SCE LME LMA NXE."""

RFLAGS_KEPT: Final = 0x0000_0000_0024_0ED5 & ~0x200
"""CF PF AF ZF SF TF DF OF AC ID: what a program can set. IOPL, NT, RF, VM and IF are ours."""
RFLAGS_FIXED: Final = 0x202

PAGE_FAULT: Final = 14
EXCEPTIONS: Final = {
    0: FaultKind.DIVIDE,
    5: FaultKind.PROTECTION,
    6: FaultKind.INVALID_INSTRUCTION,
    7: FaultKind.INVALID_INSTRUCTION,
    10: FaultKind.PROTECTION,
    11: FaultKind.PROTECTION,
    12: FaultKind.PROTECTION,
    13: FaultKind.PROTECTION,
    16: FaultKind.FLOATING_POINT,
    17: FaultKind.PROTECTION,
    19: FaultKind.FLOATING_POINT,
}
"""Kinds by vector; what is absent is an interrupt that nobody takes."""
