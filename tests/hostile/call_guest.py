"""A guest whose system calls are made by a fuzzer, and the rules that hold whatever it does.

The table's handlers are driven as a guest would. An audit hook is the deny policy: whatever the interpreter would do to files,
sockets or processes is recorded. `test_fuzz_calls.py` and `fuzz_calls.py` choose the calls.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import replace

from sandbox.guest.actions import AskMonitor, Exit, NextRequest
from sandbox.guest.areas import MAX_AREAS
from sandbox.guest.calls import dispatch
from sandbox.guest.edge_calls import MAX_ANSWER
from sandbox.guest.exchange import Exchange, RequestEnded
from sandbox.guest.files import MAX_OPEN
from sandbox.limits import DEFAULT_LIMITS, KIB, MIB
from sandbox.pages.paging import MAPPED, NO_EXECUTE, PAGE, PRESENT, USER_TOP, WRITABLE
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
END = TEXT + MIB
ODD_ADDRESSES = (
    *(0, 1, TEXT, DATA, DATA + 2, DATA + 5, DATA + 11, DATA + 21, DATA + 45, END - 1, END, END - PAGE, USER_TOP),
    *(1 << 47, 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE),
)
ODD_LENGTHS = (MIB, MIB + 1, 1 << 31, 1 << 32, (1 << 47) - 1, 1 << 62, 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE)
ODD_NUMBERS = (0x22, 0x32, 0x100022, 1 << 31, (1 << 64) - 100, (1 << 64) - 1)

_watching: list[bool] = []
_seen: list[str] = []


def _audit(event: str, _args: object) -> None:
    if _watching and event.startswith(HARMFUL):
        _seen.append(event)


sys.addaudithook(_audit)


class CallGuest:
    """One guest's life: any calls, in any order. Raises AssertionError where a rule is broken."""

    def __init__(self) -> None:
        self.template = load(PROGRAM, LIMITS)
        self.vm = Vm(self.template, "unicorn")
        self.process = self.vm._process
        self.text = bytes(self.process.memory.window[:PAGE])
        self.original = self.template.memory.fork()
        self.renew()

    def renew(self) -> None:
        """Another request, with the monitor's state as it was at the start."""
        self.process.state = self.template.state()
        self.process.exchange = Exchange(GuestRequest(((b"A", b"b"),), b"body"), LIMITS)

    def reset(self) -> None:
        memory = self.process.memory
        memory.reset(memory.written())
        end = memory.layout.supervisor_offset
        assert memory.block[:end] == self.original.block[:end], "a reset leaves something of this request"
        self.renew()

    def close(self) -> None:
        self.original.close()
        self.vm.close()
        self.template.close()

    def make(self, number: int, args: tuple[int, ...]) -> None:
        """One call."""
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
        elif isinstance(answer, AskMonitor):
            assert answer.length <= MAX_ANSWER
            assert len(answer.data) + len(answer.value) <= 2 * MIB
        else:
            assert isinstance(answer, NextRequest | Exit)
        self.what_is_kept_is_bounded()

    def check(self) -> None:
        """The rules that take a look at all of memory, which costs more than a call does."""
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
