"""System calls over memory: the break, mappings, protection, and the bounded set of areas behind them."""

from __future__ import annotations

import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.guest import areas
from sandbox.guest.areas import MAX_AREAS, Areas, TooManyAreas
from sandbox.limits import MIB
from sandbox.pages.paging import PAGE
from tests.unit.sandbox.calls_support import ANONYMOUS, MINUS_ONE, Guest
from tests.unit.sandbox.machine_code import DATA, DATA_BYTES, LIMITS, RODATA, TEXT


def test_brk_grows_and_shrinks_within_the_window(guest: Guest) -> None:
    start = DATA + DATA_BYTES
    assert guest("brk", 0) == start
    assert guest("brk", start + 10_000) == start + 10_000
    guest.put(b"x" * 10_000, start)
    assert guest("brk", start + 1) == start + 1
    assert guest("brk", start + 10_000) == start + 10_000
    assert guest.get(PAGE, start + PAGE) == bytes(PAGE)
    assert guest("brk", start + 64 * MIB) == start + 10_000
    assert guest.process.exchange.refused_bytes > 0
    assert guest("brk", start - 1) == start + 10_000


def test_mmap_gives_zeros_and_munmap_takes_them(guest: Guest) -> None:
    first = guest("mmap", 0, 10_000, 3, ANONYMOUS, MINUS_ONE, 0)
    assert isinstance(first, int)
    assert first + 3 * PAGE == guest.process.space.stack_guard
    guest.put(b"dirty", first)
    assert guest("munmap", first, 10_000) == 0
    assert guest("write", 1, first, 1) == -errno.EFAULT
    assert guest("mmap", 0, 10_000, 3, ANONYMOUS, MINUS_ONE, 0) == first
    assert guest.get(5, first) == bytes(5)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((0, 0, 3, ANONYMOUS, MINUS_ONE, 0), errno.EINVAL),
        ((0, 4096, 3, ANONYMOUS, MINUS_ONE, 5), errno.EINVAL),
        ((0, 4096, 7, ANONYMOUS, MINUS_ONE, 0), errno.EACCES),
        ((0, 64 * MIB, 3, ANONYMOUS, MINUS_ONE, 0), errno.ENOMEM),
        ((0, LIMITS.memory_bytes, 3, ANONYMOUS, MINUS_ONE, 0), errno.ENOMEM),
        ((0, MINUS_ONE, 3, ANONYMOUS, MINUS_ONE, 0), errno.ENOMEM),
        ((0, 4096, 3, 2, 99, 0), errno.EBADF),
        ((0, 4096, 3, 2, 1, 0), errno.EACCES),
        ((TEXT, 4096, 3, ANONYMOUS | 0x10, MINUS_ONE, 0), errno.ENOMEM),
        ((0, 4096, 3, ANONYMOUS | 0x10, MINUS_ONE, 0), errno.ENOMEM),
        ((DATA + 1, 4096, 3, ANONYMOUS | 0x10, MINUS_ONE, 0), errno.EINVAL),
        ((DATA + DATA_BYTES, 4096, 3, ANONYMOUS | 0x100000, MINUS_ONE, 0), 0),
    ],
)
def test_mmap_refusals(guest: Guest, args: tuple[int, ...], error: int) -> None:
    result = guest("mmap", *args)
    assert result == (args[0] if not error else -error)


def test_mmap_fixed_replaces_and_noreplace_does_not(guest: Guest) -> None:
    at = guest("mmap", 0, 4 * PAGE, 3, ANONYMOUS, MINUS_ONE, 0)
    assert isinstance(at, int)
    guest.put(b"old", at + PAGE)
    assert guest("mmap", at + PAGE, PAGE, 1, ANONYMOUS | 0x100000, MINUS_ONE, 0) == -errno.EEXIST
    assert guest("mmap", at + PAGE, PAGE, 1, ANONYMOUS | 0x10, MINUS_ONE, 0) == at + PAGE
    assert guest.get(3, at + PAGE) == bytes(3)
    assert guest("getrandom", at + PAGE, 1) == -errno.EFAULT


def test_mmap_of_a_bundle_file(guest: Guest) -> None:
    fd = guest("open", guest.put(b"/sub/a.txt\0"), 0)
    at = guest("mmap", 0, 8192, 1, 1, fd, PAGE)
    assert isinstance(at, int)
    assert guest.get(8192, at) == (b"a" * (5000 - PAGE)).ljust(8192, b"\0")
    assert guest("mmap", 0, 8192, 3, 1, fd, 0) == -errno.EACCES


def test_mprotect_keeps_data_from_running_and_text_from_changing(guest: Guest) -> None:
    assert guest("mprotect", DATA, PAGE, 5) == -errno.EACCES
    assert guest("mprotect", TEXT, PAGE, 3) == -errno.EACCES
    assert guest("mprotect", TEXT, PAGE, 7) == -errno.EACCES
    assert guest("mprotect", TEXT, PAGE, 5) == 0
    assert guest("mprotect", TEXT, PAGE, 1) == 0
    assert guest("mprotect", TEXT, PAGE, 5) == -errno.EACCES
    assert guest("mprotect", DATA, PAGE, 1) == 0
    assert guest("getrandom", DATA, 1) == -errno.EFAULT
    assert guest("mprotect", DATA, PAGE, 0) == 0
    assert guest("write", 1, DATA, 1) == -errno.EFAULT
    assert guest("mprotect", DATA, PAGE, 3) == 0
    assert guest.get(4) == b"data"
    assert guest("mprotect", RODATA, PAGE, 3) == 0
    assert guest("mprotect", DATA + 1, PAGE, 1) == -errno.EINVAL
    assert guest("mprotect", DATA, MINUS_ONE, 1) == -errno.EINVAL
    assert guest("mprotect", DATA, DATA_BYTES + PAGE, 1) == -errno.ENOMEM
    assert guest("mprotect", 0, PAGE, 1) == -errno.ENOMEM


def test_munmap_of_anything(guest: Guest) -> None:
    assert guest("munmap", 1, 4096) == -errno.EINVAL
    assert guest("munmap", 0, 0) == -errno.EINVAL
    assert guest("munmap", 0, 1 << 47) == 0
    assert all(not entry for entry in guest.memory.entries)
    assert guest.memory.window[0] == 0xF4, "text is unmapped, not overwritten"


def test_mremap(guest: Guest) -> None:
    at = guest("mmap", 0, 2 * PAGE, 3, ANONYMOUS, MINUS_ONE, 0)
    assert isinstance(at, int)
    guest.put(b"content", at + PAGE)
    assert guest("mremap", at, 2 * PAGE, 4 * PAGE, 0) == -errno.ENOMEM
    moved = guest("mremap", at, 2 * PAGE, 4 * PAGE, 1)
    assert isinstance(moved, int)
    assert moved != at
    assert guest.get(7, moved + PAGE) == b"content"
    assert guest("write", 1, at, 1) == -errno.EFAULT
    assert guest("mremap", moved, 4 * PAGE, PAGE, 1) == moved
    assert guest("mremap", moved, PAGE, 2 * PAGE, 0) == moved
    assert guest.get(8, moved + PAGE) == bytes(8)
    for args, error in (
        ((moved + 1, PAGE, PAGE, 1), errno.EINVAL),
        ((moved, 0, PAGE, 1), errno.EINVAL),
        ((moved, PAGE, 0, 1), errno.EINVAL),
        ((moved, PAGE, PAGE, 2), errno.EINVAL),
        ((DATA, PAGE, 2 * PAGE, 1), errno.EFAULT),
        ((moved, MINUS_ONE, PAGE, 1), errno.ENOMEM),
        ((moved, PAGE, 32 * MIB, 1), errno.ENOMEM),
    ):
        assert guest("mremap", *args) == -error, args


def test_madvise(guest: Guest) -> None:
    at = guest("mmap", 0, PAGE, 3, ANONYMOUS, MINUS_ONE, 0)
    assert isinstance(at, int)
    guest.put(b"x", at)
    assert guest("madvise", at, PAGE, 8) == 0
    assert guest.get(1, at) == b"x"
    assert guest("madvise", at, PAGE, 4) == 0
    assert guest.get(1, at) == b"\0"
    assert guest("madvise", DATA, PAGE, 4) == -errno.EINVAL
    assert guest("madvise", 0, PAGE, 4) == -errno.ENOMEM


def test_areas_are_bounded(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "MAX_AREAS", 1)
    at = guest("mmap", 0, 3 * PAGE, 3, ANONYMOUS, MINUS_ONE, 0)
    assert isinstance(at, int)
    assert guest("munmap", at + PAGE, PAGE) == -errno.ENOMEM
    assert guest("mmap", at - 2 * PAGE, PAGE, 3, ANONYMOUS | 0x10, MINUS_ONE, 0) == -errno.ENOMEM
    assert MAX_AREAS == 1024


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 12)), max_size=60))
def test_areas_are_a_set_of_pages(changes: list[tuple[bool, int, int]]) -> None:
    model: set[int] = set()
    found = Areas()
    for take, start, length in changes:
        pages = set(range(start, start + length))
        if take:
            found.add(start, start + length)
            model |= pages
        else:
            found.remove(start, start + length)
            model -= pages
        ranges = found.frozen()
        assert {p for a, b in ranges for p in range(a, b)} == model
        assert all(b < c for (_, b), (c, _) in itertools.pairwise(ranges))
        assert found.free(start, start + length) == (not model & pages)
        place = found.place(length, 0, 52)
        fits = [at for at in range(52 - length + 1) if not model & set(range(at, at + length))]
        assert place == (max(fits) if fits else None)


def test_areas_refuse_to_grow_past_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "MAX_AREAS", 2)
    found = Areas(((1, 2), (4, 5)))
    with pytest.raises(TooManyAreas):
        found.add(8, 9)
    found.add(2, 4)
    assert found.frozen() == ((1, 5),)
