"""What a slice of a guest's execution ends with. Values only; `vm.Vm.run` returns them, the worker acts on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sandbox.engines.base import Preempted
from sandbox.guest.actions import HostCallKind
from sandbox.outcome import Outcome

__all__ = ["Booted", "Ended", "Event", "HostCall", "HostCallKind", "OutputFull", "Preempted", "Slice"]


@dataclass(frozen=True, slots=True)
class Booted:
    """A `resident` program has asked for its first request: time to freeze it."""


@dataclass(frozen=True, slots=True)
class HostCall:
    """The guest waits for `Vm.answer`."""

    kind: HostCallKind
    data: bytes
    """The sub-request, or the key."""
    value: bytes = b""
    """What kv_put stores."""


@dataclass(frozen=True, slots=True)
class OutputFull:
    """Enough output is pending; it is in this slice. Run on when the reader has taken it."""


class Ended(NamedTuple):
    """The request, or the boot, is over. Only after FINISHED may the VM be reset; otherwise it is closed."""

    outcome: Outcome


Event = Preempted | Booted | HostCall | OutputFull | Ended


class Slice(NamedTuple):
    """One call of `Vm.run`: why it returned, what the guest produced in it, and the CPU time that it took."""

    event: Event
    output: bytes
    log: bytes
    cpu_ns: int
