"""How a request to a guest ends, in the words that logs, metrics, `Cache-Status` and tests share.

`Usage` and `Outcome` are msgspec structs, several of each for every request: made and sent in a tenth of a dataclass's time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec.structs import replace

MAX_NUMBER: Final = 1 << 50
"""More nanoseconds, bytes or calls than a request can take: its limits end it long before."""
MAX_UNKNOWN: Final = 16
"""Numbers of unknown system calls that are kept."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""What a worker tells is hostile: a number outside is refused as it is decoded."""


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

    __hash__ = str.__hash__  # Enum's own is written in Python, and ends are counted for every request


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


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """What a request has used so far. Times in nanoseconds, sizes in bytes."""

    cpu_ns: Count = 0
    wall_ns: Count = 0
    output_bytes: Count = 0
    log_bytes: Count = 0
    log_dropped_bytes: Count = 0
    edge_calls: Count = 0
    sub_requests: Count = 0
    system_calls: Count = 0
    unknown_calls: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_UNKNOWN)] = ()
    """Numbers of the system calls answered with ENOSYS, each once."""
    pages_written: Count = 0

    def completed(self, wall_ns: int, dropped_bytes: int) -> Usage:
        """With its wall time, and with log that its worker counts as sent and the monitor has dropped counted as dropped."""
        if not dropped_bytes:
            return replace(self, wall_ns=wall_ns)
        log_bytes, log_dropped_bytes = max(0, self.log_bytes - dropped_bytes), self.log_dropped_bytes + dropped_bytes
        return replace(self, wall_ns=wall_ns, log_bytes=log_bytes, log_dropped_bytes=log_dropped_bytes)


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """The end of one request."""

    end: End
    usage: Usage
    detail: str = ""
    """One line for the owner of the program: the fault, the limit's value, the exit status."""

    @property
    def ok(self) -> bool:
        return self.end is End.FINISHED
