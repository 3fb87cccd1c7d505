"""What the event loop's thread asks of the worker, as values, and the bounded queue that they wait in.

`tier` makes them, `worker` carries them out in the order of their arrival.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecache.policy.purging import Purge
from edgecache.store.disk.row import Place
from edgecache.store.disk.segments import SegmentWriter
from edgecache.store.entry import Entry

Told = Callable[[object], None]
"""Told of the outcome on the event loop's thread: a value, or an exception."""


@dataclass(slots=True, eq=False)
class Ban:
    """Put a purge in force; tells how many rows it concerns."""

    purge: Purge
    told: Told | None = None
    counted: bool = False
    serial: int = 0
    """Set by the worker."""


@dataclass(slots=True, eq=False)
class Put:
    """Store `entry`, asked for when the last purge was `serial`."""

    key: bytes
    entry: Entry
    serial: int
    after: tuple[Ban, ...] = ()
    """Purges of this process that were not on record then, and that do not concern it all the same."""
    moved_from: float | None = None
    """The response time of the row that has this body already."""
    place: Place | None = None
    """Where the body lies already: it was spooled."""
    told: Told | None = None
    """True: it is stored."""


@dataclass(slots=True, eq=False)
class Drop:
    """Forget what is stored under `key`."""

    key: bytes
    time: float | None = None
    """Only the response that came at this instant."""
    place: Place | None = None
    """Only while its body lies there: reclaiming may have moved it."""
    corrupt: bool = False


@dataclass(slots=True, eq=False)
class Reserve:
    """Room for `size` bytes: in a new segment, or in all for the segment of `writer`. Tells its writer, or None."""

    size: int
    told: Told
    writer: SegmentWriter | None = None


@dataclass(slots=True, eq=False)
class Release:
    """Give back a segment that came to nothing."""

    number: int


Order = Put | Drop | Ban | Reserve | Release


@dataclass(slots=True)
class OrderQueue:
    """Orders waiting; the worker's thread takes them, any thread appends."""

    _waiting: deque[Order] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _urgent: bool = False

    def append(self, order: Order, *, urgent: bool = False) -> None:
        """`urgent`: somebody waits for it."""
        with self._changed:
            self._waiting.append(order)
            if urgent or len(self._waiting) == 1:
                self._urgent = self._urgent or urgent
                self._changed.notify()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def abandon(self) -> list[Order]:
        """Nothing more will come, or be taken; what has waited."""
        with self._changed:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
            return left

    def take(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Order]:
        """At most `limit`: after `wait_seconds` none; the first waits `gather_seconds` for others unless one is urgent."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(wait_seconds)
            if self._waiting and not (self._closed or self._urgent or len(self._waiting) >= limit):
                self._changed.wait(gather_seconds)
            taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
            if not self._waiting:
                self._urgent = False
            return taken
