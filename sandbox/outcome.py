"""How a request to a guest ends, in the words that logs, metrics, `Cache-Status` and tests share."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class End(enum.StrEnum):
    """Why a request ended. Everything but FINISHED is a failure of that request alone."""

    FINISHED = "finished"
    CPU_LIMIT = "cpu-limit"
    WALL_LIMIT = "wall-limit"
    MEMORY_LIMIT = "memory-limit"
    OUTPUT_LIMIT = "output-limit"
    EDGE_CALL_LIMIT = "edge-call-limit"
    SYSTEM_CALL_LIMIT = "system-call-limit"
    FAULT = "fault"
    NO_ANSWER = "no-answer"
    BAD_ANSWER = "bad-answer"
    """The answer is not CGI-shaped; told by whoever parses it, for the sandbox does not."""
    EXIT_STATUS = "exit-status"
    """A `cgi` program ended with a status other than 0."""
    QUEUE_FULL = "queue-full"
    NO_MEMORY = "no-memory"
    """The budget for workers' memory has no room for one more, and had none within the request's time."""
    QUARANTINED = "quarantined"
    WORKER_DIED = "worker-died"
    REJECTED = "rejected"
    """The program cannot be loaded: see `image.ImageError`."""
    BOOT_FAILED = "boot-failed"
    """The program ended or failed before it asked for its first request."""
    UNKNOWN_GENERATOR = "unknown-generator"
    CANCELLED = "cancelled"


class FaultKind(enum.StrEnum):
    """What a guest's vCPU did that cannot go on."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"
    """Fetching from a page that is absent or not executable."""
    PROTECTION = "protection"
    """#GP: privileged instruction, non-canonical address, bad selector."""
    INVALID_INSTRUCTION = "invalid-instruction"
    DIVIDE = "divide"
    FLOATING_POINT = "floating-point"
    INTERRUPT = "interrupt"
    """`int n`, `int3`, `into`, `sysenter`, port I/O: there is nobody to take it."""
    STACK = "stack"
    """A write to the guard page below the stack."""
    ENGINE = "engine"
    """The engine itself gave up on the guest."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A guest fault: its kind, the instruction's address and the address it touched (0 where there is none)."""

    kind: FaultKind
    rip: int
    address: int = 0

    def __str__(self) -> str:
        touched = f" of {self.address:#x}" if self.address else ""
        return f"{self.kind}{touched} at {self.rip:#x}"


class Usage(NamedTuple):
    """What a request has used so far. Times in nanoseconds, sizes in bytes."""

    cpu_ns: int = 0
    wall_ns: int = 0
    output_bytes: int = 0
    log_bytes: int = 0
    log_dropped_bytes: int = 0
    edge_calls: int = 0
    sub_requests: int = 0
    system_calls: int = 0
    unknown_calls: tuple[int, ...] = ()
    """Numbers of the system calls answered with ENOSYS, each once, at most 16."""
    pages_written: int = 0


class Outcome(NamedTuple):
    """The end of one request."""

    end: End
    usage: Usage
    detail: str = ""
    """One line for the owner of the program: the fault, the limit's value, the exit status."""

    @property
    def ok(self) -> bool:
        return self.end is End.FINISHED
