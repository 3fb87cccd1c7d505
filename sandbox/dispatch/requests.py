"""A request's life outside of its slices: taken in or refused, waiting for its reader, its rate or an edge call, and ended.

Synchronous state and callbacks on one event loop; the only tasks are edge calls. Who gets slices is `dispatcher.py`'s business,
which is told when a request may go on. Called by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, assert_never

from sandbox.call import EdgeCalls, GuestCall, refused
from sandbox.channel import wire
from sandbox.dispatch.deadlines import Deadlines
from sandbox.dispatch.edge import answer_in_turn
from sandbox.dispatch.lane import Generator, Job, JobState, Lane
from sandbox.dispatch.pacer import Pacer
from sandbox.dispatch.pacing import Flow
from sandbox.dispatch.policies import DispatchPolicy
from sandbox.dispatch.tasks import Tasks
from sandbox.limits import SECOND_NS
from sandbox.outcome import End, Outcome, Usage
from sandbox.request import GuestRequest

_log = logging.getLogger(__name__)


class Mover(Protocol):
    """Who gives slices."""

    def refresh(self, generator: Generator) -> None:
        """What the generator wants may have changed."""

    def settle(self, lane: Lane) -> None:
        """Something in this lane ended: drop what only waited for that."""

    def pump(self) -> None:
        """Somebody may be able to run."""


class Requests:
    """All requests of one monitor. What it changes in a generator, `mover` is told."""

    def __init__(self, policy: DispatchPolicy, clock: Callable[[], float], tasks: Tasks, mover: Mover) -> None:
        self._policy = policy
        self._clock = clock
        self._tasks = tasks
        self._mover = mover
        self._loop = asyncio.get_running_loop()
        self._serial = 0
        self.pacer = Pacer(self._drained)
        self._deadlines = Deadlines(self._wall)
        self._on_read, self._on_close = self._read, self._closed_by_reader
        self._on_output, self._on_log = self.pacer.output, self.pacer.log

    def call(self, generator: Generator, request: GuestRequest, edge: EdgeCalls, log: Callable[[bytes], None]) -> GuestCall:
        """Take a request in; one that is refused has ended already. `log` is handed what the guest logs."""
        now = self._clock()
        generator.calls += 1
        refusal = None
        if generator.record.holds(now):
            refusal = End.QUARANTINED, f"for {generator.record.until - now:.1f} s"
        elif not generator.room:
            refusal = End.QUEUE_FULL, f"{generator.limits.queue} requests wait"
        if refusal is not None:
            generator.count(refusal[0])
            return refused(generator.key, *refusal)
        self._serial += 1
        started = self._loop.time()
        call = Job(self._serial, generator, request, edge=edge, log=log, now=started)
        call.on_read, call.on_close = self._on_read, self._on_close
        call.on_output, call.on_log = self._on_output, self._on_log
        self._deadlines.add(call, generator.limits.wall_ns)
        generator.queue.append(call)
        lane = generator.lane
        lane.astir.add(generator)
        lane.last_used = started
        self._mover.refresh(generator)
        self._mover.pump()
        return call

    def end(self, call: Job, outcome: Outcome) -> None:
        """End a request from this side, wherever it is; its VM is discarded."""
        generator = call.generator
        was = call.state
        self.finish(call, outcome)
        match was:
            case JobState.QUEUED:
                generator.queue.remove(call)
            case JobState.RUNNING:
                return  # its slice is out; the report finds it ended
            case JobState.READY | JobState.CALLING | JobState.STALLED | JobState.PACED:
                if was is JobState.READY:
                    generator.ready.remove(call)
                self._give_up(generator, call)
            case JobState.ENDED:
                return
            case _:
                assert_never(was)
        self._mover.refresh(generator)
        self._mover.settle(generator.lane)
        self._mover.pump()

    def finish(self, call: Job, outcome: Outcome) -> None:
        """The one place where a request ends."""
        if call.outcome is not None:
            return
        generator = call.generator
        self._deadlines.drop(call, generator.limits.wall_ns)
        self.pacer.drop(call)
        self.pacer.own_up(call)
        call.finish(outcome, self._loop.time())
        generator.count(outcome.end)
        if call.wall_timer is not None:
            call.wall_timer.cancel()
            call.wall_timer = None
        if call.edge_task is not None:
            call.edge_task.cancel()
            call.edge_task = None

    def _give_up(self, generator: Generator, call: Job) -> None:
        generator.give_back(call)
        generator.lane.tell(wire.Abort(call.number))

    def _read(self, call: Job) -> None:
        if call.state is JobState.STALLED and call.undelivered <= self._policy.undelivered_bytes // 2:
            call.stalled_s += self._loop.time() - call.stalled_since
            self._make_ready(call)

    def _closed_by_reader(self, call: Job) -> None:
        self.end(call, Outcome(End.CANCELLED, call.usage))

    def _wall(self, call: Job) -> None:
        """The deadline, put off by as long as the reader kept us waiting."""
        limit_ns = call.generator.limits.wall_ns
        now = self._loop.time()
        stalled_s = call.stalled_s + (now - call.stalled_since if call.state is JobState.STALLED else 0.0)
        left_s = call.started + limit_ns / SECOND_NS + stalled_s - now
        if left_s > 0 or call.state is JobState.STALLED:
            call.wall_timer = self._loop.call_later(max(left_s, 0.01), self._wall, call)
            return
        self.end(call, Outcome(_late(call), call.usage, f"{limit_ns / SECOND_NS:g} s"))

    def _drained(self, call: Job) -> None:
        """Its output has passed at its rate."""
        if call.closing is not None:
            self.finish(call, call.closing)
        elif call.state is JobState.PACED:
            self._make_ready(call)

    def _make_ready(self, call: Job) -> None:
        """It wants its next slice, unless its output is still on its way, or nobody reads it."""
        generator = call.generator
        self.wait_or_ready(call)
        self._mover.refresh(generator)
        self._mover.pump()

    def wait_or_ready(self, call: Job) -> None:
        if call.held:
            call.state = JobState.PACED
        elif call.undelivered > self._policy.undelivered_bytes:
            call.state = JobState.STALLED
            call.stalled_since = self._loop.time()
        else:
            call.state = JobState.READY
            call.generator.ready.append(call)

    def unusable(self, generator: Generator, outcome: Outcome) -> None:
        """It cannot take requests: those that wait learn why."""
        self.fail_queue(generator, outcome)
        self.note(generator, outcome.end)

    def note(self, generator: Generator, end: End) -> None:
        now = self._clock()
        if generator.record.note(end, now):
            seconds = generator.record.until - now
            _log.warning("generator %s is quarantined for %.0f s: it keeps failing (%s)", generator.key, seconds, end)
            self.fail_queue(generator, Outcome(End.QUARANTINED, Usage(), f"for {seconds:.1f} s"))

    def fail_queue(self, generator: Generator, outcome: Outcome) -> None:
        while generator.queue:
            self.finish(generator.queue.pop(0), outcome)

    def ask_edge(self, call: Job, wanted: wire.WantsAnswer) -> None:
        """The guest waits for an edge call."""
        call.state = JobState.CALLING
        flow = Flow.SUB_REQUESTS if wanted.kind == "fetch" else Flow.EDGE_CALLS
        answering = answer_in_turn(
            lambda: self.pacer.turn(call.generator, flow),
            call.edge,
            wanted,
            self._policy.edge_call_s,
            lambda answer: self._answered(call, answer),
        )
        call.edge_task = self._tasks.start(answering)

    def close(self) -> None:
        """End what is only on its way to its reader."""
        for call in tuple(self.pacer.waiting):
            self.finish(call, Outcome(End.CANCELLED, Usage(), "the monitor is closing"))
        self.pacer.close()
        self._deadlines.close()

    def _answered(self, call: Job, answer: int | bytes) -> None:
        call.edge_task = None
        if call.state is JobState.CALLING:
            call.answer = answer
            self._make_ready(call)


def _late(call: Job) -> End:
    """Why a request has not been answered within its time."""
    lane = call.generator.lane
    waits_for_worker = call.state is JobState.QUEUED and lane.worker is None
    return End.NO_MEMORY if waits_for_worker and lane.short_of_memory else End.WALL_LIMIT
