"""Promised against received: how the CPU time of the last seconds was to be divided, and how it was. No I/O, no clock.

Only who competes costs anything: slices are added up as they end, and every few of them the promises of that moment are worked
out and booked. Held by `sharetree.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandbox.queueing.nodes import NodePath
from sandbox.queueing.promise import promises
from sandbox.queueing.sharenode import Node
from sandbox.scheduler import Scheduler

WINDOW_NS = 10_000_000_000
_PARTS = 20
"""The window moves on by such a part of itself."""
_BOOKING_NS = 20_000_000
_BOOKING_NS_EACH = 500_000
"""Between two bookings, at least, and more by this for each leaf that competes: working them out takes some 5 µs a leaf."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """One node over the last seconds: parts of the CPU time given out, 0 to 1."""

    promised: float = 0.0
    received: float = 0.0


NOTHING = Allocation()


class _Part:
    """What was booked in one part of the window."""

    __slots__ = ("given_ns", "promised_ns", "received_ns", "since_ns")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.given_ns = 0
        self.promised_ns: dict[NodePath, float] = {}
        self.received_ns: dict[NodePath, int] = {}


class Ledger:
    """Books what the leaves of a scheduler's tree receive, and what they and all above them are promised meanwhile."""

    def __init__(self, scheduler: Scheduler, slots: int) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._parts: deque[_Part] = deque()
        self._pending: dict[Node, int] = {}
        self._booked_ns: int | None = None
        self._due_ns = 0

    def charge(self, leaf: Node, cpu_ns: int, now_ns: int) -> None:
        """A leaf has used so much. Call it while the leaf's wish for more is known to the scheduler."""
        self._pending[leaf] = self._pending.get(leaf, 0) + cpu_ns
        if now_ns >= self._due_ns:
            self.book(now_ns)

    def book(self, now_ns: int) -> None:
        """Work out what was promised since the last booking. To be called before the tree changes, too."""
        pending, self._pending = self._pending, {}
        given_ns = sum(pending.values())
        since_ns, self._booked_ns = self._booked_ns, now_ns
        if not given_ns:
            return
        contenders = self._scheduler.contenders({leaf: used / given_ns for leaf, used in pending.items()})
        cpus = given_ns / max(1, now_ns - since_ns) if since_ns is not None else 0.0
        part = self._part(now_ns)
        part.given_ns += given_ns
        for path, promised in promises(contenders, cpus=cpus, slots=self._slots).items():
            part.promised_ns[path] = part.promised_ns.get(path, 0.0) + promised * given_ns
        for leaf, used_ns in pending.items():
            for path in self._scheduler.lineage(leaf):
                part.received_ns[path] = part.received_ns.get(path, 0) + used_ns
        self._due_ns = now_ns + max(_BOOKING_NS, _BOOKING_NS_EACH * len(contenders))

    def allocations(self, now_ns: int) -> Mapping[NodePath, Allocation]:
        """Of everybody who competed in the last seconds."""
        self.book(now_ns)
        self._forget(now_ns)
        given_ns = sum(part.given_ns for part in self._parts)
        promised, received = (
            _summed(part.promised_ns for part in self._parts),
            _summed(part.received_ns for part in self._parts),
        )
        return {path: Allocation(promised.get(path, 0.0) / given_ns, received.get(path, 0.0) / given_ns) for path in promised}

    def _part(self, now_ns: int) -> _Part:
        self._forget(now_ns)
        if not self._parts or now_ns - self._parts[-1].since_ns >= WINDOW_NS // _PARTS:
            self._parts.append(_Part(now_ns))
        return self._parts[-1]

    def _forget(self, now_ns: int) -> None:
        while self._parts and now_ns - self._parts[0].since_ns >= WINDOW_NS:
            self._parts.popleft()


def _summed(tables: Iterable[Mapping[NodePath, float]]) -> dict[NodePath, float]:
    total: dict[NodePath, float] = {}
    for table in tables:
        for path, amount in table.items():
            total[path] = total.get(path, 0.0) + amount
    return total
