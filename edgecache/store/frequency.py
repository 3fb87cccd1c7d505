"""How often keys were asked for lately, in little memory: a count-min sketch with ageing behind a doorkeeper. Pure.

TinyLFU (Einziger, Friedman, Manes 2017, sections 3.1 to 3.4). `memory` adds what it is asked for, and compares before it evicts.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_ROWS: Final = 4
MOST: Final = 15
"""More requests than this count as this many."""
_COUNTERS: Final = 4
"""In each row, for each key."""
_SAMPLE: Final = 10
"""Additions for each key after which all counts are halved."""
_HALVED: Final = bytes(count >> 1 for count in range(256))


class Frequency:
    """Estimates from 0 to 16, never too low but for the halving, too high where keys share counters."""

    def __init__(self, keys: int) -> None:
        """`keys`: how many are of interest at a time. Hashes of strings are salted in each process: nobody can aim."""
        self._width = 1 << max(8, (_COUNTERS * keys - 1).bit_length())
        self._mask = self._width - 1
        self._bits = self._mask.bit_length()
        self._rows = [bytearray(self._width) for _ in range(_ROWS)]
        self._period = keys * _SAMPLE
        self._door = bytearray(self._width * 4)
        self._door_mask = len(self._door) - 1
        self._added = 0

    def add(self, key: Hashable, times: int = 1) -> None:
        """Count `times` requests for `key`; the first of each period only opens the door."""
        mixed = _mix(hash(key))
        door, first, second = self._door, mixed & self._door_mask, (mixed >> 32) & self._door_mask
        if not (door[first] and door[second]):
            door[first] = door[second] = 1
            times -= 1
        self._added += times + 1
        if times > 0:
            for row in self._rows:
                index = mixed & self._mask
                count = row[index]
                if count < MOST:
                    row[index] = min(MOST, count + times)
                mixed = (mixed >> self._bits) ^ (mixed << 7 & 0xFFFFFFFFFFFFFFFF)
        if self._added >= self._period:
            self._age()

    def of(self, key: Hashable) -> int:
        """The estimate for `key`."""
        mixed = _mix(hash(key))
        counted = self._door[mixed & self._door_mask] & self._door[(mixed >> 32) & self._door_mask]
        least = MOST
        for row in self._rows:
            least = min(least, row[mixed & self._mask])
            mixed = (mixed >> self._bits) ^ (mixed << 7 & 0xFFFFFFFFFFFFFFFF)
        return least + counted

    def _age(self) -> None:
        self._rows = [row.translate(_HALVED) for row in self._rows]
        self._door = bytearray(len(self._door))
        self._added //= 2


def _mix(value: int) -> int:
    """Spreads the bits of a hash, whose low ones alone differ for small integers (splitmix64's finaliser)."""
    value &= 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)
