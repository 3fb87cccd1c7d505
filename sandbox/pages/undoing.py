"""What the reset of a guest's memory writes: worked out once, done after each request. `memory.py` says what was written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from sandbox.pages.paging import PAGE

_LINE: Final = 64
_LITTLE_BYTES: Final = 16 * _LINE
"""Of a page, what a reset keeps beside the template at most: a quarter of it."""
_FEW_PAGES: Final = 64
"""Only of a request that writes no more."""
_ZEROS_BYTES: Final = 64 << 10
_ZEROS: Final = memoryview(bytes(_ZEROS_BYTES))


class Undoing:
    """What a reset writes, worked out once for the pages that a request has written, as the next one mostly writes the same.

    Few and small objects: of a machine that has slept for long, each is out of the processor's caches. So is the template, of
    which only that is read which is no zero, and from here where that is little.
    """

    __slots__ = ("_block", "_copies", "_original", "_pieces", "_tables", "_zeros")

    def __init__(self, block: memoryview, original: memoryview, data: bytes, window: int, written: list[tuple[int, int]]) -> None:
        """`block` is made as `original` again where `written` says, offsets [start, end) of whole pages. `data`: for each page 1
        where the original holds something; from `window` bytes on there are page tables.
        """
        self._block, self._original = block, original
        few = page_count(written) <= _FEW_PAGES
        copies: list[int] = []
        zeros: list[int] = []
        pieces: list[tuple[int, int, bytes]] = []
        tables: list[tuple[int, int, bool]] = []
        for start, end in _split(written, window):
            if start >= window:
                tables += _alike(data, start, end)
                continue
            for first, last, sparse in _sparse(original, data, start, end, pieces if few else None):
                if not sparse:
                    copies += (first, last)
                else:
                    for at in range(first, last, _ZEROS_BYTES):
                        zeros += (at, min(last, at + _ZEROS_BYTES))
        self._copies, self._zeros, self._tables = _shared(tuple(copies), tuple(zeros), tuple(tables))
        """Offsets: start, end, start, end and so on. Page tables apart, and whether the template holds any: they are compared
        before they are copied, for processors forget what they know of changed ones."""
        self._pieces = tuple(_piece(*piece) for piece in pieces)
        """What stands amid zeros: offsets and content."""

    def undo(self) -> bool:
        """Whether a page table was not the template's."""
        block, zeros, copies = self._block, self._zeros, self._copies
        for index in range(0, len(zeros), 2):
            start, end = zeros[index], zeros[index + 1]
            length = end - start
            block[start:end] = _ZEROS[:length]
        for first, last, content in self._pieces:
            block[first:last] = content
        if copies:
            original = self._original
            for index in range(0, len(copies), 2):
                start, end = copies[index], copies[index + 1]
                block[start:end] = original[start:end]
        changed = False
        for start, end, holds in self._tables:
            length = end - start
            content = bytes(self._original[start:end]) if holds else bytes(length)
            if bytes(block[start:end]) != content:
                block[start:end] = content
                changed = True
        return changed


@lru_cache(maxsize=256)
def _shared(
    copies: tuple[int, ...], zeros: tuple[int, ...], tables: tuple[tuple[int, int, bool], ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int, bool], ...]]:
    """The same numbers, one object for all memories that write the same pages."""
    return copies, zeros, tables


@lru_cache(maxsize=256)
def _piece(start: int, end: int, content: bytes) -> tuple[int, int, bytes]:
    """The same content at the same place, one object for all memories that have it."""
    return start, end, content


def _sparse(
    original: memoryview, data: bytes, start: int, end: int, pieces: list[tuple[int, int, bytes]] | None
) -> Iterator[tuple[int, int, bool]]:
    """Parts of [start, end), and whether they are zeros but for some `pieces`, which are added; without, but for none."""
    if pieces is None:
        yield from ((first, last, not holds) for first, last, holds in _alike(data, start, end))
        return
    first, was = start, True
    for at in range(start, end, PAGE):
        found = _little(original, at) if data[at // PAGE] else []
        sparse = found is not None
        if sparse != was:
            if at > first:
                yield first, at, was
            first, was = at, sparse
        pieces += found or ()
    yield first, end, was


def _little(view: memoryview, at: int) -> list[tuple[int, int, bytes]] | None:
    """What is no zero in the page at `at`, in whole lines of the processor's caches; None where that is more than little."""
    page = bytes(view[at : at + PAGE])
    if PAGE - page.count(0) > _LITTLE_BYTES:
        return None
    found: list[tuple[int, int, bytes]] = []
    high = held = 0
    while rest := page[high:].lstrip(b"\0"):
        low = (PAGE - len(rest)) // _LINE * _LINE
        high = low + _LINE
        while page[high : high + _LINE].strip(b"\0"):
            high += _LINE
        held += high - low
        if held > _LITTLE_BYTES:
            return None
        found.append((at + low, at + high, page[low:high]))
    return found


def page_count(runs: list[tuple[int, int]]) -> int:
    """Of runs of whole pages: offsets [start, end)."""
    return sum(end - start for start, end in runs) // PAGE


def _split(runs: list[tuple[int, int]], at: int) -> Iterator[tuple[int, int]]:
    """The runs, the one across `at` in two."""
    for start, end in runs:
        middle = min(max(start, at), end)
        yield from ((a, b) for a, b in ((start, middle), (middle, end)) if a < b)


def _alike(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Parts of [start, end) of which the template holds all or nothing."""
    while start < end:
        holds = data[start // PAGE]
        stop = data.find(b"\0" if holds else b"\1", start // PAGE, end // PAGE)
        part_end = end if stop < 0 else stop * PAGE
        yield start, part_end, bool(holds)
        start = part_end
