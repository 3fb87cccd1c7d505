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
class CallRow:
    """One row. A handler gets the process and six unsigned 64-bit arguments, and raises CallError or RequestEnded."""

    name: str
    handler: Handler


CALLS: Final[Mapping[int, CallRow]] = {
    0: CallRow("read", file_calls.read),
    1: CallRow("write", file_calls.write),
    2: CallRow("open", file_calls.open_),
    3: CallRow("close", file_calls.close),
    4: CallRow("stat", file_calls.stat),
    5: CallRow("fstat", file_calls.fstat),
    6: CallRow("lstat", file_calls.stat),
    7: CallRow("poll", process_calls.poll),
    8: CallRow("lseek", file_calls.lseek),
    9: CallRow("mmap", memory_calls.mmap),
    10: CallRow("mprotect", memory_calls.mprotect),
    11: CallRow("munmap", memory_calls.munmap),
    12: CallRow("brk", memory_calls.brk),
    13: CallRow("rt_sigaction", process_calls.rt_sigaction),
    14: CallRow("rt_sigprocmask", process_calls.rt_sigprocmask),
    16: CallRow("ioctl", file_calls.ioctl),
    17: CallRow("pread64", file_calls.pread64),
    19: CallRow("readv", file_calls.readv),
    20: CallRow("writev", file_calls.writev),
    21: CallRow("access", file_calls.access),
    24: CallRow("sched_yield", process_calls.zero),
    25: CallRow("mremap", memory_calls.mremap),
    28: CallRow("madvise", memory_calls.madvise),
    32: CallRow("dup", file_calls.dup),
    33: CallRow("dup2", file_calls.dup2),
    35: CallRow("nanosleep", time_calls.nanosleep),
    39: CallRow("getpid", process_calls.getpid),
    60: CallRow("exit", process_calls.exit_),
    62: CallRow("kill", process_calls.kill),
    63: CallRow("uname", process_calls.uname),
    72: CallRow("fcntl", file_calls.fcntl),
    79: CallRow("getcwd", file_calls.getcwd),
    89: CallRow("readlink", file_calls.readlink),
    96: CallRow("gettimeofday", time_calls.gettimeofday),
    97: CallRow("getrlimit", process_calls.getrlimit),
    102: CallRow("getuid", process_calls.zero),
    104: CallRow("getgid", process_calls.zero),
    107: CallRow("geteuid", process_calls.zero),
    108: CallRow("getegid", process_calls.zero),
    110: CallRow("getppid", process_calls.zero),
    131: CallRow("sigaltstack", process_calls.sigaltstack),
    158: CallRow("arch_prctl", process_calls.arch_prctl),
    186: CallRow("gettid", process_calls.getpid),
    200: CallRow("tkill", process_calls.kill),
    201: CallRow("time", time_calls.time_),
    202: CallRow("futex", process_calls.futex),
    204: CallRow("sched_getaffinity", process_calls.sched_getaffinity),
    217: CallRow("getdents64", file_calls.getdents64),
    218: CallRow("set_tid_address", process_calls.getpid),
    228: CallRow("clock_gettime", time_calls.clock_gettime),
    229: CallRow("clock_getres", time_calls.clock_getres),
    230: CallRow("clock_nanosleep", time_calls.clock_nanosleep),
    231: CallRow("exit_group", process_calls.exit_),
    234: CallRow("tgkill", process_calls.tgkill),
    257: CallRow("openat", file_calls.openat),
    262: CallRow("newfstatat", file_calls.newfstatat),
    267: CallRow("readlinkat", file_calls.readlinkat),
    269: CallRow("faccessat", file_calls.faccessat),
    271: CallRow("ppoll", process_calls.poll),
    273: CallRow("set_robust_list", process_calls.zero),
    292: CallRow("dup3", file_calls.dup2),
    302: CallRow("prlimit64", process_calls.prlimit64),
    318: CallRow("getrandom", process_calls.getrandom),
    334: CallRow("rseq", process_calls.rseq),
    EDGE_CALLS + 1: CallRow("next_request", edge_calls.next_request),
    EDGE_CALLS + 2: CallRow("respond", edge_calls.respond),
    EDGE_CALLS + 3: CallRow("log", edge_calls.log),
    EDGE_CALLS + 4: CallRow("fetch", edge_calls.fetch),
    EDGE_CALLS + 5: CallRow("kv_get", edge_calls.kv_get),
    EDGE_CALLS + 6: CallRow("kv_put", edge_calls.kv_put),
    EDGE_CALLS + 7: CallRow("finish", edge_calls.finish),
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
