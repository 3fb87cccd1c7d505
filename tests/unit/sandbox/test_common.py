"""What templates of several programs hold alike is one piece of memory: nobody can change it; it goes with the last of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.memory import FrozenMemory
from sandbox.pages.paging import PAGE, Layout, page_flags

BASE = 0x40_0000
TEXT = page_flags(read=True, write=False, execute=True)
DATA = page_flags(read=True, write=True, execute=False)
ALIKE = (2 * PAGE, 10 * PAGE)
WINDOW = 16 * PAGE


def build(text: bytes, *others: tuple[int, bytes]) -> FrozenMemory:
    """`text` stands from the third page on, before what is alike has ended; `others` anywhere over it."""
    pages = {BASE // PAGE + n: TEXT if ALIKE[0] <= n * PAGE < ALIKE[1] else DATA for n in range(16)}
    return FrozenMemory.build(Layout(BASE, WINDOW), [(2 * PAGE, text), *others], pages, ((2 * PAGE, 10 * PAGE),), alike=ALIKE)


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def content(frozen: FrozenMemory) -> bytes:
    fork = frozen.fork()
    try:
        assert frozen.view.tobytes() == fork.block.tobytes()
        return fork.window.tobytes()
    finally:
        fork.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, WINDOW - 9), st.binary(min_size=1, max_size=3 * PAGE)), max_size=4), st.booleans())
def test_a_template_holds_what_it_was_made_of_whatever_others_hold(others: list[tuple[int, bytes]], same: bool) -> None:
    others = [(at, piece[: WINDOW - at]) for at, piece in others]
    expected = bytearray(WINDOW)
    for at, piece in [(2 * PAGE, b"text" * PAGE), *others]:
        expected[at : at + len(piece)] = piece
    first = build(b"text" * PAGE, *(others if same else ()))
    second, third = build(b"text" * PAGE, *others), build(b"text" * PAGE, *others)
    try:
        assert content(second) == content(third) == bytes(expected)
    finally:
        for frozen in (first, second, third):
            frozen.close()


def test_the_same_content_is_kept_once() -> None:
    first, second, third = build(b"text" * PAGE), build(b"text" * PAGE, (0, b"own")), build(b"other" * PAGE)
    try:
        assert first.resident_bytes - second.resident_bytes == 3 * PAGE  # four pages of text; its own data
        assert third.resident_bytes >= first.resident_bytes
        assert content(second)[: 3 * PAGE] == b"own".ljust(2 * PAGE, b"\0") + b"text" * (PAGE // 4)
    finally:
        for frozen in (first, second, third):
            frozen.close()


def test_who_writes_to_it_writes_to_a_copy_which_a_reset_takes_away() -> None:
    first, second = build(b"text" * PAGE), build(b"text" * PAGE)
    fork, other = second.fork(), second.fork()
    try:
        before = fork.block.tobytes()
        fork.window[3 * PAGE] = fork.window[0] = fork.window[15 * PAGE] = 1
        assert {start for start, _ in fork.written()} == {0, 3 * PAGE, 15 * PAGE}
        assert other.block.tobytes() == before
        fork.reset(fork.written())
        assert fork.block.tobytes() == before
        for fd in (common.fd for common in second.common):
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
    finally:
        for thing in (fork, other, first, second):
            thing.close()


def test_a_template_that_is_frozen_later_holds_what_its_guest_has_made_of_it() -> None:
    first, second = build(b"text" * PAGE), build(b"text" * PAGE)
    own_bytes = second.resident_bytes
    for page, kept in ((3, False), (0, True)):
        fork = second.fork()
        fork.window[page * PAGE] = ord("N")
        frozen = fork.freeze()
        try:
            assert (frozen.resident_bytes == own_bytes + PAGE) == kept
            assert content(frozen) == fork.window.tobytes()
        finally:
            fork.close()
            frozen.close()
    first.close()
    second.close()


def test_it_goes_with_the_last_who_holds_it() -> None:
    before = files()
    first = build(b"text" * PAGE)
    assert files() == before + 1  # of one program alone nothing is kept apart
    second, third = build(b"text" * PAGE), build(b"text" * PAGE)
    assert files() == before + 4
    fork = third.fork()
    first.close()
    second.close()
    again = third.fork()
    third.close()
    assert files() == before
    assert fork.window.tobytes() == again.window.tobytes()
    assert fork.window[2 * PAGE : 2 * PAGE + 4].tobytes() == b"text"
    fork.close()
    again.close()
