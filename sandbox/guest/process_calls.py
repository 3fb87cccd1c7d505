"""Identity, start-up, signals that never come, randomness, and the end.

One process, one thread: what asks about others finds none. Nothing here changes the host.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from sandbox.guest.access import CallError
from sandbox.guest.actions import Exit
from sandbox.guest.files import MAX_OPEN, FileKind
from sandbox.guest.process import Process

MAX_RANDOM: Final = 1 << 20
MAX_POLL: Final = 64
_PID: Final = 1
_NAMES: Final = (b"Linux", b"edge", b"6.1.0", b"#1", b"x86_64", b"")
_ARCH_SET_GS, _ARCH_SET_FS, _ARCH_GET_FS, _ARCH_GET_GS = 0x1001, 0x1002, 0x1003, 0x1004
_USER_HALF: Final = 1 << 47
_INFINITY: Final = (1 << 64) - 1
_RLIMIT_STACK, _RLIMIT_CORE, _RLIMIT_NPROC, _RLIMIT_NOFILE, _RLIMIT_AS, _RLIMITS = 3, 4, 6, 7, 9, 16
_RLIMIT = struct.Struct("<QQ")
_SIGACTION_BYTES: Final = 32
_SIGNALS: Final = 64
_SIGKILL, _SIGSTOP = 9, 19
_IGNORED_BY_DEFAULT: Final = {17, 18, 23, 28}
_STACK_BYTES: Final = 24
_RSEQ_BYTES: Final = 32
_FUTEX_COMMAND: Final = 0x7F
_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET = 0, 1, 9, 10
_POLLFD = struct.Struct("<ihh")
_POLLIN, _POLLOUT, _POLLNVAL = 1, 4, 0x20


def arch_prctl(process: Process, code: int, address: int, *_: int) -> int:
    """arch_prctl(2): the FS and GS bases, in the user half."""
    fs_base, gs_base = process.registers.read_bases()
    match code:
        case 0x1001 | 0x1002 if address >= _USER_HALF:
            raise CallError(errno.EPERM)
        case 0x1002:
            process.registers.write_bases(address, gs_base)
        case 0x1001:
            process.registers.write_bases(fs_base, address)
        case 0x1003:
            process.access.write(address, fs_base.to_bytes(8, "little"))
        case 0x1004:
            process.access.write(address, gs_base.to_bytes(8, "little"))
        case _:
            raise CallError(errno.EINVAL)
    return 0


def getpid(_process: Process, *_: int) -> int:
    """getpid(2), gettid(2), set_tid_address(2): 1, as the first process of a machine of its own."""
    return _PID


def zero(_process: Process, *_: int) -> int:
    """getuid(2) and kin, getppid(2), sched_yield(2), set_robust_list(2): 0 is the whole answer."""
    return 0


def uname(process: Process, address: int, *_: int) -> int:
    """uname(2)."""
    process.access.write(address, b"".join(name.ljust(65, b"\0") for name in _NAMES))
    return 0


def prlimit64(process: Process, pid: int, resource: int, new: int, old: int, *_: int) -> int:
    """prlimit(2): tells the machine's limits; they cannot be changed from inside."""
    if pid not in (0, _PID):
        raise CallError(errno.ESRCH)
    return _rlimit(process, resource, new, old)


def getrlimit(process: Process, resource: int, old: int, *_: int) -> int:
    """getrlimit(2)."""
    return _rlimit(process, resource, 0, old)


def rt_sigaction(process: Process, signal: int, new: int, old: int, size: int, *_: int) -> int:
    """rt_sigaction(2): remembered and told back; no signal is ever delivered."""
    if size != 8 or not 1 <= signal <= _SIGNALS or (new and signal in (_SIGKILL, _SIGSTOP)):
        raise CallError(errno.EINVAL)
    action = process.access.read(new, _SIGACTION_BYTES) if new else None
    if old:
        process.access.write(old, process.state.signal_actions.get(signal, bytes(_SIGACTION_BYTES)))
    if action is not None:
        process.state.signal_actions[signal] = action
    return 0


def rt_sigprocmask(process: Process, how: int, new: int, old: int, size: int, *_: int) -> int:
    """rt_sigprocmask(2): the mask is kept, though nothing arrives."""
    state = process.state
    if size != 8 or (new and how > 2):
        raise CallError(errno.EINVAL)
    change = int.from_bytes(process.access.read(new, 8), "little") if new else None
    if old:
        process.access.write(old, state.signal_mask.to_bytes(8, "little"))
    if change is not None:
        state.signal_mask = (state.signal_mask | change, state.signal_mask & ~change, change)[how]
    return 0


def sigaltstack(process: Process, new: int, old: int, *_: int) -> int:
    """sigaltstack(2): remembered and told back."""
    stack = process.access.read(new, _STACK_BYTES) if new else None
    if old:
        process.access.write(old, process.state.signal_stack)
    if stack is not None:
        process.state.signal_stack = stack
    return 0


def kill(process: Process, pid: int, signal: int, *_: int) -> int | Exit:
    """kill(2) and tkill(2) of itself: the end, unless the signal is ignored. No handler ever runs, and no mask delays it."""
    if pid not in (0, _PID):
        raise CallError(errno.ESRCH)
    if signal > _SIGNALS:
        raise CallError(errno.EINVAL)
    action = int.from_bytes(process.state.signal_actions.get(signal, b"")[:8], "little")
    if not signal or action == 1 or (not action and signal in _IGNORED_BY_DEFAULT):
        return 0
    return Exit(128 + signal, signal)


def tgkill(process: Process, group: int, thread: int, signal: int, *_: int) -> int | Exit:
    """tgkill(2)."""
    if group != _PID:
        raise CallError(errno.ESRCH)
    return kill(process, thread, signal)


def sched_getaffinity(process: Process, _pid: int, length: int, address: int, *_: int) -> int:
    """sched_getaffinity(2): one CPU."""
    if length < 8 or length % 8:
        raise CallError(errno.EINVAL)
    process.access.write(address, (1).to_bytes(8, "little"))
    return 8


def getrandom(process: Process, address: int, length: int, *_: int) -> int:
    """getrandom(2): the host's, at each call anew, so that no two forks see the same."""
    length = min(length, MAX_RANDOM)
    process.access.check(address, length, write=True)
    process.access.write(address, os.urandom(length))
    return length


def rseq(process: Process, address: int, length: int, flags: int, *_: int) -> int:
    """rseq(2): on CPU 0 for ever."""
    if length < _RSEQ_BYTES or flags:
        raise CallError(errno.EINVAL)
    process.access.write(address, bytes(8))
    return 0


def futex(process: Process, address: int, operation: int, value: int, timeout: int, *_: int) -> int:
    """futex(2) with nobody else: waking wakes none; a wait that nothing can end times out, or is EDEADLK."""
    match operation & _FUTEX_COMMAND:
        case 1 | 10:
            process.access.check(address, 4)
            return 0
        case 0 | 9:
            if int.from_bytes(process.access.read(address, 4), "little") != value & 0xFFFF_FFFF:
                raise CallError(errno.EAGAIN)
            raise CallError(errno.ETIMEDOUT if timeout else errno.EDEADLK)
        case _:
            raise CallError(errno.ENOSYS)


def poll(process: Process, address: int, count: int, *_: int) -> int:
    """poll(2) and ppoll(2): everything that is open is ready; nothing is waited for."""
    if count > MAX_POLL:
        raise CallError(errno.EINVAL)
    raw = process.access.read(address, count * _POLLFD.size)
    ready, answer = 0, bytearray()
    for fd, wanted, _ in _POLLFD.iter_unpack(raw):
        file = process.state.files.get(fd)
        if fd < 0:
            found = 0
        elif file is None:
            found = _POLLNVAL
        else:
            found = wanted & (_POLLOUT if file.kind in (FileKind.STDOUT, FileKind.STDERR) else _POLLIN)
        ready += bool(found)
        answer += _POLLFD.pack(fd, wanted, found)
    process.access.write(address, bytes(answer))
    return ready


def exit_(_process: Process, status: int, *_: int) -> Exit:
    """exit(2) and exit_group(2)."""
    return Exit(status & 0xFF)


def _rlimit(process: Process, resource: int, new: int, old: int) -> int:
    if resource >= _RLIMITS:
        raise CallError(errno.EINVAL)
    if new:
        raise CallError(errno.EPERM)
    limits = {
        _RLIMIT_STACK: process.space.stack_top - process.space.stack,
        _RLIMIT_CORE: 0,
        _RLIMIT_NPROC: 1,
        _RLIMIT_NOFILE: MAX_OPEN,
        _RLIMIT_AS: process.memory.layout.window_bytes,
    }
    if old:
        limit = limits.get(resource, _INFINITY)
        process.access.write(old, _RLIMIT.pack(limit, limit))
    return 0
