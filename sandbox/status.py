"""What the monitor tells about itself: frozen values, for status pages and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox.jail import JailReport
from sandbox.outcome import End, Outcome


@dataclass(frozen=True, slots=True)
class WorkerStatus:
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


@dataclass(frozen=True, slots=True)
class MonitorStatus:
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
    jail: JailReport = field(default_factory=lambda: JailReport((), ()))
    """Of the worker that was tried at start: what holds also while there is none."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A program that loads, boots and answers a sample request."""

    boot: Outcome
    sample: Outcome
    output_head: bytes
    """The first 64 KiB of the sample's answer."""
