"""Which idle worker goes, and who waits, so that hot memory never exceeds its budget: values in, decisions out.

No process is known here, no clock, no I/O: sizes are bytes, times are seconds of one clock. A generator that is only registered
costs nothing here: what is hot, that is mapped in a worker, counts. Called by `worker_pool.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hot:
    """One lane whose worker is alive."""

    name: str
    tenant: str
    hot_bytes: int
    busy: bool
    """Holds a request: it cannot be parked."""
    last_used: float


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Hot memory: of all workers together, and of one site's."""

    host_bytes: int
    site_bytes: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Go on, after parking these, in this order."""

    park: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be parked in exchange yet: what is busy must end first."""

    own_site: bool
    """The obstacle is the tenant's own budget: nobody else has to wait behind it."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """It fits no empty host, or no empty site: waiting would not help."""

    reason: str


Decision = Admit | Wait | Refuse


def admit(hot: Iterable[Hot], tenant: str, need_bytes: int, budget: MemoryBudget) -> Decision:
    """What to do with a tenant's wish for `need_bytes` more hot memory. Parks least recently used first, and only as needed."""
    for name, bound in (("site", budget.site_bytes), ("host", budget.host_bytes)):
        if need_bytes > bound:
            return Refuse(f"it needs {need_bytes} bytes of hot memory; the {name}'s budget is {bound}")
    held = tuple(hot)
    site_over = sum(lane.hot_bytes for lane in held if lane.tenant == tenant) + need_bytes - budget.site_bytes
    host_over = sum(lane.hot_bytes for lane in held) + need_bytes - budget.host_bytes
    parked: list[str] = []
    # The site's own first: what it gives back counts for the host, too.
    for lane in sorted((lane for lane in held if not lane.busy), key=lambda lane: (lane.last_used, lane.name)):
        if lane.tenant == tenant and site_over > 0:
            parked.append(lane.name)
            site_over -= lane.hot_bytes
            host_over -= lane.hot_bytes
    for lane in sorted((lane for lane in held if not lane.busy), key=lambda lane: (lane.last_used, lane.name)):
        if host_over > 0 and lane.name not in parked:
            parked.append(lane.name)
            host_over -= lane.hot_bytes
    if site_over > 0 or host_over > 0:
        return Wait(own_site=site_over > 0)
    return Admit(tuple(parked))
