"""The limits one request to one program is held to. Every field is required: there is no "unlimited"."""

from __future__ import annotations

from dataclasses import dataclass, fields

KIB = 1 << 10
MIB = 1 << 20
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings for one generator's version; those marked (request) apply to each request alone."""

    cpu_ns: int
    """CPU time of the vCPU's thread, in nanoseconds (request)."""
    wall_ns: int
    """Time from being queued to the last byte, without the time a reader keeps us waiting, in nanoseconds (request)."""
    memory_bytes: int
    """Size of the guest's address space, a multiple of 4096 (VM)."""
    output_bytes: int
    """Bytes of the CGI-shaped answer, headers included (request)."""
    log_bytes: int
    """Bytes kept of what the guest logs; the rest is dropped and counted (request)."""
    edge_calls: int
    """Edge calls other than next_request and respond (request)."""
    sub_requests: int
    """`fetch` calls (request)."""
    system_calls: int
    """System calls of any kind (request): each costs the monitor work that the guest's own clock does not show."""
    boot_cpu_ns: int
    """CPU time until the first `next_request`, or for mapping a `cgi` program, in nanoseconds."""
    vms: int
    """VMs of this generator that may hold a request at once."""
    queue: int
    """Requests that may wait for a VM; one more is refused."""

    def exceeding(self, ceiling: Limits) -> tuple[str, ...]:
        """Names of the fields in which this is above `ceiling`."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) > getattr(ceiling, f.name))


DEFAULT_LIMITS = Limits(
    cpu_ns=50 * MILLISECOND_NS,
    wall_ns=2 * SECOND_NS,
    memory_bytes=64 * MIB,
    output_bytes=8 * MIB,
    log_bytes=64 * KIB,
    edge_calls=64,
    sub_requests=8,
    system_calls=100_000,
    boot_cpu_ns=1 * SECOND_NS,
    vms=4,
    queue=256,
)
"""What a manifest that names no limits gets."""
