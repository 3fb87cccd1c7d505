"""The limits one request to one program is held to, and the rates of all its requests. There is no "unlimited"."""

from __future__ import annotations

from dataclasses import dataclass, fields

KIB = 1 << 10
MIB = 1 << 20
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a generator's output, log and calls may flow, or those of a whole site together; each a second."""

    output_bytes: int
    log_bytes: int
    edge_calls: int
    """Other than `fetch`."""
    sub_requests: int
    burst_ns: int
    """What passes at once after a pause: as much as the rate allows in this time, and at least one."""


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
    # What follows has defaults: programs that were stored before there were rates name none.
    output_rate: int = 128 * MIB
    """Bytes of output a second, of all requests together; what is above waits, and its VM with it."""
    log_rate: int = MIB
    """Bytes of log a second; what is above is dropped and counted."""
    edge_call_rate: int = 10_000
    """Edge calls other than `fetch` a second; what is above waits."""
    sub_request_rate: int = 1_000
    """`fetch` calls a second; what is above waits."""
    rate_burst_ns: int = SECOND_NS
    """After a pause, as much passes at once as each rate allows in this time, in nanoseconds."""
    cpu_share: int = 100
    """Percent of one CPU that it never exceeds; 100 is all that one vCPU can use."""

    @property
    def rates(self) -> Rates:
        return Rates(self.output_rate, self.log_rate, self.edge_call_rate, self.sub_request_rate, self.rate_burst_ns)

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
DEFAULT_RATES = DEFAULT_LIMITS.rates
"""Of a site whose operator names none."""
