"""A guest as its system calls see it: memory, files, the state that outlives a call, and this request's exchange.

`GuestState` is what a snapshot holds beside memory and registers: forgetting a field here leaks one request into the next.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import Final, Protocol

from sandbox.guest.access import GuestAccess
from sandbox.guest.areas import Areas
from sandbox.guest.exchange import Exchange
from sandbox.guest.files import STANDARD, FileTree, GuestFile
from sandbox.memory import GuestMemory
from sandbox.program import Convention


class SegmentBases(Protocol):
    """The registers that a system call may set."""

    def read_bases(self) -> tuple[int, int]: ...

    def write_bases(self, fs_base: int, gs_base: int) -> None: ...


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """Where things are in a guest's window: fixed when the program is loaded. All page-aligned addresses."""

    image_end: int
    """Everything below it is the program: its mappings stay as the ELF file says, but for less rights."""
    stack_guard: int
    """Start of the guard, which ends where the stack begins."""
    stack: int
    stack_top: int


@dataclass(slots=True)
class GuestState:
    """The monitor's own state for one guest, as far as a snapshot must hold it."""

    brk: int
    areas: Areas = field(default_factory=Areas)
    files: dict[int, GuestFile] = field(default_factory=lambda: dict(STANDARD))
    signal_mask: int = 0
    signal_actions: dict[int, bytes] = field(default_factory=dict)
    signal_stack: bytes = b"\0" * 8 + b"\2\0\0\0" + b"\0" * 12
    """struct stack_t: SS_DISABLE."""
    clock_origin_ns: int = 0
    """What CLOCK_MONOTONIC is counted from."""
    request_buffer: tuple[int, int] | None = None
    """Address and length given to the `next_request` that is still unanswered."""

    def copy(self) -> GuestState:
        """Independent of this one: the values held are immutable, the containers are not."""
        return GuestState(
            self.brk,
            self.areas.copy(),
            self.files.copy(),
            self.signal_mask,
            self.signal_actions.copy(),
            self.signal_stack,
            self.clock_origin_ns,
            self.request_buffer,
        )

    def shared(self) -> GuestState:
        """A copy whose parts, where they are as at every program's start, are one object for all, and so in the processor's
        caches. It must not be changed, only copied."""
        state = self.copy()
        if not state.areas.frozen():
            state.areas = _NO_AREAS
        if state.files == STANDARD:
            state.files = _STANDARD
        if not state.signal_actions:
            state.signal_actions = _NO_ACTIONS
        return state


_NO_AREAS: Final = Areas()
_STANDARD: Final = dict(STANDARD)
_NO_ACTIONS: Final[dict[int, bytes]] = {}


class Process:
    """What a handler is given. Belongs to one VM."""

    __slots__ = ("access", "convention", "cpu_ns", "exchange", "files", "memory", "name", "registers", "space", "state")

    def __init__(
        self,
        *,
        memory: GuestMemory,
        registers: SegmentBases,
        space: AddressSpace,
        files: FileTree,
        convention: Convention,
        name: str,
        state: GuestState,
        exchange: Exchange,
    ) -> None:
        self.memory = memory
        self.registers = registers
        self.access = GuestAccess(memory)
        self.space = space
        self.files = files
        self.convention = convention
        self.name = posixpath.basename(name)
        self.state = state
        self.exchange = exchange
        self.cpu_ns = 0
        """CPU time of this request up to the last stop."""
