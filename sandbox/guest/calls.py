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
class SystemCall:
    """One row. A handler gets the process and six unsigned 64-bit arguments, and raises CallError or RequestEnded."""

    name: str
    handler: Handler


CALLS: Final[Mapping[int, SystemCall]] = {
    0: SystemCall("read", file_calls.read),
    1: SystemCall("write", file_calls.write),
    2: SystemCall("open", file_calls.open_),
    3: SystemCall("close", file_calls.close),
    4: SystemCall("stat", file_calls.stat),
    5: SystemCall("fstat", file_calls.fstat),
    6: SystemCall("lstat", file_calls.stat),
    7: SystemCall("poll", process_calls.poll),
    8: SystemCall("lseek", file_calls.lseek),
    9: SystemCall("mmap", memory_calls.mmap),
    10: SystemCall("mprotect", memory_calls.mprotect),
    11: SystemCall("munmap", memory_calls.munmap),
    12: SystemCall("brk", memory_calls.brk),
    13: SystemCall("rt_sigaction", process_calls.rt_sigaction),
    14: SystemCall("rt_sigprocmask", process_calls.rt_sigprocmask),
    16: SystemCall("ioctl", file_calls.ioctl),
    17: SystemCall("pread64", file_calls.pread64),
    19: SystemCall("readv", file_calls.readv),
    20: SystemCall("writev", file_calls.writev),
    21: SystemCall("access", file_calls.access),
    24: SystemCall("sched_yield", process_calls.zero),
    25: SystemCall("mremap", memory_calls.mremap),
    28: SystemCall("madvise", memory_calls.madvise),
    32: SystemCall("dup", file_calls.dup),
    33: SystemCall("dup2", file_calls.dup2),
    35: SystemCall("nanosleep", time_calls.nanosleep),
    39: SystemCall("getpid", process_calls.getpid),
    60: SystemCall("exit", process_calls.exit_),
    62: SystemCall("kill", process_calls.kill),
    63: SystemCall("uname", process_calls.uname),
    72: SystemCall("fcntl", file_calls.fcntl),
    79: SystemCall("getcwd", file_calls.getcwd),
    89: SystemCall("readlink", file_calls.readlink),
    96: SystemCall("gettimeofday", time_calls.gettimeofday),
    97: SystemCall("getrlimit", process_calls.getrlimit),
    102: SystemCall("getuid", process_calls.zero),
    104: SystemCall("getgid", process_calls.zero),
    107: SystemCall("geteuid", process_calls.zero),
    108: SystemCall("getegid", process_calls.zero),
    110: SystemCall("getppid", process_calls.zero),
    131: SystemCall("sigaltstack", process_calls.sigaltstack),
    158: SystemCall("arch_prctl", process_calls.arch_prctl),
    186: SystemCall("gettid", process_calls.getpid),
    200: SystemCall("tkill", process_calls.kill),
    201: SystemCall("time", time_calls.time_),
    202: SystemCall("futex", process_calls.futex),
    204: SystemCall("sched_getaffinity", process_calls.sched_getaffinity),
    217: SystemCall("getdents64", file_calls.getdents64),
    218: SystemCall("set_tid_address", process_calls.getpid),
    228: SystemCall("clock_gettime", time_calls.clock_gettime),
    229: SystemCall("clock_getres", time_calls.clock_getres),
    230: SystemCall("clock_nanosleep", time_calls.clock_nanosleep),
    231: SystemCall("exit_group", process_calls.exit_),
    234: SystemCall("tgkill", process_calls.tgkill),
    257: SystemCall("openat", file_calls.openat),
    262: SystemCall("newfstatat", file_calls.newfstatat),
    267: SystemCall("readlinkat", file_calls.readlinkat),
    269: SystemCall("faccessat", file_calls.faccessat),
    271: SystemCall("ppoll", process_calls.poll),
    273: SystemCall("set_robust_list", process_calls.zero),
    292: SystemCall("dup3", file_calls.dup2),
    302: SystemCall("prlimit64", process_calls.prlimit64),
    318: SystemCall("getrandom", process_calls.getrandom),
    334: SystemCall("rseq", process_calls.rseq),
    EDGE_CALLS + 1: SystemCall("next_request", edge_calls.next_request),
    EDGE_CALLS + 2: SystemCall("respond", edge_calls.respond),
    EDGE_CALLS + 3: SystemCall("log", edge_calls.log),
    EDGE_CALLS + 4: SystemCall("fetch", edge_calls.fetch),
    EDGE_CALLS + 5: SystemCall("kv_get", edge_calls.kv_get),
    EDGE_CALLS + 6: SystemCall("kv_put", edge_calls.kv_put),
    EDGE_CALLS + 7: SystemCall("finish", edge_calls.finish),
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
