"""Templates are shared and sealed; forks write to copies of their own; a reset leaves nothing behind."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.memory import DROP_FACTOR, DROP_SLACK, FrozenMemory, GuestMemory
from sandbox.pages.pagemap import Pagemap, open_pagemap
from sandbox.pages.paging import MAPPED, PAGE, PRESENT, Layout, page_flags

BASE = 0x40_0000
DATA = page_flags(read=True, write=True, execute=False)


def build(pages: int = 2048) -> FrozenMemory:
    layout = Layout(BASE, pages * PAGE)
    return FrozenMemory.build(
        layout, [(0, b"text"), (PAGE + 5, b"data")], {BASE // PAGE: DATA, BASE // PAGE + 1: DATA}, ((0, PAGE),)
    )


@pytest.fixture(name="template")
def template_fixture():  # type: ignore[no-untyped-def]
    frozen = build()
    yield frozen
    frozen.close()


@pytest.fixture(name="memory")
def memory_fixture(template: FrozenMemory):  # type: ignore[no-untyped-def]
    fork = template.fork()
    yield fork
    fork.close()


def test_a_template_is_sealed(template: FrozenMemory) -> None:
    with pytest.raises(OSError) as caught:
        os.pwrite(template.fd, b"x", 0)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(OSError):
        os.ftruncate(template.fd, 0)


def test_forks_do_not_see_each_other(template: FrozenMemory, memory: GuestMemory) -> None:
    other = template.fork()
    memory.window[0:4] = b"mine"
    assert bytes(other.window[0:4]) == b"text"
    assert bytes(memory.window[PAGE + 5 : PAGE + 9]) == b"data"
    other.close()
    other.close()


def test_reset_restores_what_was_written(memory: GuestMemory) -> None:
    memory.window[1:3] = b"XX"
    memory.window[100 * PAGE] = 7
    written = memory.written()
    assert written == [(0, PAGE), (100 * PAGE, 101 * PAGE)]
    assert memory.reset(written) is False
    assert bytes(memory.window[0:4]) == b"text"
    assert memory.window[100 * PAGE] == 0


def test_reset_restores_page_tables_and_says_so(memory: GuestMemory) -> None:
    start = BASE + 64 * PAGE
    memory.set_pages(start, start + 3 * PAGE, DATA)
    assert memory.tables_changed
    assert memory.entry(start + 2 * PAGE) == DATA | 66 * PAGE
    assert memory.mapped(start, start + 3 * PAGE)
    assert not memory.mapped(start, start + 4 * PAGE)
    assert memory.reset(memory.written()) is True
    assert memory.entry(start) == 0
    assert not memory.tables_changed


def test_page_tables_that_were_changed_back_need_no_forgetting(memory: GuestMemory) -> None:
    start = BASE + 64 * PAGE
    for _ in range(2):
        memory.set_pages(start, start + PAGE, DATA)
        assert memory.reset(memory.written()) is True
        assert memory.entry(start) == 0
        memory.window[0] = 1
        assert memory.reset(memory.written()) is False
        memory.set_pages(start, start + PAGE, DATA)
        memory.drop_pages(start, start + PAGE)
        assert memory.reset(memory.written()) is True, "the engine has not heard of it yet"
        memory.set_pages(start, start + PAGE, DATA)
        memory.drop_pages(start, start + PAGE)
        memory.tables_changed = False
        assert memory.reset(memory.written()) is False


STEPS = st.lists(
    st.one_of(st.integers(0, 2047), st.sampled_from(["look", "reset", "tables", "far", "thread"])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=50, deadline=None)
@given(STEPS)
def test_what_was_written_is_known_at_any_time(steps: list[int | str]) -> None:
    """Whatever was seen before, and whoever writes, once announced: as the kernel says; after a reset the template."""
    frozen = build()
    fork, original = frozen.fork(), frozen.fork()
    pages = Pagemap()
    end = fork.layout.supervisor_offset
    try:
        for step in steps:
            if isinstance(step, int):
                fork.window[step * PAGE + 7] = 1
            elif step == "tables":
                fork.set_pages(BASE + 64 * PAGE, BASE + 70 * PAGE, DATA)
            elif step == "far":
                write(fork, 400)
            elif step == "thread":
                thread = threading.Thread(target=fork.window.__setitem__, args=(1999 * PAGE, 1))
                thread.start()
                thread.join()
                fork.distrust()
            elif step == "reset":
                fork.reset(fork.written())
                assert fork.block[:end].tobytes() == original.block[:end].tobytes()
            if step != "reset":
                found = [(a - fork.address, b - fork.address) for a, b in pages.written(fork.address, end)]
                assert fork.written() == found
    finally:
        pages.close()
        fork.close()
        original.close()
        frozen.close()


TURNS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["write", "write", "far", "end", "look"])), max_size=80)


@settings(max_examples=100, deadline=None)
@given(TURNS)
def test_what_was_written_is_known_whoever_has_turns_between(turns: list[tuple[int, str]]) -> None:
    """Requests of several machines, cut into slices that come in any order: no page that one has written is overlooked."""
    frozen = build()
    forks = [frozen.fork() for _ in range(3)]
    pages = Pagemap()
    fresh, page = [True] * 3, 0
    try:
        for number, step in turns:
            fork = forks[number]
            if fresh[number]:
                fork.begin()
                fresh[number] = False
            if step == "write":
                page = (page + 1) % 2048
                fork.window[page * PAGE] = 1
            elif step == "far":
                fork.window[:4] = b"seen"
            else:
                end = fork.layout.supervisor_offset
                found = [(a - fork.address, b - fork.address) for a, b in pages.written(fork.address, end)]
                assert fork.written() == found
            if step == "end":
                fork.reset(fork.written())
                fresh[number] = True
                assert bytes(fork.window[:4]) == b"text"
    finally:
        pages.close()
        for fork in forks:
            fork.close()
        frozen.close()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12 * PAGE), st.binary(min_size=1, max_size=400), st.integers(1, 8)), max_size=8),
    st.sets(st.integers(0, 99), min_size=1, max_size=90),
)
def test_a_reset_brings_back_whatever_the_template_holds(pieces: list[tuple[int, bytes, int]], pages: set[int]) -> None:
    """Much or little in a page, at its ends or across them, in many written pages or few."""
    contents = [(at, piece * times) for at, piece, times in pieces]
    frozen = FrozenMemory.build(Layout(BASE, 100 * PAGE), contents, {}, ())
    fork = frozen.fork()
    before = fork.block.tobytes()
    try:
        for _ in range(2):
            for page in pages:
                fork.window[page * PAGE : (page + 1) * PAGE] = b"\xff" * PAGE
            fork.reset(fork.written())
            assert fork.block.tobytes() == before
    finally:
        fork.close()
        frozen.close()


def test_a_fork_is_reset_after_its_template_is_closed(template: FrozenMemory, memory: GuestMemory) -> None:
    memory.window[0] = 1
    template.close()
    memory.reset(memory.written())
    assert bytes(memory.window[0:4]) == b"text"


def write(memory: GuestMemory, pages: int) -> None:
    for page in range(pages):
        memory.window[page * PAGE + 9] = 1


def test_reset_of_far_more_pages_than_usual_gives_them_back(memory: GuestMemory) -> None:
    for pages, kept in ((2, True), (DROP_SLACK + DROP_FACTOR * 2, True), (DROP_SLACK + DROP_FACTOR * 2 + 1, False), (500, True)):
        write(memory, pages)
        memory.reset(memory.written())
        assert bool(memory.written()) == kept
        assert bytes(memory.window[PAGE + 5 : PAGE + 10]) == b"data\0"
        assert not any(memory.window[page * PAGE + 9] for page in range(500))


def test_freeze_makes_the_written_shared(memory: GuestMemory) -> None:
    memory.window[50 * PAGE : 50 * PAGE + 3] = b"new"
    frozen = memory.freeze()
    fork = frozen.fork()
    assert bytes(fork.window[50 * PAGE : 50 * PAGE + 3]) == b"new"
    assert bytes(fork.window[0:4]) == b"text"
    assert fork.written() == []
    fork.window[50 * PAGE] = 0
    fork.reset(fork.written())
    assert fork.window[50 * PAGE] == ord("n")
    fork.close()
    frozen.close()
    frozen.close()


def test_a_dropped_page_is_zero_when_it_returns(memory: GuestMemory) -> None:
    start = BASE + 8 * PAGE
    memory.add_pages(start, start + PAGE, DATA)
    assert not memory.tables_changed
    memory.window[8 * PAGE] = 1
    memory.zero(start, start + PAGE)
    memory.drop_pages(start, start + PAGE)
    assert memory.window[8 * PAGE] == 0
    assert memory.entry(start) == 0


def test_memory_outside_the_window_has_no_entry(memory: GuestMemory) -> None:
    for address in (0, BASE - 1, BASE + 2048 * PAGE, 1 << 63):
        assert memory.entry(address) == 0
    assert not memory.mapped(BASE - PAGE, BASE)


def test_a_template_takes_only_what_it_holds(template: FrozenMemory) -> None:
    assert 0 < template.resident_bytes <= 16 * PAGE


@given(st.sets(st.integers(0, 2047), max_size=40))
def test_both_ways_of_finding_written_pages_agree(pages: set[int]) -> None:
    frozen = build()
    fork = frozen.fork()
    reader = Pagemap()
    try:
        for page in pages:
            fork.window[page * PAGE] = 1
        expected = {page * PAGE for page in pages}
        for scans in (reader.scans, False):
            reader.scans = scans
            found = reader.written(fork.address, fork.layout.window_bytes)
            assert {a - fork.address for start, end in found for a in range(start, end, PAGE)} == expected
    finally:
        reader.close()
        fork.close()
        frozen.close()


def test_more_regions_than_one_scan_returns(memory: GuestMemory) -> None:
    for page in range(0, 2048, 2):
        memory.window[page * PAGE] = 1
    big = build(8192)
    fork = big.fork()
    for page in range(0, 8192, 2):
        fork.window[page * PAGE] = 1
    assert len(memory.written()) == 1024
    assert len(fork.written()) == 4096
    fork.close()
    big.close()


def test_a_forked_process_opens_its_own_pagemap() -> None:
    mine = open_pagemap()
    child = os.fork()
    if child == 0:
        os._exit(0 if open_pagemap() is not mine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert open_pagemap() is mine


@pytest.mark.parametrize(("base", "size"), [(0x1234, PAGE), (BASE, 100), (0, PAGE), (0x7FFF_FFFF_E000, 2 * PAGE), (BASE, 0)])
def test_a_window_is_whole_pages_of_the_user_half(base: int, size: int) -> None:
    with pytest.raises(ValueError, match="window"):
        Layout(base, size)


def test_a_window_may_cross_every_level_of_table() -> None:
    frozen = FrozenMemory.build(Layout((1 << 39) - 4 * PAGE, 8 * PAGE), [], {(1 << 27) - 1: DATA, 1 << 27: DATA}, ())
    fork = frozen.fork()
    assert fork.layout.pdpts == fork.layout.directories == fork.layout.tables == 2
    assert fork.entry((1 << 39) - PAGE) & 0xFFFFF000 == 3 * PAGE
    assert fork.entry(1 << 39) & 0xFFFFF000 == 4 * PAGE
    fork.close()
    frozen.close()


def test_a_page_without_rights_is_kept_but_not_present() -> None:
    flags = page_flags(read=False, write=False, execute=False)
    assert flags & MAPPED
    assert not flags & PRESENT
