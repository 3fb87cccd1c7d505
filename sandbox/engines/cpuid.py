"""The processor that every guest sees, whatever runs it: all of x86-64-v2, and neither AVX nor XSAVE.

One table for all engines, so that a program takes the same path on each (Intel SDM vol. 2, CPUID).
"""

from __future__ import annotations

from typing import Final

_VENDOR: Final = (0x65676445, 0x68636163, 0x204D5665)
"""EBX, ECX, EDX hold "Edge", "cach" and "eVM ", read in the order EBX, EDX, ECX by programs."""


def _bits(*positions: int) -> int:
    return sum(1 << position for position in positions)


# fpu tsc msr-less cx8 cmov clflush mmx fxsr sse sse2
_FEATURES_EDX: Final = _bits(0, 4, 8, 15, 19, 23, 24, 25, 26)
# sse3 pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes hypervisor
_FEATURES_ECX: Final = _bits(0, 1, 9, 13, 19, 20, 23, 25, 31)

LEAVES: Final[dict[int, tuple[int, int, int, int]]] = {
    0: (1, _VENDOR[0], _VENDOR[2], _VENDOR[1]),
    1: (0x0002_06A1, 0x0001_0800, _FEATURES_ECX, _FEATURES_EDX),
    0x8000_0000: (0x8000_0008, 0, 0, 0),
    # lahf in long mode; syscall nx lm
    0x8000_0001: (0, 0, _bits(0), _bits(11, 20, 29)),
    0x8000_0008: (0x3028, 0, 0, 0),
}


def cpuid(leaf: int) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX of a leaf; zeros for leaves that are not there."""
    return LEAVES.get(leaf & 0xFFFF_FFFF, (0, 0, 0, 0))
