"""Files: the bundle read-only, standard input and output, and nothing else.

A `cgi` program's stdout is its answer; a `resident` program answers with `respond`, so its stdout goes to the log as stderr does.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from sandbox.guest.access import CallError
from sandbox.guest.files import MAX_OPEN, FileKind, GuestFile, mode, resolve
from sandbox.guest.process import Process
from sandbox.program import Convention

MAX_TRANSFER: Final = 1 << 20
"""Bytes that one read delivers at most, and one write logs; programs must cope with short reads and writes. A call's work is done
between two looks at the clock."""
MAX_VECTORS: Final = 1024

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_O_ACCMODE, _O_CREAT, _O_TRUNC, _O_DIRECTORY = 3, 0o100, 0o1000, 0o200000
_DT = {FileKind.DIRECTORY: 4, FileKind.FILE: 8}
_F_GETFD, _F_SETFD, _F_GETFL = 1, 2, 3
_IOVEC = struct.Struct("<QQ")
# struct stat of x86-64: dev ino nlink mode uid gid pad rdev size blksize blocks, three times, reserved
_STAT = struct.Struct("<QQQIIIIQqqq6Q24x")
_DIRENT = struct.Struct("<QqHB")


def read(process: Process, fd: int, address: int, length: int, *_: int) -> int:
    """read(2)."""
    file = _open(process, fd)
    length = min(length, MAX_TRANSFER)
    process.access.check(address, length, write=True)
    data = _take(process, file, file.offset, length)
    process.access.write(address, data)
    _advance(process, fd, file, len(data))
    return len(data)


def pread64(process: Process, fd: int, address: int, length: int, offset: int, *_: int) -> int:
    """pread(2): bundle files only."""
    file = _open(process, fd)
    if file.kind in (FileKind.STDIN, FileKind.STDOUT, FileKind.STDERR):
        raise CallError(errno.ESPIPE)
    if offset >> 63:
        raise CallError(errno.EINVAL)
    data = _take(process, file, offset, min(length, MAX_TRANSFER))
    process.access.write(address, data)
    return len(data)


def readv(process: Process, fd: int, address: int, count: int, *_: int) -> int:
    """readv(2)."""
    total = 0
    for start, length in _vectors(process, address, count):
        try:
            got = read(process, fd, start, min(length, MAX_TRANSFER - total))
        except CallError:
            if total:
                break
            raise
        total += got
        if got < length:
            break
    return total


def write(process: Process, fd: int, address: int, length: int, *_: int) -> int:
    """write(2). Output past the limit ends the request; log past its limit is dropped."""
    file = _open(process, fd)
    match file.kind:
        case FileKind.NULL:
            return length
        case FileKind.STDOUT if process.convention is Convention.CGI:
            process.exchange.check_output(length)
            process.exchange.put_output(process.access.read(address, length))
        case FileKind.STDOUT | FileKind.STDERR:
            length = min(length, MAX_TRANSFER)
            put_log(process, address, length)
        case _:
            raise CallError(errno.EBADF)
    return length


def writev(process: Process, fd: int, address: int, count: int, *_: int) -> int:
    """writev(2)."""
    total = 0
    for start, length in _vectors(process, address, count):
        try:
            written = write(process, fd, start, length)
        except CallError:
            if total:
                break
            raise
        total += written
        if written < length:
            break
    return total


def put_log(process: Process, address: int, length: int) -> None:
    """Keep as much of the guest's bytes as the log has room for. Raises CallError(EFAULT)."""
    process.access.check(address, length)
    process.exchange.put_log(process.access.read(address, process.exchange.log_room(length)))


def openat(process: Process, directory: int, path: int, flags: int, *_: int) -> int:
    """openat(2): O_RDONLY on what the bundle holds."""
    name = _path(process, directory, path)
    file = process.files.find(name)
    if file is None:
        raise CallError(errno.EROFS if flags & _O_CREAT else errno.ENOENT)
    if (flags & _O_ACCMODE or flags & _O_TRUNC) and file.kind is not FileKind.NULL:
        raise CallError(errno.EROFS)
    if flags & _O_DIRECTORY and file.kind is not FileKind.DIRECTORY:
        raise CallError(errno.ENOTDIR)
    return _install(process, file, 0)


def open_(process: Process, path: int, flags: int, *_: int) -> int:
    """open(2)."""
    return openat(process, _AT_FDCWD, path, flags)


def close(process: Process, fd: int, *_: int) -> int:
    """close(2)."""
    _open(process, fd)
    del process.state.files[fd]
    return 0


def dup(process: Process, fd: int, *_: int) -> int:
    """dup(2); the copy's offset is its own."""
    return _install(process, _open(process, fd), 0)


def dup2(process: Process, fd: int, wanted: int, *_: int) -> int:
    """dup2(2), and dup3(2) whatever its flags: the copy's offset is its own."""
    file = _open(process, fd)
    if wanted >= MAX_OPEN:
        raise CallError(errno.EBADF)
    process.state.files[wanted] = file
    return wanted


def lseek(process: Process, fd: int, offset: int, whence: int, *_: int) -> int:
    """lseek(2) on bundle files; SEEK_SET, SEEK_CUR and SEEK_END."""
    file = _open(process, fd)
    if file.kind not in (FileKind.FILE, FileKind.DIRECTORY):
        raise CallError(errno.ESPIPE)
    origins = {0: 0, 1: file.offset, 2: process.files.size(file)}
    if whence not in origins:
        raise CallError(errno.EINVAL)
    target = origins[whence] + (offset - (1 << 64) if offset >> 63 else offset)
    if not 0 <= target < 1 << 63:
        raise CallError(errno.EINVAL)
    process.state.files[fd] = GuestFile(file.kind, file.path, target)
    return target


def fstat(process: Process, fd: int, address: int, *_: int) -> int:
    """fstat(2)."""
    return _put_stat(process, _open(process, fd), address)


def newfstatat(process: Process, directory: int, path: int, address: int, flags: int, *_: int) -> int:
    """fstatat(2); there are no symbolic links to follow or not."""
    if flags & _AT_EMPTY_PATH and not process.access.read_path(path):
        return fstat(process, directory, address)
    return _put_stat(process, _find(process, directory, path), address)


def stat(process: Process, path: int, address: int, *_: int) -> int:
    """stat(2) and lstat(2)."""
    return _put_stat(process, _find(process, _AT_FDCWD, path), address)


def access(process: Process, path: int, wanted: int, *_: int) -> int:
    """access(2): nothing is writable."""
    return faccessat(process, _AT_FDCWD, path, wanted)


def faccessat(process: Process, directory: int, path: int, wanted: int, *_: int) -> int:
    """faccessat(2)."""
    file = _find(process, directory, path)
    if wanted & 2 and file.kind is not FileKind.NULL:
        raise CallError(errno.EROFS)
    return 0


def ioctl(process: Process, fd: int, *_: int) -> int:
    """ioctl(2): nothing here is a terminal."""
    _open(process, fd)
    raise CallError(errno.ENOTTY)


def fcntl(process: Process, fd: int, command: int, *_: int) -> int:
    """fcntl(2): the flags that libraries ask for; nothing can be changed."""
    file = _open(process, fd)
    if command in (_F_GETFD, _F_SETFD):
        return 0
    if command == _F_GETFL:
        return 1 if file.kind in (FileKind.STDOUT, FileKind.STDERR) else 0
    raise CallError(errno.EINVAL)


def getcwd(process: Process, address: int, length: int, *_: int) -> int:
    """getcwd(2): always the bundle's root."""
    if length < 2:
        raise CallError(errno.ERANGE)
    process.access.write(address, b"/\0")
    return 2


def readlink(process: Process, path: int, address: int, length: int, *_: int) -> int:
    """readlink(2): /proc/self/exe alone is a link."""
    return readlinkat(process, _AT_FDCWD, path, address, length)


def readlinkat(process: Process, directory: int, path: int, address: int, length: int, *_: int) -> int:
    """readlinkat(2)."""
    name = _path(process, directory, path)
    if name != "/proc/self/exe":
        raise CallError(errno.ENOENT if process.files.find(name) is None else errno.EINVAL)
    target = b"/" + os.fsencode(process.name)
    process.access.write(address, target[:length])
    return min(length, len(target))


def getdents64(process: Process, fd: int, address: int, length: int, *_: int) -> int:
    """getdents64(2); the directory's offset counts entries."""
    directory = _open(process, fd)
    if directory.kind is not FileKind.DIRECTORY:
        raise CallError(errno.ENOTDIR)
    entries = process.files.names(directory)
    packed, at = bytearray(), directory.offset
    while at < len(entries):
        name, file = entries[at]
        raw = os.fsencode(name) + b"\0"
        size = (_DIRENT.size + len(raw) + 7) & -8
        if len(packed) + size > length:
            break
        at += 1
        packed += (_DIRENT.pack(process.files.number(file), at, size, _DT.get(file.kind, 0)) + raw).ljust(size, b"\0")
    if not packed and at < len(entries):
        raise CallError(errno.EINVAL)
    process.access.write(address, bytes(packed))
    process.state.files[fd] = GuestFile(directory.kind, directory.path, at)
    return len(packed)


def _open(process: Process, fd: int) -> GuestFile:
    file = process.state.files.get(fd)
    if file is None:
        raise CallError(errno.EBADF)
    return file


def _install(process: Process, file: GuestFile, lowest: int) -> int:
    files = process.state.files
    for fd in range(lowest, MAX_OPEN):
        if fd not in files:
            files[fd] = file
            return fd
    raise CallError(errno.EMFILE)


def _take(process: Process, file: GuestFile, offset: int, length: int) -> bytes:
    match file.kind:
        case FileKind.STDIN:
            return process.exchange.take_input(length)
        case FileKind.FILE:
            return process.files.content(file)[offset : offset + length]
        case FileKind.NULL:
            return b""
        case FileKind.RANDOM:
            return os.urandom(length)
        case FileKind.DIRECTORY:
            raise CallError(errno.EISDIR)
        case _:
            raise CallError(errno.EBADF)


def _advance(process: Process, fd: int, file: GuestFile, count: int) -> None:
    if file.kind is FileKind.FILE:
        process.state.files[fd] = GuestFile(file.kind, file.path, file.offset + count)


def _vectors(process: Process, address: int, count: int) -> list[tuple[int, int]]:
    if count > MAX_VECTORS:
        raise CallError(errno.EINVAL)
    raw = process.access.read(address, count * _IOVEC.size)
    vectors = list(_IOVEC.iter_unpack(raw))
    if sum(length for _, length in vectors) >> 63:
        raise CallError(errno.EINVAL)
    return vectors


def _path(process: Process, directory: int, address: int) -> str:
    """The absolute path a call names, relative to an open directory where it says so."""
    path = os.fsdecode(process.access.read_path(address))
    if not path:
        raise CallError(errno.ENOENT)
    number = directory & 0xFFFF_FFFF
    if path.startswith("/") or number == _AT_FDCWD & 0xFFFF_FFFF:
        return resolve("/", path)
    base = _open(process, number)
    if base.kind is not FileKind.DIRECTORY:
        raise CallError(errno.ENOTDIR)
    return resolve(base.path, path)


def _find(process: Process, directory: int, path: int) -> GuestFile:
    file = process.files.find(_path(process, directory, path))
    if file is None:
        raise CallError(errno.ENOENT)
    return file


def _put_stat(process: Process, file: GuestFile, address: int) -> int:
    size = process.files.size(file)
    packed = _STAT.pack(1, process.files.number(file), 1, mode(file), 0, 0, 0, 0, size, 4096, (size + 511) // 512, *[0] * 6)
    process.access.write(address, packed)
    return 0
