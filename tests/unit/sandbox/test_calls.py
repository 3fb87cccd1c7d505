"""The table of system calls: each answers as documented, and no number, pointer or length does anything else.

Invariant of the fuzzer: whatever a guest passes to whichever call, `dispatch` returns a number or an action, or ends the request;
it raises nothing else, and writes nothing outside the guest's writable pages.
"""

from __future__ import annotations

import errno
import itertools
import random
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.guest import areas
from sandbox.guest.access import PATH_MAX
from sandbox.guest.actions import Ask, Exit, NextRequest
from sandbox.guest.areas import MAX_AREAS, Areas, TooManyAreas
from sandbox.guest.calls import CALLS, dispatch
from sandbox.guest.exchange import Exchange, RequestEnded
from sandbox.guest.files import MAX_OPEN, FileTree, Kind
from sandbox.guest.process import Process
from sandbox.limits import MIB
from sandbox.paging import PAGE, PRESENT, WRITABLE
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.vm import Template, load
from tests.unit.sandbox.machine_code import DATA, DATA_BYTES, LIMITS, RODATA, TEXT, image

NUMBERS = {call.name: number for number, call in CALLS.items()}
FILES = (("index.html", b"<h1>0123456789</h1>"), ("sub/a.txt", b"a" * 5000), ("sub/deep/b", b""))
MINUS_ONE = (1 << 64) - 1
AT_FDCWD = (1 << 64) - 100
ANONYMOUS = 0x22


class Bases:
    """The two registers that calls may set."""

    def __init__(self) -> None:
        self.bases = (0, 0)

    def read_bases(self) -> tuple[int, int]:
        return self.bases

    def write_bases(self, fs_base: int, gs_base: int) -> None:
        self.bases = (fs_base, gs_base)


class Guest:
    """A process without a vCPU: calls are made directly."""

    def __init__(self, template: Template, request: GuestRequest | None = None, limits: object = LIMITS) -> None:
        self.template = template
        self.memory = template.memory.fork()
        loaded = template.loaded
        self.registers = Bases()
        self.process = Process(
            memory=self.memory,
            registers=self.registers,
            space=loaded.space,
            files=loaded.files,
            convention=loaded.convention,
            name="program",
            state=template.state(),
            exchange=Exchange(request, limits),  # type: ignore[arg-type]
        )

    def __call__(self, name: str, *args: int) -> object:
        return dispatch(self.process, NUMBERS[name], (*args, *[0] * (6 - len(args))))

    def put(self, data: bytes, at: int = DATA) -> int:
        self.process.access.write(at, data)
        return at

    def get(self, length: int, at: int = DATA) -> bytes:
        return self.process.access.read(at, length)

    def close(self) -> None:
        self.memory.close()


def make(convention: Convention) -> Template:
    return load(Program(image(b"\xf4", b"data"), convention, files=FILES), LIMITS)


@pytest.fixture(name="template", scope="module")
def template_fixture() -> Iterator[Template]:
    template = make(Convention.CGI)
    yield template
    template.close()


@pytest.fixture(name="guest")
def guest_fixture(template: Template) -> Iterator[Guest]:
    guest = Guest(template, GuestRequest((), b"the body"))
    yield guest
    guest.close()


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


def test_standard_input_and_output(guest: Guest) -> None:
    assert guest("read", 0, DATA, 4) == 4
    assert guest("read", 0, DATA + 4, 100) == 4
    assert guest("read", 0, DATA, 100) == 0
    assert guest.get(8) == b"the body"
    assert guest("read", 0, RODATA, 4) == -errno.EFAULT
    assert guest("read", 1, DATA, 4) == -errno.EBADF
    assert guest("write", 0, DATA, 4) == -errno.EBADF
    assert guest("write", 1, DATA, 8) == 8
    assert guest("write", 2, DATA, 3) == 3
    assert guest("write", MINUS_ONE, DATA, 3) == -errno.EBADF
    assert bytes(guest.process.exchange.output) == b"the body"
    assert bytes(guest.process.exchange.log) == b"the"
    assert guest("lseek", 0, 0, 0) == -errno.ESPIPE
    assert guest("pread64", 0, DATA, 1, 0) == -errno.ESPIPE
    assert guest("ioctl", 1, 0x5401) == -errno.ENOTTY
    assert guest("ioctl", 9, 0x5401) == -errno.EBADF
    assert guest("fcntl", 1, 3) == 1
    assert guest("fcntl", 0, 3) == 0
    assert guest("fcntl", 0, 1) == 0
    assert guest("fcntl", 0, 99) == -errno.EINVAL


def test_vectors(guest: Guest) -> None:
    guest.put(struct.pack("<6Q", DATA + 64, 3, DATA + 80, 2, 0x10, 5))
    assert guest("readv", 0, DATA, 2) == 5
    assert guest.get(3, DATA + 64) + guest.get(2, DATA + 80) == b"the b"
    assert guest("writev", 1, DATA, 2) == 5
    assert guest("writev", 1, DATA, 3) == 5, "what was written before a bad vector counts"
    assert guest("writev", 1, DATA + 32, 1) == -errno.EFAULT
    assert guest("readv", 0, DATA + 32, 1) == -errno.EFAULT
    assert guest("readv", 0, DATA, 3) == 3, "a short read ends it"
    assert guest("writev", 1, DATA, 1025) == -errno.EINVAL
    guest.put(struct.pack("<2Q", DATA, 1 << 63))
    assert guest("writev", 1, DATA, 1) == -errno.EINVAL
    guest.put(struct.pack("<4Q", DATA + 64, 0, 0x10, 5))
    assert guest("readv", 0, DATA, 2) == -errno.EFAULT


def test_bundle_files(guest: Guest) -> None:
    path = guest.put(b"index.html\0", DATA + 512)
    fd = guest("openat", AT_FDCWD, path, 0)
    assert fd == 3
    assert guest("read", fd, DATA, 4) == 4
    assert guest.get(4) == b"<h1>"
    assert guest("lseek", fd, 2, 1) == 6
    assert guest("lseek", fd, (1 << 64) - 5, 2) == 14
    assert guest("lseek", fd, MINUS_ONE, 0) == -errno.EINVAL
    assert guest("lseek", fd, 0, 9) == -errno.EINVAL
    assert guest("read", fd, DATA, 100) == 5
    assert guest.get(5) == b"</h1>"
    assert guest("pread64", fd, DATA, 3, 4) == 3
    assert guest.get(3) == b"012"
    assert guest("pread64", fd, DATA, 3, MINUS_ONE) == -errno.EINVAL
    assert guest("write", fd, DATA, 1) == -errno.EBADF
    assert guest("dup", fd) == 4
    assert guest("dup2", fd, 9) == 9
    assert guest("dup3", fd, MAX_OPEN) == -errno.EBADF
    assert guest("close", fd) == 0
    assert guest("close", fd) == -errno.EBADF


@pytest.mark.parametrize(
    ("path", "flags", "result"),
    [
        (b"nothing", 0, -errno.ENOENT),
        (b"", 0, -errno.ENOENT),
        (b"new", 0o101, -errno.EROFS),
        (b"index.html", 1, -errno.EROFS),
        (b"index.html", 0o1000, -errno.EROFS),
        (b"index.html", 0o200000, -errno.ENOTDIR),
        (b"/../../index.html", 0, 3),
        (b"./sub//a.txt", 0, 3),
        (b"/etc/passwd", 0, -errno.ENOENT),
        (b"/proc/self/mem", 0, -errno.ENOENT),
        (b"/dev/null", 2, 3),
        (b"/dev/urandom", 0, 3),
        (b"x" * PATH_MAX, 0, -errno.ENAMETOOLONG),
        (b"\xff\xfe", 0, -errno.ENOENT),
    ],
)
def test_open(guest: Guest, path: bytes, flags: int, result: int) -> None:
    assert guest("open", guest.put(path + b"\0"), flags) == result


def test_open_relative_to_a_directory(guest: Guest) -> None:
    directory = guest("open", guest.put(b"sub\0"), 0o200000)
    guest.put(b"a.txt\0")
    assert guest("openat", directory, DATA, 0) == 4
    assert guest("openat", 4, DATA, 0) == -errno.ENOTDIR
    assert guest("openat", 77, DATA, 0) == -errno.EBADF
    assert guest("read", directory, DATA, 8) == -errno.EISDIR


def test_devices(guest: Guest) -> None:
    null = guest("open", guest.put(b"/dev/null\0"), 2)
    assert guest("write", null, DATA, 100) == 100
    assert guest("read", null, DATA, 100) == 0
    random_fd = guest("open", guest.put(b"/dev/urandom\0"), 0)
    assert guest("read", random_fd, DATA, 32) == 32
    assert len(set(guest.get(32))) > 8


def test_open_files_are_bounded(guest: Guest) -> None:
    path = guest.put(b"index.html\0")
    results = [guest("open", path, 0) for _ in range(MAX_OPEN)]
    assert results[: MAX_OPEN - 3] == list(range(3, MAX_OPEN))
    assert results[MAX_OPEN - 3 :] == [-errno.EMFILE] * 3


def test_stat(guest: Guest) -> None:
    path = guest.put(b"sub/a.txt\0", DATA + 512)
    assert guest("stat", path, DATA) == 0
    mode, size = struct.unpack("<I", guest.get(4, DATA + 24))[0], struct.unpack("<q", guest.get(8, DATA + 48))[0]
    assert (mode, size) == (0o100444, 5000)
    assert guest("newfstatat", AT_FDCWD, path, DATA, 0) == 0
    assert guest("fstat", 1, DATA) == 0
    assert guest("newfstatat", 1, guest.put(b"\0", DATA + 600), DATA, 0x1000) == 0
    assert guest("stat", path, 0x10) == -errno.EFAULT
    assert guest("lstat", guest.put(b"none\0", DATA + 600), DATA) == -errno.ENOENT
    assert guest("access", path, 4) == 0
    assert guest("access", path, 2) == -errno.EROFS
    assert guest("faccessat", AT_FDCWD, path, 0) == 0
    assert guest("readlink", path, DATA, 10) == -errno.EINVAL
    assert guest("readlink", guest.put(b"/no\0", DATA + 600), DATA, 10) == -errno.ENOENT
    assert guest("readlink", guest.put(b"/proc/self/exe\0", DATA + 600), DATA, 5) == 5
    assert guest.get(5) == b"/prog"
    assert guest("getcwd", DATA, 100) == 2
    assert guest("getcwd", DATA, 1) == -errno.ERANGE


def test_directories(guest: Guest) -> None:
    root = guest("open", guest.put(b"/\0"), 0)
    names = []
    while (length := guest("getdents64", root, DATA, 64)) and isinstance(length, int) and length > 0:
        raw, at = guest.get(length), 0
        while at < length:
            _, _, size, kind = struct.unpack_from("<QqHB", raw, at)
            names.append((raw[at + 19 : at + size].split(b"\0")[0], kind))
            at += size
    assert names == [(b".", 4), (b"..", 4), (b"index.html", 8), (b"sub", 4)]
    assert guest("lseek", root, 0, 0) == 0
    assert guest("getdents64", root, DATA, 8) == -errno.EINVAL
    assert guest("getdents64", 1, DATA, 64) == -errno.ENOTDIR


def test_a_tree_numbers_what_it_holds() -> None:
    tree = FileTree((("a/b", b"x"), ("/a/../c", b"yy")))
    found = tree.find("/c")
    assert found is not None
    assert tree.size(found) == 2
    assert tree.number(found) > 1
    device = tree.find("/dev/null")
    assert device is not None
    assert device.kind is Kind.NULL
    assert tree.number(device) == 1


def test_clocks(guest: Guest) -> None:
    for clock in (0, 1, 2, 3, 4, 5, 6, 7, 11):
        assert guest("clock_gettime", clock, DATA) == 0
        assert guest("clock_getres", clock, DATA) == 0
    assert guest("clock_getres", 0, 0) == 0
    assert guest("clock_gettime", 99, DATA) == -errno.EINVAL
    assert guest("gettimeofday", DATA, 0) == 0
    seconds = struct.unpack("<q", guest.get(8))[0]
    assert guest("time", DATA) in (seconds, seconds + 1)
    assert guest("time", 0) in (seconds, seconds + 1)
    assert guest("gettimeofday", 0, 0) == 0


def test_a_sleep_is_interrupted_at_once_with_all_of_it_remaining(guest: Guest) -> None:
    guest.put(struct.pack("<qq", 5, 7))
    assert guest("nanosleep", DATA, DATA + 32) == -errno.EINTR
    assert guest.get(16, DATA + 32) == struct.pack("<qq", 5, 7)
    assert guest("clock_nanosleep", 1, 0, DATA, 0) == -errno.EINTR
    assert guest("clock_nanosleep", 0, 1, DATA, 0) == 0, "that time has passed"
    guest.put(struct.pack("<qq", 1 << 40, 0))
    assert guest("clock_nanosleep", 0, 1, DATA, 0) == -errno.EINTR
    guest.put(struct.pack("<qq", 0, 0))
    assert guest("nanosleep", DATA, 0) == 0
    guest.put(struct.pack("<qq", 0, 10**9))
    assert guest("nanosleep", DATA, 0) == -errno.EINVAL


def test_identity(guest: Guest) -> None:
    assert [guest(n) for n in ("getpid", "gettid", "getppid", "getuid", "getgid", "geteuid", "getegid")] == [1, 1, 0, 0, 0, 0, 0]
    assert guest("set_tid_address", DATA) == 1
    assert guest("set_robust_list", DATA, 24) == 0
    assert guest("sched_yield") == 0
    assert guest("uname", DATA) == 0
    assert guest.get(6) == b"Linux\0"
    assert guest("prlimit64", 0, 3, 0, DATA) == 0
    assert struct.unpack("<QQ", guest.get(16)) == (MIB, MIB)
    assert guest("prlimit64", 1, 7, DATA, 0) == -errno.EPERM
    assert guest("prlimit64", 2, 7, 0, DATA) == -errno.ESRCH
    assert guest("getrlimit", 99, DATA) == -errno.EINVAL
    assert guest("sched_getaffinity", 0, 128, DATA) == 8
    assert guest("sched_getaffinity", 0, 3, DATA) == -errno.EINVAL
    assert guest("rseq", DATA, 32, 0, 0) == 0
    assert guest("rseq", DATA, 8, 0, 0) == -errno.EINVAL


def test_arch_prctl(guest: Guest) -> None:
    assert guest("arch_prctl", 0x1002, 0x1234) == 0
    assert guest("arch_prctl", 0x1001, 0x5678) == 0
    assert guest.registers.bases == (0x1234, 0x5678)
    assert guest("arch_prctl", 0x1003, DATA) == 0
    assert guest("arch_prctl", 0x1004, DATA + 8) == 0
    assert struct.unpack("<QQ", guest.get(16)) == (0x1234, 0x5678)
    assert guest("arch_prctl", 0x1002, 1 << 47) == -errno.EPERM
    assert guest("arch_prctl", 0x3001, 0) == -errno.EINVAL


def test_signals_are_remembered(guest: Guest) -> None:
    guest.put(bytes(range(32)))
    assert guest("rt_sigaction", 10, DATA, 0, 8) == 0
    assert guest("rt_sigaction", 10, 0, DATA + 64, 8) == 0
    assert guest.get(32, DATA + 64) == bytes(range(32))
    assert guest("rt_sigaction", 9, DATA, 0, 8) == -errno.EINVAL
    assert guest("rt_sigaction", 10, DATA, 0, 4) == -errno.EINVAL
    guest.put(struct.pack("<Q", 0b110))
    assert guest("rt_sigprocmask", 2, DATA, 0, 8) == 0
    guest.put(struct.pack("<Q", 0b010))
    assert guest("rt_sigprocmask", 1, DATA, DATA + 8, 8) == 0
    assert guest("rt_sigprocmask", 0, 0, DATA, 8) == 0
    assert struct.unpack("<QQ", guest.get(16)) == (0b100, 0b110)
    assert guest("rt_sigprocmask", 3, DATA, 0, 8) == -errno.EINVAL
    assert guest("sigaltstack", DATA, DATA + 64) == 0
    assert guest("sigaltstack", 0, DATA + 64) == 0
    assert guest.get(8, DATA + 64) == struct.pack("<Q", 0b100)


def test_a_signal_to_itself_ends_it(guest: Guest) -> None:
    assert guest("tkill", 1, 6) == Exit(134, 6)
    assert guest("tgkill", 1, 1, 6) == Exit(134, 6)
    assert guest("kill", 0, 15) == Exit(143, 15)
    assert guest("kill", 1, 0) == 0
    assert guest("kill", 1, 17) == 0
    assert guest("kill", 55, 9) == -errno.ESRCH
    assert guest("tgkill", 2, 1, 9) == -errno.ESRCH
    assert guest("kill", 1, 65) == -errno.EINVAL
    guest.put(struct.pack("<Q", 1))
    assert guest("rt_sigaction", 15, DATA, 0, 8) == 0
    assert guest("kill", 1, 15) == 0


def test_futex_and_poll(guest: Guest) -> None:
    guest.put(struct.pack("<I", 5))
    assert guest("futex", DATA, 1, 1) == 0
    assert guest("futex", DATA, 128, 4) == -errno.EAGAIN
    assert guest("futex", DATA, 128, 5, 0) == -errno.EDEADLK
    assert guest("futex", DATA, 137, 5, DATA) == -errno.ETIMEDOUT
    assert guest("futex", 0x10, 1, 1) == -errno.EFAULT
    assert guest("futex", DATA, 5, 1) == -errno.ENOSYS
    guest.put(struct.pack("<ihhihhihhihh", 0, 5, 0, 1, 5, 0, 50, 1, 0, -1, 1, 0))
    assert guest("poll", DATA, 4, 1000) == 3
    assert [r for _, _, r in struct.iter_unpack("<ihh", guest.get(32))] == [1, 4, 0x20, 0]
    assert guest("ppoll", DATA, 65, 0) == -errno.EINVAL


def test_exit(guest: Guest) -> None:
    assert guest("exit", 256 + 3) == Exit(3)
    assert guest("exit_group", 0) == Exit(0)


def test_unknown_calls_are_enosys(guest: Guest) -> None:
    for number in (56, 57, 59, 41, 1 << 40, MINUS_ONE):
        assert dispatch(guest.process, number, (0, 0, 0, 0, 0, 0)) == -errno.ENOSYS
    usage = guest.process.exchange.usage(0, 0, 0)
    assert usage.unknown_calls == (56, 57, 59, 41, 1 << 40, MINUS_ONE)


def test_edge_calls_of_a_resident() -> None:
    template = make(Convention.RESIDENT)
    guest = Guest(template)
    assert guest("next_request", DATA, 100) == NextRequest(DATA, 100)
    assert guest("respond", DATA, 4) == -errno.EINVAL
    assert guest("finish", DATA, 4, DATA, 100) == -errno.EINVAL
    assert guest("kv_get", DATA, 4, DATA, 4) == -errno.EAGAIN
    guest.close()
    template.close()


VALUES = st.one_of(
    st.integers(0, MINUS_ONE),
    st.integers(0, 300),
    st.sampled_from([
        DATA, DATA + DATA_BYTES - 1, DATA + DATA_BYTES, TEXT, RODATA, TEXT + LIMITS.memory_bytes - 8, TEXT + LIMITS.memory_bytes,
        MINUS_ONE, 1 << 63, 1 << 47, (1 << 47) - 1, AT_FDCWD, 4096, 1 << 20, LIMITS.memory_bytes, 0x22, 0x32, 0x100022, 2, 3, 7,
    ]),
    st.integers(TEXT // PAGE, (TEXT + LIMITS.memory_bytes) // PAGE).map(lambda page: page * PAGE),
)  # fmt: skip
STEP = st.tuples(st.one_of(st.sampled_from(sorted(CALLS)), st.integers(0, 500)), st.tuples(*[VALUES] * 6))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(list(Convention)), st.lists(STEP, max_size=25), st.integers(0, 1 << 32))
def test_whatever_a_guest_passes_nothing_raises_and_nothing_leaks_out(
    convention: Convention, steps: list[tuple[int, tuple[int, ...]]], seed: int
) -> None:
    template = make(convention)
    guest = Guest(template, GuestRequest(((b"A", b"b"),), b"body"), replace(LIMITS, system_calls=40))
    process, memory = guest.process, guest.memory
    try:
        process.access.write(DATA, random.Random(seed).randbytes(DATA_BYTES))
        for number, args in steps:
            frozen = {
                page: bytes(memory.window[page * PAGE : page * PAGE + PAGE])
                for page in range(DATA // PAGE - TEXT // PAGE)
                if memory.entry(TEXT + page * PAGE) & PRESENT and not memory.entry(TEXT + page * PAGE) & WRITABLE
            }
            try:
                answer = dispatch(process, number, args)
            except RequestEnded:
                break
            assert isinstance(answer, int | Exit | NextRequest | Ask)
            for page, content in frozen.items():
                assert memory.window[page * PAGE : page * PAGE + PAGE] == content, CALLS[number].name
            for index, entry in enumerate(memory.entries):
                if entry & PRESENT:
                    offset = (index + memory.layout.first_page) * PAGE - memory.layout.base
                    assert entry & 0x000F_FFFF_FFFF_F000 == offset, "an entry names its own page of the window"
                    assert entry & 4, "and is the user's"
                    assert not (entry & WRITABLE and not entry >> 63), "and is never writable and executable"
        assert len(process.state.files) <= MAX_OPEN
        assert len(process.state.areas.frozen()) <= MAX_AREAS
        memory.reset(memory.written())
        fresh = template.memory.fork()
        assert memory.block == fresh.block
        fresh.close()
    finally:
        guest.close()
        template.close()
