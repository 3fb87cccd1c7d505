"""Plays a guest that has escaped its emulator: enters the jail, tries one thing, and tells how it ended.

Run as a program by `test_jail.py`: a process of one thread that forks a jailed child for each attempt. `--no-filter` leaves the
system call filter out, so that the layers behind it have to hold alone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from sandbox import jail
from sandbox.engines.watchdog import watchdog
from sandbox.pages.pagemap import open_pagemap

LIBC = ctypes.CDLL(None, use_errno=True)
PARENT = os.getpid()
SECRET = ctypes.create_string_buffer(b"the parent's secret")


def call(number: int, *args: object) -> str:
    """A raw system call: "done", or the name of its error."""
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def machine_code(code: bytes) -> str:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return "done" if result >= 0 else errno.errorcode[-result]


def executable_file() -> str:
    fd = os.memfd_create("code")
    os.ftruncate(fd, 4096)
    return call(9, 0, 4096, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)


def executable_later() -> str:
    with mmap.mmap(-1, 4096) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return call(10, address, 4096, mmap.PROT_READ | mmap.PROT_EXEC)


def read_parent() -> str:
    """process_vm_readv(2)."""
    buffer = ctypes.create_string_buffer(32)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)
    remote = (ctypes.c_size_t * 2)(ctypes.addressof(SECRET), 16)
    return call(310, PARENT, local, 1, remote, 1, 0)


def write_parent() -> str:
    """process_vm_writev(2)."""
    buffer = ctypes.create_string_buffer(32)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)
    remote = (ctypes.c_size_t * 2)(ctypes.addressof(SECRET), 16)
    return call(311, PARENT, local, 1, remote, 1, 0)


def connect() -> str:
    fd = LIBC.syscall(41, socket.AF_INET, socket.SOCK_STREAM, 0)
    if fd < 0:
        return errno.errorcode[ctypes.get_errno()]
    address = ctypes.create_string_buffer(b"\x02\0\0\x16\x7f\0\0\x01" + bytes(8), 16)
    return call(42, fd, address, 16)


def thread() -> str:
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        return "EAGAIN"
    return "done"


ARGV = (ctypes.c_char_p * 2)(b"/bin/true", None)
ATTEMPTS: dict[str, Callable[[], str]] = {
    "work as a worker does": lambda: "done",
    "open a file": lambda: call(2, b"/etc/passwd", os.O_RDONLY, 0),
    "openat a file": lambda: call(257, -100, b"/etc/passwd", os.O_RDONLY, 0),
    "openat2 a file": lambda: call(437, -100, b"/etc/passwd", (ctypes.c_long * 3)(), 24),
    "create a file": lambda: call(257, -100, b"/tmp/made", os.O_CREAT | os.O_WRONLY, 0o600),
    "open the parent's memory": lambda: call(257, -100, b"/proc/%d/mem" % PARENT, os.O_RDWR, 0),
    "list the root": lambda: (call(257, -100, b"/", os.O_RDONLY | os.O_DIRECTORY, 0) and "; ".join(os.listdir("/"))) or "empty",
    "read the parent's memory": read_parent,
    "connect to the host": connect,
    "make a Unix socket": lambda: call(41, socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "make a raw socket": lambda: call(41, socket.AF_INET, socket.SOCK_RAW, 1),
    "execve": lambda: call(59, b"/bin/true", ARGV, None),
    "execveat": lambda: call(322, -100, b"/bin/true", ARGV, None, 0),
    "fork": lambda: call(57),
    "clone a process": lambda: call(56, signal.SIGCHLD, 0, 0, 0, 0),
    "start a thread": thread,
    "kill the parent": lambda: call(62, PARENT, signal.SIGKILL),
    "signal everybody": lambda: call(62, -1, 0),  # 0 is no signal: tried without the filter too, it must not harm this machine
    "open a process's memory": lambda: call(257, -100, b"/proc/1/mem", os.O_RDONLY, 0),
    "write the parent's memory": write_parent,
    "vfork": lambda: call(58),
    "signal a thread of the parent": lambda: call(234, PARENT, PARENT, signal.SIGKILL),
    "open the parent's pidfd": lambda: call(434, PARENT, 0),
    "trace the parent": lambda: call(101, 16, PARENT, 0, 0),
    "become root": lambda: call(105, 0),
    "mount": lambda: call(165, b"none", b"/", b"tmpfs", 0, 0),
    "chroot": lambda: call(161, b"/"),
    "make a namespace": lambda: call(272, 0x10000000),
    "load a BPF program": lambda: call(321, 0, (ctypes.c_char * 128)(), 128),
    "use io_uring": lambda: call(425, 8, (ctypes.c_char * 120)()),
    "watch faults of memory": lambda: call(323, 0),
    "count performance events": lambda: call(298, (ctypes.c_char * 128)(), 0, -1, -1, 0),
    "use the kernel's keyring": lambda: call(250, 0, -3, 0),
    "be dumpable again": lambda: call(157, 4, 1, 0, 0, 0),
    "raise a limit": lambda: call(160, resource.RLIMIT_NPROC, (ctypes.c_ulong * 2)(100, 100)),
    "push characters into a terminal": lambda: call(16, 0, 0x5412, b"x"),
    "map a file executable": executable_file,
    "make memory executable": executable_later,
    "send to an address": lambda: call(44, 0, b"x", 1, 0, (ctypes.c_char * 16)(2), 16),
    "send a descriptor": lambda: call(46, 0, (ctypes.c_char * 56)(), 0),
    "call as x32": lambda: call(0x40000000 | 39),
    "call as i386": lambda: machine_code(b"\xb8\x14\0\0\0\xcd\x80\xc3"),
}


def start() -> None:
    clock = time.pthread_getcpuclockid(threading.get_ident())
    watchdog().disarm(watchdog().arm(clock, time.clock_gettime_ns(clock) + 10**9, lambda: None))


def attempt(name: str) -> str:
    """How it ended: "done", an errno, or "killed"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            report = jail.enter(jail.JailPolicy(), PARENT, [writing], open_files=lambda: open_pagemap() and None, start=start)
            fate = ATTEMPTS[name]() if name else json.dumps([report.active, {m.layer: m.reason for m in report.missing}])
            os.write(writing, fate.encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        fate = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS else fate


if __name__ == "__main__":
    if "--no-filter" in sys.argv:
        jail.seccomp.install = lambda program: None
    if "--as-user" in sys.argv:
        # As another user's process would be after exec, which the directories of this Python may not allow.
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        LIBC.prctl(4, 1, 0, 0, 0)
    json.dump({name: attempt(name) for name in ["", *ATTEMPTS]}, sys.stdout)
