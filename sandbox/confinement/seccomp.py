"""What a worker may still ask of the kernel: a table with a reason for each row, and its assembler to classic BPF.

Data and a pure function, and the one call that installs the result. Everything absent from the table kills the worker.
Called by `jail.py`; printed by `python -m sandbox jail`.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sandbox.errors import JailError

AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000
KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000
ERRNO = 0x00050000

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_SECCOMP = 317
_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1

# linux/bpf_common.h: class | size or operation | mode or source.
_LOAD = 0x20
_AND = 0x54
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_RETURN = 0x06
_INSTRUCTION = struct.Struct("<HBBI")

# struct seccomp_data, seccomp(2).
_NR, _ARCH, _ARGS = 0, 4, 16

PAGEMAP_SCAN = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg)."""
_F_GETFD, _F_ADD_SEALS, _F_GET_SEALS = 1, 1033, 1034


class Verdict(enum.Enum):
    """What becomes of a call in the table; everything else is KILL_PROCESS."""

    ALLOW = "allow"
    REFUSE = "refuse"
    """EPERM: libraries try it of themselves and do without."""


@dataclass(frozen=True, slots=True)
class Check:
    """Holds when argument `arg`, taken as 64 bits, is equal to `value` in the bits of `mask`."""

    arg: int
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. With `any_of`, one of these groups must hold as a whole; else the call is refused, or the worker is killed."""

    name: str
    number: int
    reason: str
    any_of: tuple[tuple[Check, ...], ...] = ()
    verdict: Verdict = Verdict.ALLOW
    refuse_else: bool = False
    """Without a group that holds: EPERM in place of death."""


_INT = 0xFFFFFFFF
"""For int arguments: the kernel ignores the upper half."""

RULES: tuple[Rule, ...] = (
    Rule("futex", 202, "locks of Python and the engine"),
    Rule("recvmsg", 47, "messages of the monitor, on the one socket there is"),
    Rule("sendto", 44, "answers to the monitor; connected socket, so an address is refused by the kernel", ((Check(4, 0),),)),
    Rule("ioctl", 16, "listing the pages a request wrote", ((Check(1, PAGEMAP_SCAN, _INT),),)),
    Rule("pread64", 17, "copying template pages and program images out of memfds, and pagemap before PAGEMAP_SCAN"),
    Rule("clock_gettime", 228, "CPU clocks of the vCPU's thread"),
    Rule("getrusage", 98, "how many page faults there were: without a new one there is no page to list"),
    Rule("clock_nanosleep", 230, "the watchdog's wait for the end of a slice"),
    Rule("madvise", 28, "dropping pages at a reset; the allocator's trim"),
    Rule("munmap", 11, "freeing VMs"),
    Rule("brk", 12, "the allocator"),
    Rule("mremap", 25, "the allocator's realloc"),
    Rule(
        "mmap",
        9,
        "memory of VMs and the allocator: executable only when anonymous, for translated code is made by the engine",
        ((Check(2, 0, mmap.PROT_EXEC),), (Check(3, mmap.MAP_ANONYMOUS, mmap.MAP_ANONYMOUS),)),
    ),
    Rule("mprotect", 10, "guard pages and arenas of the allocator; never executable", ((Check(2, 0, mmap.PROT_EXEC),),)),
    Rule("memfd_create", 319, "templates"),
    Rule("ftruncate", 77, "templates"),
    Rule("pwrite64", 18, "templates"),
    Rule("write", 1, "templates, and the last words of abort() to what is /dev/null"),
    Rule(
        "fcntl",
        72,
        "sealing templates",
        ((Check(1, _F_ADD_SEALS, _INT),), (Check(1, _F_GET_SEALS, _INT),), (Check(1, _F_GETFD, _INT),)),
    ),
    Rule("fstat", 5, "sizes of memfds"),
    Rule(
        "newfstatat",
        262,
        "what fstat is in newer C libraries; by path it is refused, as stat",
        ((Check(3, 0x1000, 0x1000),),),
        refuse_else=True,
    ),
    Rule("lseek", 8, "sizes of memfds"),
    Rule("close", 3, "memfds of unloaded programs"),
    Rule("getrandom", 318, "the guest's getrandom, and hash seeds"),
    Rule("gettid", 186, "Python's locks"),
    Rule("getpid", 39, "Python after fork"),
    Rule("sched_yield", 24, "the engine's spin locks"),
    Rule("rt_sigprocmask", 14, "threads mask signals around abort and exit"),
    Rule("rt_sigreturn", 15, "leaving a signal handler"),
    Rule("restart_syscall", 219, "the kernel's own restart of an interrupted wait"),
    Rule("exit", 60, "the end of a thread"),
    Rule("exit_group", 231, "the end of the worker"),
    Rule("openat", 257, "Python looks for sources of tracebacks, the allocator for the CPU count", (), Verdict.REFUSE),
    Rule("stat", 4, "Python looks for sources of tracebacks", (), Verdict.REFUSE),
    Rule("statfs", 137, "the foreign function interface looks for SELinux before it allocates a callback", (), Verdict.REFUSE),
    Rule("readlink", 89, "Python's path look-ups", (), Verdict.REFUSE),
    Rule("rt_sigaction", 13, "abort() resets its handler", (), Verdict.REFUSE),
    Rule("sched_getaffinity", 204, "the allocator sizes its arenas", (), Verdict.REFUSE),
    Rule("prctl", 157, "names of anonymous mappings", (), Verdict.REFUSE),
    Rule("clone3", 435, "no thread is started after the seal; refused, so that a library can say so", (), Verdict.REFUSE),
    Rule("clone", 56, "as clone3; fork and vfork are absent and kill", (), Verdict.REFUSE),
)


def with_kvm(rules: Iterable[Rule], *, requests: Iterable[int], kick: int, pid: int) -> tuple[Rule, ...]:
    """The table for a worker whose engine is kvm: these requests of ioctl, and the signal that ends a slice, to itself alone."""
    more = tuple((Check(1, request, _INT),) for request in requests)
    rows = (replace(rule, any_of=(*rule.any_of, *more)) if rule.name == "ioctl" else rule for rule in rules)
    ending = Rule("tgkill", 234, "ending KVM_RUN at the end of a slice", ((Check(0, pid, _INT), Check(2, kick, _INT)),))
    return (*rows, ending)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _groups(groups: Iterable[tuple[Check, ...]]) -> bytes:
    """ALLOW when one group holds, else fall through."""
    program = b""
    for group in groups:
        checks = [
            (_ARGS + 8 * test.arg + 4 * half, (test.mask >> 32 * half) & _INT, (test.value >> 32 * half) & _INT)
            for test in group
            for half in (0, 1)
            if (test.mask >> 32 * half) & _INT
        ]
        for index, (offset, mask, value) in enumerate(checks):
            past = 3 * (len(checks) - index - 1) + 1
            program += _instruction(_LOAD, offset) + _instruction(_AND, mask) + _instruction(_JUMP_EQUAL, value, 0, past)
        program += _instruction(_RETURN, ALLOW)
    return program


def assemble(rules: Iterable[Rule]) -> bytes:
    """The filter: another architecture's or x32 call kills, then the rows in order, then KILL_PROCESS."""
    program = _instruction(_LOAD, _ARCH) + _instruction(_JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0)
    program += _instruction(_RETURN, KILL_PROCESS)
    program += _instruction(_LOAD, _NR) + _instruction(_JUMP_GREATER_EQUAL, X32_BIT, 0, 1)
    program += _instruction(_RETURN, KILL_PROCESS)
    for rule in rules:
        if rule.verdict is Verdict.REFUSE:
            body = _instruction(_RETURN, ERRNO | errno.EPERM)
        elif rule.any_of:
            body = _groups(rule.any_of) + _instruction(_RETURN, ERRNO | errno.EPERM if rule.refuse_else else KILL_PROCESS)
        else:
            body = _instruction(_RETURN, ALLOW)
        program += _instruction(_JUMP_EQUAL, rule.number, 0, len(body) // _INSTRUCTION.size) + body
    return program + _instruction(_RETURN, KILL_PROCESS)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: bytes) -> None:
    """Put every thread of this process under `program`, for ever. Needs no-new-privs. Raises JailError."""
    head = _Program(len(program) // _INSTRUCTION.size, program)
    result = _LIBC.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(head))
    if result:
        reason = errno.errorcode.get(ctypes.get_errno(), "?") if result < 0 else f"thread {result} has another filter"
        raise JailError(f"seccomp: {reason}")
