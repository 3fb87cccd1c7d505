"""System calls over files: standard ones, the bundle's, devices and directories, all read-only and bounded."""

from __future__ import annotations

import errno
import struct

import pytest

from sandbox.guest.access import PATH_MAX
from sandbox.guest.files import MAX_OPEN, FileKind, FileTree
from tests.unit.sandbox.calls_support import AT_FDCWD, MINUS_ONE, Guest
from tests.unit.sandbox.machine_code import DATA, RODATA


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
    assert device.kind is FileKind.NULL
    assert tree.number(device) == 1
