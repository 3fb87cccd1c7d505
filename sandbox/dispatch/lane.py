"""What belongs together in the dispatcher: requests, the generators in whose queues they stand, and the lane of their worker.

State with small methods that keep it consistent; who runs next and what messages mean is `dispatcher.py`'s business.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from sandbox.call import EdgeCalls, GuestCall
from sandbox.channel import wire
from sandbox.dispatch import reports
from sandbox.dispatch.handle import WorkerHandle
from sandbox.dispatch.pacing import Flow, Ticket
from sandbox.dispatch.quarantine import Score
from sandbox.dispatch.tab import Tab
from sandbox.dispatch.timed_shaper import Way
from sandbox.limits import Limits
from sandbox.outcome import End, Outcome, Usage
from sandbox.program import Program
from sandbox.queueing.nodes import NodePath
from sandbox.queueing.sharenode import Node
from sandbox.request import GuestRequest

_log = logging.getLogger(__name__)


class Stage(enum.Enum):
    """How far a worker is with a program."""

    LOADED = "loaded"
    """It must boot before it can take requests."""
    SERVING = "serving"


class JobState(enum.Enum):
    """Where a request stands."""

    QUEUED = "queued"
    READY = "ready"
    """Holds a VM and wants its next slice."""
    RUNNING = "running"
    CALLING = "calling"
    """Waits for the answer to an edge call."""
    STALLED = "stalled"
    """Waits for its reader."""
    PACED = "paced"
    """Waits until its output has passed at the rate it may have; its VM may be done."""
    ENDED = "ended"


class Running:
    """The slice that a worker has been given and not yet answered."""

    __slots__ = ("began_ns", "call", "cpu_ns", "generator", "output_bytes", "since", "slice_ns")

    def __init__(self, generator: Generator, since: float, cpu_ns: int, slice_ns: int) -> None:
        self.generator = generator
        self.call: Job | None = None
        """None while loading and booting."""
        self.since = since
        self.began_ns = time.monotonic_ns()
        self.cpu_ns = cpu_ns
        """The worker's CPU clock from where on its time is for the generator's account, and for those on the tab."""
        self.slice_ns = slice_ns
        self.output_bytes = 0
        """What its request had sent before."""


class Job(GuestCall):
    """A request as the dispatcher sees it: whose it is, where it stands, and what it has used."""

    def __init__(
        self,
        number: int,
        generator: Generator,
        request: GuestRequest,
        *,
        edge: EdgeCalls,
        log: Callable[[bytes], None],
        now: float,
    ) -> None:
        super().__init__(number, generator.key)
        self.generator = generator
        self.request = request
        self.edge = edge
        self.log = log
        self.started = now
        self.state = JobState.QUEUED
        self.retried = False
        self.output_bytes = self.log_bytes = self.log_dropped_bytes = self.edge_calls = self.sub_requests = 0
        self.slices_ns = 0
        """CPU time that it has been given, in slices that were used up."""
        self.answer: int | bytes | None = None
        """For the edge call that the guest waits for."""
        self.edge_task: asyncio.Task[None] | None = None
        self.wall_timer: asyncio.TimerHandle | None = None
        """While its deadline is put off."""
        self.stalled_since = self.stalled_s = 0.0
        self.on_read: Callable[[Job], None] | None = None
        """Told when a stalled request's reader takes something."""
        self.on_close: Callable[[Job], None] | None = None
        self.on_output: Callable[[Job, bytes], None] = Job.deliver
        self.on_log: Callable[[Job, bytes], None] = Job.tell
        self.held: deque[memoryview] = deque()
        """Output that waits to be delivered at its rate."""
        self.ticket: Ticket | None = None
        """Its place in line, while there is any."""
        self.closing: Outcome | None = None
        """How it ends once `held` is delivered."""

    def __repr__(self) -> str:
        return f"<Job {self.number} of {self.key}: {self.outcome.end if self.outcome else self.state.value}>"

    @property
    def usage(self) -> Usage:
        """What is known on this side, for a request that its worker does not end."""
        return Usage(
            output_bytes=self.output_bytes,
            log_bytes=self.log_bytes,
            edge_calls=self.edge_calls,
            sub_requests=self.sub_requests,
        )

    def admit(self, report: wire.CallSlice) -> None:
        """Count what a worker reports and hand it on.

        Raises WireError when it is past a limit: the machine would have ended the request, so this worker is no longer ours.
        """
        limits = self.generator.limits
        self.admit_output(report.output)
        if report.log:
            self.log_bytes += len(report.log)
            if self.log_bytes > limits.log_bytes:
                raise wire.WireError("more log than the limit allows")
            self.on_log(self, report.log)
        event = report.event
        if type(event) is wire.WantsAnswer:
            reports.check_asked(event)
            self.edge_calls += 1
            self.sub_requests += event.kind == "fetch"
            if self.edge_calls > limits.edge_calls or self.sub_requests > limits.sub_requests:
                raise wire.WireError("more edge calls than the limits allow")

    def admit_piece(self, output: bytes) -> None:
        """Part of a large output. Raises WireError, as `admit`, and for a part of any size but a whole piece's.

        A worker that was taken over could otherwise send millions of tiny pieces within one slice.
        """
        if len(output) != wire.OUTPUT_PIECE_BYTES:
            raise wire.WireError(f"a piece of {len(output)} bytes")
        self.admit_output(output)

    def admit_output(self, output: bytes) -> None:
        """Output has come. Raises WireError, as `admit`."""
        if not output:
            return
        if self.output_bytes + len(output) > self.generator.limits.output_bytes:
            raise wire.WireError("more output than the limit allows")
        self.output_bytes += len(output)
        if self.outcome is None:
            self.on_output(self, output)

    def tell(self, log: bytes) -> None:
        """Hand a piece of log to whoever takes it."""
        try:
            self.log(log)
        except Exception:
            _log.exception("the log receiver of %r failed", self)

    def finish(self, outcome: Outcome, now: float) -> None:
        """It is over. Times and sizes are filled in as seen from here."""
        wall_ns = max(0, int((now - self.started) * 1e9))
        self.state = JobState.ENDED
        self.end(Outcome(outcome.end, outcome.usage.completed(wall_ns, self.log_dropped_bytes), outcome.detail))

    def _taken(self) -> None:
        if self.state is JobState.STALLED and self.on_read is not None:
            self.on_read(self)

    def _given_up(self) -> None:
        if self.on_close is not None:
            self.on_close(self)


class Generator:
    """One registered program: requests that wait, requests that hold a VM, and counters."""

    def __init__(
        self, key: str, number: int, program: Program, limits: Limits, *, path: NodePath, weight: int, lane: Lane, record: Score
    ) -> None:
        self.key = key
        self.number = number
        self.program = program
        self.limits = limits
        self.weight = weight
        self.lane = lane
        self.record = record
        self.path = path
        """Its share's place in the tree: tenant, and a name that is never used again."""
        self.leaf: Node | None = None
        """That share's node, once it is in the tree: it is asked for at each slice."""
        # Lists, which are empty mostly: of one that has not been called for long, a deque is six memory accesses more.
        self.queue: list[Job] = []
        self.ready: list[Job] = []
        self.active: list[Job] = []
        """Requests that hold a VM, whatever their state; at most `limits.vms`."""
        self.stage: Stage | None = None
        """In the lane's worker; None while that does not know it."""
        self.boot: Outcome | None = None
        """How its last boot ended."""
        self.boot_slices_ns = 0
        """CPU time that its boot has been given, in slices."""
        self.warm = 0
        self.calls = self.finished = 0
        self.failed: Counter[End] = Counter()
        """How those ended that did not finish."""
        self.cpu_ns = 0
        self.owed_ns = 0
        """CPU time beyond what was charged for slices before it was known."""
        self.output_way: Way | None = None
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

    @property
    def ends(self) -> dict[End, int]:
        """How many of its requests ended how."""
        return ({End.FINISHED: self.finished} if self.finished else {}) | self.failed

    def count(self, end: End) -> None:
        """One of its requests has ended."""
        if end is End.FINISHED:
            self.finished += 1
        else:
            self.failed[end] += 1

    def give_back(self, call: Job) -> None:
        """It holds no VM any more. Harmless when it held none."""
        if call in self.active:
            self.active.remove(call)

    def next_call(self) -> Job:
        """The request that runs next; one out of the queue holds a VM from here on."""
        if self.ready:
            return self.ready.pop(0)
        call = self.queue.pop(0)
        self.active.append(call)
        self.warm = max(0, self.warm - 1)
        return call

    def requeue(self, call: Job) -> None:
        """Back to the head of the queue, for another worker to begin from the start."""
        call.retried = True
        call.state = JobState.QUEUED
        call.answer = None
        self.queue.insert(0, call)
        self.lane.astir.add(self)


class Lane:
    """Generators that share a worker, and that worker while there is one."""

    def __init__(self, name: str, tenant: str, floor_ns: int = 0) -> None:
        """`floor_ns`: what each slice is charged in any case."""
        self.name = name
        self.tenant = tenant
        self._floor_ns = floor_ns
        self.generators: dict[NodePath, Generator] = {}
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
        self.running: Running | None = None
        self.last: Generator | None = None
        """Who had the last slice, if the worker has done nothing since but to reset its VM: that, too, is for its account."""
        self.clock_ns = 0
        """The worker's CPU clock as it was last read: at the end of that slice, unless it is on the tab."""
        self._tab: Tab[Generator] = Tab()
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
        """The reading of the worker's CPU clock from which on time is charged to the generator, which gets the next slice, and to
        the tab."""
        if self.last is not generator and self._tab.empty and self.worker is not None:
            self.clock_ns = self.worker.cpu_ns()
        return self.clock_ns

    def slice_over(self) -> int:
        """The worker is free again. Returns nanoseconds of CPU time to charge to who had the slice; 0 while it is on the tab."""
        running, self.running = self.running, None
        if running is None or self.worker is None:
            return 0
        self.last = running.generator
        self._tab.add(running.generator, time.monotonic_ns() - running.began_ns)
        return self.settle_tab(running.generator) if self._tab.due else 0

    def settle_tab(self, now: Generator | None = None) -> int:
        """Read the worker's CPU clock for all who are on the tab: they owe what they have not been charged yet.

        Returns nanoseconds to charge to `now`, which has not been charged for its last slice at all.
        """
        if self.worker is None or self._tab.empty:
            return 0
        before_ns, self.clock_ns = self.clock_ns, self.worker.cpu_ns()
        charge_ns = 0
        for generator, used_ns, slices in self._tab.divide(max(0, self.clock_ns - before_ns)):
            generator.cpu_ns += used_ns
            if generator is now:
                charge_ns = max(0, used_ns - self._floor_ns * (slices - 1))
            else:
                generator.owed_ns += max(0, used_ns - self._floor_ns * slices)
        return charge_ns

    def tell(self, message: wire.Abort | wire.Unload) -> None:
        """Tell the worker to do something beside slices, which nobody pays for."""
        if self.worker is not None:
            if self.running is None:
                self.settle_tab()
            self.last = None
            self.worker.send(message)

    def detach(self) -> WorkerHandle | None:
        """Forget the worker and everything that was in it."""
        self.settle_tab()
        worker, self.worker = self.worker, None
        self.running = self.last = None
        self.draining = False
        self.hot_bytes = 0
        for generator in self.generators.values():
            generator.warm, generator.stage = 0, None
        return worker

    def active_calls(self) -> Iterator[Job]:
        for generator in tuple(self.astir):
            yield from tuple(generator.active)
