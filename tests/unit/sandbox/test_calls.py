"""The table of system calls, and those for time, identity, signals and ends: each answers as documented, with any arguments.

Invariant of the fuzzer: whatever a guest passes to whichever call, `dispatch` returns a number or an action, or ends the request;
it raises nothing else, and writes nothing outside the guest's writable pages.
"""

from __future__ import annotations

import errno
import random
import struct
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.guest.actions import AskMonitor, Exit, NextRequest
from sandbox.guest.areas import MAX_AREAS
from sandbox.guest.calls import CALLS, dispatch
from sandbox.guest.exchange import RequestEnded
from sandbox.guest.files import MAX_OPEN
from sandbox.limits import MIB
from sandbox.pages.paging import PAGE, PRESENT, WRITABLE
from sandbox.program import Convention
from sandbox.request import GuestRequest
from tests.unit.sandbox.calls_support import ANONYMOUS, AT_FDCWD, MINUS_ONE, Guest, make
from tests.unit.sandbox.machine_code import DATA, DATA_BYTES, LIMITS, RODATA, TEXT


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
            assert isinstance(answer, int | Exit | NextRequest | AskMonitor)
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


def test_a_call_writes_no_more_log_than_it_has_time_for(guest: Guest) -> None:
    """A thousand vectors of all memory would be walked page by page within one call, and the worker taken for hung."""
    start = guest("mmap", 0, 3 * MIB, 3, ANONYMOUS, MINUS_ONE, 0)
    assert isinstance(start, int)
    guest.put(struct.pack("<QQ", start, 3 * MIB) * 2)
    assert guest("writev", 2, DATA, 2) == MIB
    assert guest("write", 2, start, 3 * MIB) == MIB
    assert guest.process.exchange.log_bytes + guest.process.exchange.log_dropped_bytes == 2 * MIB
