"""Invariant: no sequence of system calls raises in the monitor, touches the host, or breaks the machine's own rules.

The table's handlers are driven as a guest would, with numbers, pointers and lengths that are wild, or nearly right.
An audit hook is the deny policy: whatever the interpreter would do to files, sockets or processes is recorded.
FUZZ_EXAMPLES in the environment makes it longer.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sandbox.guest.actions import Ask, Exit, NextRequest
from sandbox.guest.areas import MAX_AREAS
from sandbox.guest.calls import CALLS, dispatch
from sandbox.guest.edge_calls import MAX_ANSWER
from sandbox.guest.exchange import Exchange, RequestEnded
from sandbox.guest.files import MAX_OPEN
from sandbox.limits import DEFAULT_LIMITS, KIB, MIB
from sandbox.paging import MAPPED, NO_EXECUTE, PAGE, PRESENT, USER_TOP, WRITABLE
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import TEXT, Seg, elf

DATA = TEXT + PAGE
PATHS = b"/\0.\0..\0/a\0/d/b\0/dev/null\0/dev/urandom\0/etc/passwd\0" + b"/x" * 3000
LIMITS = replace(DEFAULT_LIMITS, memory_bytes=MIB, output_bytes=64 * KIB, log_bytes=KIB, edge_calls=1000, sub_requests=1000)
PROGRAM = Program(
    elf([Seg(TEXT, b"\x90" * 64, 5), Seg(DATA, PATHS, 6, 4 * PAGE)]),
    Convention.RESIDENT,
    files=(("a", b"content" * 1000), ("d/b", b"")),
)
HARMFUL = ("open", "os.", "socket.", "subprocess.", "shutil.", "signal.", "ctypes.dlopen", "import", "exec", "compile")

_watching: list[bool] = []
_seen: list[str] = []


def _audit(event: str, _args: object) -> None:
    if _watching and event.startswith(HARMFUL):
        _seen.append(event)


sys.addaudithook(_audit)

END = TEXT + MIB
ADDRESSES = st.one_of(
    st.sampled_from([0, 1, TEXT, DATA, DATA + 2, DATA + 5, DATA + 11, DATA + 21, DATA + 45, END - 1, END, END - PAGE, USER_TOP]),
    st.integers(TEXT - PAGE, END + PAGE),
    st.integers(0, (MIB // PAGE) + 1).map(lambda page: TEXT + page * PAGE),
    st.sampled_from([1 << 47, 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE]),
)
LENGTHS = st.one_of(
    st.integers(0, 4 * PAGE),
    st.integers(0, MIB // PAGE).map(lambda pages: pages * PAGE),
    st.sampled_from([MIB, MIB + 1, 1 << 31, 1 << 32, (1 << 47) - 1, 1 << 62, 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE]),
)
SMALL = st.one_of(st.integers(0, 70), st.sampled_from([0x22, 0x32, 0x100022, 1 << 31, (1 << 64) - 100, (1 << 64) - 1]))
ANY = st.one_of(ADDRESSES, LENGTHS, SMALL, st.integers(0, (1 << 64) - 1))
MEMORY_CALLS = st.sampled_from([9, 10, 11, 12, 25, 28])


class Guest(RuleBasedStateMachine):
    """One guest's life: any calls, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.template = load(PROGRAM, LIMITS)
        self.vm = Vm(self.template, "unicorn")
        self.process = self.vm._process
        self.process.exchange = Exchange(GuestRequest(((b"A", b"b"),), b"body"), LIMITS)
        self.steps = 0
        self.text = bytes(self.process.memory.window[:PAGE])

    def teardown(self) -> None:
        self.check()
        memory = self.process.memory
        memory.reset(memory.written())
        template = self.template.memory.fork()
        end = memory.layout.supervisor_offset
        assert memory.block[:end] == template.block[:end], "a reset leaves something of this request"
        template.close()
        self.vm.close()
        self.template.close()

    def make(self, number: int, args: tuple[int, ...]) -> None:
        _seen.clear()
        _watching.append(True)
        try:
            answer = dispatch(self.process, number, args)
        except RequestEnded:
            self.process.exchange = Exchange(self.process.exchange.request, LIMITS)
            return
        finally:
            _watching.clear()
        assert not _seen, f"call {number} with {args} did {_seen} to the host"
        if isinstance(answer, int):
            assert -max(errno.errorcode) <= answer < 1 << 64
        elif isinstance(answer, Ask):
            assert answer.length <= MAX_ANSWER
            assert len(answer.data) + len(answer.value) <= 2 * MIB
        else:
            assert isinstance(answer, NextRequest | Exit)

    @rule(number=st.sampled_from(sorted(CALLS)), args=st.tuples(*[ANY] * 6))
    def anything(self, number: int, args: tuple[int, ...]) -> None:
        self.make(number, args)

    @rule(number=st.integers(0, (1 << 64) - 1), args=st.tuples(*[ANY] * 6))
    def any_number(self, number: int, args: tuple[int, ...]) -> None:
        self.make(number, args)

    @rule(number=MEMORY_CALLS, address=ADDRESSES, length=LENGTHS, third=SMALL, flags=SMALL, fd=SMALL)
    def memory(self, number: int, address: int, length: int, third: int, flags: int, fd: int) -> None:
        self.make(number, (address, length, third, flags, fd, 0))

    @rule(address=ADDRESSES, old=LENGTHS, new=LENGTHS)
    def move(self, address: int, old: int, new: int) -> None:
        self.make(25, (address, old, new, 1, 0, 0))

    @rule(fd=st.integers(0, 8), address=ADDRESSES, length=LENGTHS, number=st.sampled_from([0, 1, 17, 19, 20, 217, 8, 5, 33]))
    def file(self, fd: int, address: int, length: int, number: int) -> None:
        self.make(number, (fd, address, length, 0, 0, 0))

    @rule(path=st.sampled_from([0, 2, 4, 7, 10, 15, 25, 38, 50]), flags=st.sampled_from([0, 1, 2, 0o100, 0o200000, 0o1000]))
    def open(self, path: int, flags: int) -> None:
        self.make(2, (DATA + path, flags, 0, 0, 0, 0))

    @invariant()
    def the_machine_keeps_its_rules(self) -> None:
        """Each look at all of memory costs more than a call does: every tenth step will do."""
        self.steps += 1
        if self.steps % 10 == 0:
            self.check()

    def check(self) -> None:
        self.nothing_is_writable_and_executable()
        self.pages_stay_where_they_are()
        self.text_is_as_it_was()
        self.what_is_free_holds_zeros()

    def nothing_is_writable_and_executable(self) -> None:
        for entry in self.process.memory.entries:
            if entry & MAPPED:
                assert not (entry & WRITABLE and entry & PRESENT and not entry & NO_EXECUTE)

    def pages_stay_where_they_are(self) -> None:
        memory = self.process.memory
        for page in range(TEXT, END, PAGE):
            entry = memory.entry(page)
            assert not entry or memory.frame(entry) == page - memory.layout.base

    def text_is_as_it_was(self) -> None:
        assert self.process.memory.window[:PAGE] == self.text

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        state = self.process.state
        assert len(state.files) <= MAX_OPEN
        assert len(state.areas.frozen()) <= MAX_AREAS
        assert len(state.signal_actions) <= 64
        assert len(self.process.exchange.output) <= LIMITS.output_bytes
        assert len(self.process.exchange.log) <= LIMITS.log_bytes

    def what_is_free_holds_zeros(self) -> None:
        """So that a new mapping never shows what stood there before."""
        memory, space, state = self.process.memory, self.process.space, self.process.state
        taken = [*state.areas.frozen(), (0, (state.brk + PAGE - 1) & -PAGE), (space.stack_guard, END)]
        for page in range(space.image_end, space.stack_guard, PAGE):
            if not any(start <= page < end for start, end in taken):
                at = page - memory.layout.base
                assert not any(memory.window[at : at + PAGE]), f"the free page {page:#x} holds something"


TestCalls = Guest.TestCase
TestCalls.settings = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
