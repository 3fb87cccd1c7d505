"""One copy of equal bytes: thousands of generators are made of few different programs.

A value with counters, no I/O. Held by the monitor.
"""

from __future__ import annotations

from dataclasses import replace

from sandbox.program import Program


class Images:
    """The bytes of registered programs, each as often as somebody holds it, and kept once."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def share(self, program: Program) -> Program:
        """An equal program whose bytes are those of the first that had them. To be given back by `release`, once."""
        files = tuple((path, self._hold(content)) for path, content in program.files)
        return replace(program, image=self._hold(program.image), files=files)

    def release(self, program: Program) -> None:
        """Raises KeyError for one that is not held."""
        for data in (program.image, *(content for _, content in program.files)):
            kept, holders = self._kept[data]
            if holders == 1:
                del self._kept[data]
            else:
                self._kept[data] = kept, holders - 1

    def _hold(self, data: bytes) -> bytes:
        kept, holders = self._kept.get(data, (data, 0))
        self._kept[kept] = kept, holders + 1
        return kept
