"""What the monitor tells about itself: frozen values, for status pages and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox.dispatch.ledger import NOTHING, Allocation
from sandbox.jail import JailReport
from sandbox.outcome import End, Outcome


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One living worker."""

    pid: int
    lane: str
    """Whose it is: a tenant, or with isolation by generator a tenant and a key."""
    jail: JailReport
    generators: int
    """Programs loaded."""
    calls: int
    """Requests that hold a VM."""
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class GeneratorStatus:
    """One registered program, with counts since its registration."""

    key: str
    tenant: str
    weight: int
    calls: int
    """Requests accepted or refused since registration."""
    ends: Mapping[End, int]
    cpu_ns: int
    queued: int
    active: int
    """Requests that hold a VM."""
    vms: int
    """VMs that exist: active and warm."""
    quarantined_s: float
    """Seconds until it may run again; 0 when it may."""
    cap: int | None = None
    """Percent of one CPU; None: none."""
    delayed: int = 0
    """How often output, an edge call or a sub-request had to wait for its rate."""
    log_dropped_bytes: int = 0
    """Log dropped because it came faster than its rate."""
    allocation: Allocation = NOTHING
    """Of the CPU time given out in the last ten seconds: promised and received."""


@dataclass(frozen=True, slots=True)
class ShareStatus:
    """A cluster, or a tenant in its cluster."""

    name: str
    weight: int
    cap: int | None
    cpu_ns: int
    allocation: Allocation
    cluster: str = ""
    """Of a tenant."""


@dataclass(frozen=True, slots=True)
class MonitorStatus:
    """Everything, as of one moment."""

    workers: tuple[WorkerStatus, ...]
    generators: tuple[GeneratorStatus, ...]
    workers_started: int
    workers_lost: int
    """Workers that died or were killed for what they did; evicted ones are not counted."""
    hot_bytes: int = 0
    """Memory of all workers, pages that they share counted once."""
    hot_budget_bytes: int = 0
    parked: int = 0
    """Idle workers that were ended to make room in the memory budget."""
    engine: str = ""
    """What runs the VMs: never `auto`, but what that found."""
    clusters: tuple[ShareStatus, ...] = ()
    tenants: tuple[ShareStatus, ...] = ()
    """Those that have something registered."""
    jail: JailReport = field(default_factory=lambda: JailReport((), ()))
    """Of the worker that was tried at start: what holds also while there is none."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A program that loads, boots and answers a sample request."""

    boot: Outcome
    sample: Outcome
    output_head: bytes
    """The first 64 KiB of the sample's answer."""
