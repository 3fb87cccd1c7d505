"""The table of system calls: number, name, handler. What is not in it is ENOSYS, counted and shown to the program's owner.

Numbers are those of x86-64 Linux (arch/x86/entry/syscalls/syscall_64.tbl) and the edge calls'. `vm.py` calls `dispatch` and
acts on the answer.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.guest import edge_calls, file_calls, memory_calls, process_calls, time_calls
from sandbox.guest.access import CallError
from sandbox.guest.actions import Action
from sandbox.guest.process import Process

Handler = Callable[..., int | Action]

EDGE_CALLS: Final = 0x4544_0000


@dataclass(frozen=True, slots=True)
class Call:
    """One row. A handler gets the process and six unsigned 64-bit arguments, and raises CallError or RequestEnded."""

    name: str
    handler: Handler


CALLS: Final[Mapping[int, Call]] = {
    0: Call("read", file_calls.read),
    1: Call("write", file_calls.write),
    2: Call("open", file_calls.open_),
    3: Call("close", file_calls.close),
    4: Call("stat", file_calls.stat),
    5: Call("fstat", file_calls.fstat),
    6: Call("lstat", file_calls.stat),
    7: Call("poll", process_calls.poll),
    8: Call("lseek", file_calls.lseek),
    9: Call("mmap", memory_calls.mmap),
    10: Call("mprotect", memory_calls.mprotect),
    11: Call("munmap", memory_calls.munmap),
    12: Call("brk", memory_calls.brk),
    13: Call("rt_sigaction", process_calls.rt_sigaction),
    14: Call("rt_sigprocmask", process_calls.rt_sigprocmask),
    16: Call("ioctl", file_calls.ioctl),
    17: Call("pread64", file_calls.pread64),
    19: Call("readv", file_calls.readv),
    20: Call("writev", file_calls.writev),
    21: Call("access", file_calls.access),
    24: Call("sched_yield", process_calls.zero),
    25: Call("mremap", memory_calls.mremap),
    28: Call("madvise", memory_calls.madvise),
    32: Call("dup", file_calls.dup),
    33: Call("dup2", file_calls.dup2),
    35: Call("nanosleep", time_calls.nanosleep),
    39: Call("getpid", process_calls.getpid),
    60: Call("exit", process_calls.exit_),
    62: Call("kill", process_calls.kill),
    63: Call("uname", process_calls.uname),
    72: Call("fcntl", file_calls.fcntl),
    79: Call("getcwd", file_calls.getcwd),
    89: Call("readlink", file_calls.readlink),
    96: Call("gettimeofday", time_calls.gettimeofday),
    97: Call("getrlimit", process_calls.getrlimit),
    102: Call("getuid", process_calls.zero),
    104: Call("getgid", process_calls.zero),
    107: Call("geteuid", process_calls.zero),
    108: Call("getegid", process_calls.zero),
    110: Call("getppid", process_calls.zero),
    131: Call("sigaltstack", process_calls.sigaltstack),
    158: Call("arch_prctl", process_calls.arch_prctl),
    186: Call("gettid", process_calls.getpid),
    200: Call("tkill", process_calls.kill),
    201: Call("time", time_calls.time_),
    202: Call("futex", process_calls.futex),
    204: Call("sched_getaffinity", process_calls.sched_getaffinity),
    217: Call("getdents64", file_calls.getdents64),
    218: Call("set_tid_address", process_calls.getpid),
    228: Call("clock_gettime", time_calls.clock_gettime),
    229: Call("clock_getres", time_calls.clock_getres),
    230: Call("clock_nanosleep", time_calls.clock_nanosleep),
    231: Call("exit_group", process_calls.exit_),
    234: Call("tgkill", process_calls.tgkill),
    257: Call("openat", file_calls.openat),
    262: Call("newfstatat", file_calls.newfstatat),
    267: Call("readlinkat", file_calls.readlinkat),
    269: Call("faccessat", file_calls.faccessat),
    271: Call("ppoll", process_calls.poll),
    273: Call("set_robust_list", process_calls.zero),
    292: Call("dup3", file_calls.dup2),
    302: Call("prlimit64", process_calls.prlimit64),
    318: Call("getrandom", process_calls.getrandom),
    334: Call("rseq", process_calls.rseq),
    EDGE_CALLS + 1: Call("next_request", edge_calls.next_request),
    EDGE_CALLS + 2: Call("respond", edge_calls.respond),
    EDGE_CALLS + 3: Call("log", edge_calls.log),
    EDGE_CALLS + 4: Call("fetch", edge_calls.fetch),
    EDGE_CALLS + 5: Call("kv_get", edge_calls.kv_get),
    EDGE_CALLS + 6: Call("kv_put", edge_calls.kv_put),
    EDGE_CALLS + 7: Call("finish", edge_calls.finish),
}


def dispatch(process: Process, number: int, args: tuple[int, ...]) -> int | Action:
    """Answer one system call: the value for RAX, or what else is to be done. Raises RequestEnded when a limit is passed."""
    process.exchange.count_call()
    call = CALLS.get(number)
    if call is None:
        process.exchange.note_unknown(number)
        return -errno.ENOSYS
    try:
        return call.handler(process, *args)
    except CallError as error:
        return -error.number
