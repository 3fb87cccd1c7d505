"""Clocks, and the calls that would wait.

A guest cannot wait: a VM that slept would hold a worker. A sleep is therefore interrupted at once (EINTR, with all of its time
remaining), which is the truth, and which programs know how to meet; a loop around it runs into the request's limits.
"""

from __future__ import annotations

import errno
import struct
import time
from typing import Final

from sandbox.guest.access import CallError
from sandbox.guest.process import Process

_SECOND_NS: Final = 1_000_000_000
_TIMESPEC = struct.Struct("<qq")
_TIMEVAL = struct.Struct("<qq")
_REALTIME, _CPU = {0, 5, 11}, {2, 3}
_MONOTONIC = {1, 4, 6, 7}
_TIMER_ABSTIME: Final = 1


def clock_gettime(process: Process, clock: int, address: int, *_: int) -> int:
    """clock_gettime(2). Monotonic clocks count from the program's start; CPU clocks from the request's, stop by stop."""
    process.access.write(address, _TIMESPEC.pack(*divmod(_read(process, clock), _SECOND_NS)))
    return 0


def clock_getres(process: Process, clock: int, address: int, *_: int) -> int:
    """clock_getres(2)."""
    _read(process, clock)
    if address:
        process.access.write(address, _TIMESPEC.pack(0, 1))
    return 0


def gettimeofday(process: Process, address: int, *_: int) -> int:
    """gettimeofday(2); there is no time zone."""
    if address:
        seconds, rest = divmod(time.time_ns(), _SECOND_NS)
        process.access.write(address, _TIMEVAL.pack(seconds, rest // 1000))
    return 0


def time_(process: Process, address: int, *_: int) -> int:
    """time(2)."""
    now = time.time_ns() // _SECOND_NS
    if address:
        process.access.write(address, now.to_bytes(8, "little"))
    return now


def nanosleep(process: Process, request: int, remaining: int, *_: int) -> int:
    """nanosleep(2): EINTR at once, with nothing slept; a sleep of no time is done."""
    return _sleep(process, request, remaining)


def clock_nanosleep(process: Process, clock: int, flags: int, request: int, remaining: int, *_: int) -> int:
    """clock_nanosleep(2): as nanosleep; an absolute time that has passed is done."""
    now = _read(process, clock)
    if not flags & _TIMER_ABSTIME:
        return _sleep(process, request, remaining)
    if _timespec(process, request) <= now:
        return 0
    raise CallError(errno.EINTR)


def _sleep(process: Process, request: int, remaining: int) -> int:
    wanted = _timespec(process, request)
    if not wanted:
        return 0
    if remaining:
        process.access.write(remaining, _TIMESPEC.pack(*divmod(wanted, _SECOND_NS)))
    raise CallError(errno.EINTR)


def _timespec(process: Process, address: int) -> int:
    seconds, nanoseconds = process.access.read_struct(_TIMESPEC, address)
    if seconds < 0 or not 0 <= nanoseconds < _SECOND_NS:
        raise CallError(errno.EINVAL)
    return seconds * _SECOND_NS + nanoseconds


def _read(process: Process, clock: int) -> int:
    if clock in _REALTIME:
        return time.time_ns()
    if clock in _MONOTONIC:
        return time.monotonic_ns() - process.state.clock_origin_ns
    if clock in _CPU:
        return process.cpu_ns
    raise CallError(errno.EINVAL)
