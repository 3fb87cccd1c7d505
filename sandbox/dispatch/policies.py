"""How the monitor behaves: every number that an operator may want to change, with its default.

Frozen values only. Who starts a `Monitor` makes one MonitorPolicy; its parts read theirs.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field

from sandbox.dispatch.quarantine import QuarantinePolicy
from sandbox.jail import JailPolicy
from sandbox.limits import KIB, MILLISECOND_NS, SECOND_NS
from sandbox.pages.footprint import physical_bytes


class Isolation(enum.StrEnum):
    """Whose programs may meet in one worker process."""

    SITE = "site"
    """One tenant's."""
    GENERATOR = "generator"
    """One program each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPolicy:
    """How many workers there are, and how much memory they keep."""

    max_workers: int = 64
    hot_bytes: int = physical_bytes() // 2
    """Memory of all workers together."""
    site_hot_bytes: int = physical_bytes() // 4
    """Memory of one tenant's workers."""
    idle_s: float = 60.0
    """A worker that nobody used for so long is ended."""
    turn_s: float = 1.0
    """How long a lane that is never idle may keep its worker when another lane waits for a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """How the dispatcher shares out the machine."""

    slots: int = len(os.sched_getaffinity(0))
    """Workers that run a slice at once. With more than there are CPUs the kernel would decide who runs."""
    slice_ns: int = 5 * MILLISECOND_NS
    round_ns: int = 50 * MILLISECOND_NS
    """Where more generators compete than a round of full slices serves in this time, slices are shorter in proportion."""
    least_slice_ns: int = MILLISECOND_NS
    """But no shorter: what the monitor does for each slice would become a large part of it."""
    least_charge_ns: int = MILLISECOND_NS // 10
    """What a slice counts at least against its generator's share: more than the monitor itself needs for one."""
    credit_ns: int = 10 * MILLISECOND_NS
    """How far a generator that wakes may lie behind its share: so much CPU time it gets before others."""
    express: int = 1
    """Slices beyond `slots` at once, half as long, for generators that wake with credit for a whole one: they need not wait for a
    slice of others to end."""
    undelivered_bytes: int = 256 * KIB
    """A request whose reader lags behind by more gets no slice."""
    reader_s: float = 300.0
    """A request whose reader takes nothing for so long is cancelled."""
    edge_call_s: float = 10.0
    hang_cpu_ns: int = SECOND_NS // 2
    """CPU time beyond its slice after which a worker that does not report is killed."""
    hang_wall_s: float = 10.0
    """Time after which a worker that does not report is killed, also when it used no CPU."""
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    quarantine: QuarantinePolicy = field(default_factory=QuarantinePolicy)

    @property
    def most_at_once(self) -> int:
        """Slices, express ones included."""
        return self.slots + self.express

    @property
    def floor_ns(self) -> int:
        """What each slice is charged in any case."""
        return min(self.least_charge_ns, self.slice_ns)

    @property
    def express_slice_ns(self) -> int:
        return self.slice_ns // 2

    def slice_for(self, competing: int) -> int:
        """Nanoseconds of the next slice while so many generators want CPU. Pure."""
        fair_ns = self.round_ns * self.slots // max(1, competing)
        return min(self.slice_ns, max(self.least_slice_ns, fair_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorPolicy:
    """All of it."""

    engine: str = "auto"
    isolation: Isolation = Isolation.SITE
    jail: JailPolicy = field(default_factory=JailPolicy)
    dispatch: DispatchPolicy = field(default_factory=DispatchPolicy)
    verifications: int = 1
    """Verifications at once; more wait."""
