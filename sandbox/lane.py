"""What belongs together in the dispatcher: a generator's queue and counters, and the lane in which its worker runs.

State with small methods that keep it consistent; who runs next and what messages mean is `dispatcher.py`'s business.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox import wire
from sandbox.call import GuestCall, State
from sandbox.handle import WorkerHandle
from sandbox.limits import Limits
from sandbox.nodes import Path
from sandbox.outcome import End, Outcome
from sandbox.policies import Isolation
from sandbox.program import Program
from sandbox.quarantine import Record

if TYPE_CHECKING:
    from sandbox.pacer import Way
    from sandbox.pacing import Flow

__all__ = ["Generator", "Isolation", "Lane", "Running", "Stage"]


class Stage(enum.Enum):
    """How far a worker is with a program."""

    LOADED = "loaded"
    """It must boot before it can take requests."""
    SERVING = "serving"


@dataclass(slots=True)
class Running:
    """The slice that a worker has been given and not yet answered."""

    generator: Generator
    call: GuestCall | None
    """None while loading and booting."""
    since: float
    cpu_ns: int
    """The worker's CPU clock from where on its time is for the generator's account."""
    slice_ns: int
    output_bytes: int = 0
    """What its request had sent before."""


class Generator:
    """One registered program: requests that wait, requests that hold a VM, and counters."""

    def __init__(
        self, key: str, number: int, program: Program, limits: Limits, *, path: Path, weight: int, lane: Lane, record: Record
    ) -> None:
        self.key = key
        self.number = number
        self.program = program
        self.limits = limits
        self.weight = weight
        self.lane = lane
        self.record = record
        self.path = path
        """Of its share: tenant, and a name that is never used again."""
        self.queue: deque[GuestCall] = deque()
        self.ready: deque[GuestCall] = deque()
        self.active: set[GuestCall] = set()
        """Requests that hold a VM, whatever their state."""
        self.boot: Outcome | None = None
        """How its last boot ended."""
        self.boot_slices_ns = 0
        """CPU time that its boot has been given, in slices."""
        self.warm = 0
        self.calls = 0
        self.ends: Counter[End] = Counter()
        self.cpu_ns = 0
        self.ways: dict[Flow, Way] = {}
        """The pacer's: where what it sends, logs and asks for passes; made when something first does."""
        self.delayed = self.log_dropped_bytes = self.log_untold_bytes = 0
        """How often something waited for its rate; log dropped for its rate, and how much of that the log does not say yet."""

    @property
    def room(self) -> bool:
        """Whether one more request may be queued."""
        return len(self.queue) < self.limits.queue + max(0, self.limits.vms - len(self.active))

    @property
    def may_start(self) -> bool:
        return bool(self.queue) and len(self.active) < self.limits.vms and not self.lane.draining

    @property
    def wants_cpu(self) -> bool:
        return bool(self.ready) or self.may_start

    @property
    def idle(self) -> bool:
        return not self.queue and not self.active

    def next_call(self) -> GuestCall:
        """The request that runs next; one out of the queue holds a VM from here on."""
        if self.ready:
            return self.ready.popleft()
        call = self.queue.popleft()
        self.active.add(call)
        self.warm = max(0, self.warm - 1)
        return call

    def requeue(self, call: GuestCall) -> None:
        """Back to the head of the queue, for another worker to begin from the start."""
        call.retried = True
        call.state = State.QUEUED
        call.answer = None
        self.queue.appendleft(call)
        self.lane.astir.add(self)


class Lane:
    """Generators that share a worker, and that worker while there is one."""

    def __init__(self, name: str, tenant: str) -> None:
        self.name = name
        self.tenant = tenant
        self.generators: dict[Path, Generator] = {}
        self.astir: set[Generator] = set()
        """Those that may hold requests; who queues one adds its generator. A lane has thousands, of which few are at work."""
        self.retired: set[Generator] = set()
        """Take no new requests, and go with their last one."""
        self.worker: WorkerHandle | None = None
        self.spawning = False
        self.draining = False
        """Starts no further requests: another lane waits for the worker's place."""
        self.short_of_memory = False
        """Waits for a worker because the memory budget has no room."""
        self.stages: dict[int, Stage] = {}
        self.running: Running | None = None
        self.last: Generator | None = None
        """Who had the last slice, if the worker has done nothing since but to reset its VM: that, too, is for its account."""
        self.clock_ns = 0
        """The worker's CPU clock at the end of that slice."""
        self.last_used = self.held_since = 0.0
        self.hot_bytes = 0
        """What its worker takes: expected while it starts, measured afterwards."""
        self.measured = 0.0
        """When `proportional_bytes`, and beside it `resident_bytes`, were read from the kernel; 0 before."""
        self.proportional_bytes = self.resident_bytes = 0

    @property
    def busy(self) -> bool:
        """Whether anybody would notice if the worker went."""
        return self.running is not None or bool(self.holding())

    @property
    def drained(self) -> bool:
        return self.running is None and not any(generator.active for generator in self.astir)

    @property
    def queued(self) -> bool:
        return any(generator.queue for generator in self.astir)

    def holding(self) -> tuple[Generator, ...]:
        """The generators that hold requests, queued or active."""
        self.astir = {generator for generator in self.astir if not generator.idle}
        return tuple(self.astir)

    def running_ns(self, generator: Generator) -> int:
        """CPU time that the generator has used of a slice which is not over."""
        if self.worker is None or self.running is None or self.running.generator is not generator:
            return 0
        return max(0, self.worker.cpu_ns() - self.running.cpu_ns)

    def clock(self, generator: Generator) -> int:
        """From where on the worker's CPU time is for the generator's account, which gets the next slice."""
        if self.last is generator or self.worker is None:
            return self.clock_ns
        return self.worker.cpu_ns()

    def slice_over(self) -> int:
        """The worker is free again. Nanoseconds of its CPU time that are for the account of who had the slice."""
        running, self.running = self.running, None
        if running is None or self.worker is None:
            return 0
        self.last, self.clock_ns = running.generator, self.worker.cpu_ns()
        return max(0, self.clock_ns - running.cpu_ns)

    def tell(self, message: wire.Abort | wire.Unload) -> None:
        """Something that the worker does beside slices: nobody pays for it."""
        if self.worker is not None:
            self.last = None
            self.worker.send(message)

    def detach(self) -> WorkerHandle | None:
        """Forget the worker and everything that was in it."""
        worker, self.worker = self.worker, None
        self.stages.clear()
        self.running = self.last = None
        self.draining = False
        self.hot_bytes = 0
        for generator in self.generators.values():
            generator.warm = 0
        return worker

    def active_calls(self) -> Iterator[GuestCall]:
        for generator in tuple(self.astir):
            yield from tuple(generator.active)
