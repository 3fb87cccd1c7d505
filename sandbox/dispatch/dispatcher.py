"""The monitor's heart: the scheduler says who is next, workers get slices, their reports move requests on.

Synchronous state and callbacks on one event loop; the only tasks are edge calls and worker starts, which `close` awaits. What a
worker reports is checked against what it was asked and against the limits. A request's life outside of its slices is
`requests.py`'s. Called by `monitor.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, assert_never, cast

from sandbox.channel import wire
from sandbox.dispatch import reports
from sandbox.dispatch.lane import Generator, Job, JobState, Lane, Running, Stage
from sandbox.dispatch.policies import DispatchPolicy
from sandbox.dispatch.requests import Requests
from sandbox.dispatch.sharetree import ShareTree
from sandbox.dispatch.spawner import Spawner
from sandbox.dispatch.tasks import Tasks
from sandbox.dispatch.worker_pool import WorkerPool
from sandbox.limits import SECOND_NS
from sandbox.outcome import End, Outcome, Usage
from sandbox.queueing.sharenode import Node
from sandbox.scheduler import Scheduler
from sandbox.shares import DEFAULT_CLUSTER
from sandbox.vm import OUTPUT_PENDING_BYTES

_TIMER_SLACK_S = 0.000_1
"""A timer that fires a rounding error early would find nothing to do."""


def scheduler_for(policy: DispatchPolicy) -> Scheduler:
    """An empty tree. A leaf needs a whole slice's credit for an express one: by less the loops' turns let virtual time jump."""
    slice_ns = policy.slice_ns
    return Scheduler(quantum_ns=slice_ns, credit_ns=policy.credit_ns, floor_ns=policy.floor_ns, express_ns=slice_ns)


def _of(leaf: Node) -> Generator:
    """Raises TypeError for a node that `Dispatcher.add` has not made."""
    return cast("Generator", leaf.holder)


class Dispatcher:
    """Gives slices, and acts on what workers report. On one event loop; `close` before it ends."""

    def __init__(self, spawner: Spawner, policy: DispatchPolicy, engine: str, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._slice_ns, self._express, self._floor_ns = policy.slice_ns, policy.express, policy.floor_ns
        self._roomy = policy.round_ns * policy.slots // policy.slice_ns
        """So many generators may compete for full slices."""
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._free = policy.slots
        """Negative while express slices run."""
        self._closed = False
        self.pool = WorkerPool(spawner, policy.pool, self._tasks, self)
        self.scheduler = scheduler_for(policy)
        self.shares = ShareTree(self.scheduler, policy.slots, policy.express)
        self.requests = Requests(policy, clock, self._tasks, self)
        self._pump_timer: asyncio.TimerHandle | None = None

    def add(self, generator: Generator, width: int, cluster: str = DEFAULT_CLUSTER) -> None:
        """Take a generator into its lane and into the share tree; a site that is not there yet goes into `cluster`.

        Raises ValueError for a bad weight, KeyError where there is no such cluster.
        """
        generator.leaf = self.shares.enter(generator.path, generator.weight, width, cluster)
        generator.leaf.holder = generator
        generator.lane.generators[generator.path] = generator
        self.pool.lanes[generator.lane.name] = generator.lane

    def retire(self, generator: Generator) -> None:
        """Forget a generator as soon as its requests have ended."""
        generator.lane.retired.add(generator)
        self.settle(generator.lane)

    def settle(self, lane: Lane) -> None:
        """Something in this lane ended: drop what only waited for that."""
        if lane.retired:
            for generator in [generator for generator in lane.retired if generator.idle]:
                self._drop(generator)
        self.pool.settle(lane)

    def _drop(self, generator: Generator) -> None:
        lane = generator.lane
        if lane.running is not None and lane.running.generator is generator:
            return
        if self.shares.leave(generator.path, self.now_ns()):
            self.requests.pacer.forget(generator.path[0])
        del lane.generators[generator.path]
        if generator.leaf is not None:
            generator.leaf.holder = None
        lane.retired.discard(generator)
        if not lane.generators:
            self.pool.forget(lane)
        elif lane.worker is not None and generator.stage is not None:
            generator.stage = None
            lane.tell(wire.Unload(generator.number))

    # Who runs.

    def refresh(self, generator: Generator) -> None:
        """Bring the scheduler's view of a generator up to date, and see to it that there is a worker for it."""
        leaf = generator.leaf
        if leaf is None or leaf.gone:
            return
        lane = generator.lane
        if lane.worker is None:
            self.scheduler.sleep(leaf)
            if generator.queue:
                self.pool.want(lane)
        elif generator.wants_cpu:
            self.scheduler.wake(leaf)
        else:
            self.scheduler.sleep(leaf)

    def now_ns(self) -> int:
        """The event loop's clock, which shares go by."""
        return int(self._loop.time() * SECOND_NS)

    def pump(self) -> None:
        """Give slices while there are slots and somebody may run."""
        while self._free > 0 and not self._closed:
            picked = self.scheduler.pick(self.now_ns())
            if picked is None:
                self._pump_later()
                return
            awake = self.scheduler.awake
            slice_ns = self._slice_ns if awake <= self._roomy else self._policy.slice_for(awake)
            self._give_slice(_of(picked), slice_ns)
        while self._free > -self._express and not self._closed:
            woken = self.scheduler.pick_express(self.now_ns())
            if woken is None:
                return
            self._give_slice(_of(woken), self._policy.express_slice_ns)

    def _pump_later(self) -> None:
        """A worker is free and somebody waits for no more than its cap: look again when that covers a slice."""
        release_ns = self.scheduler.next_release_ns()
        if self._pump_timer is not None:
            self._pump_timer.cancel()
            self._pump_timer = None
        if release_ns is not None:
            self._pump_timer = self._loop.call_at(release_ns / SECOND_NS + _TIMER_SLACK_S, self.pump)

    def _give_slice(self, generator: Generator, slice_ns: int) -> None:
        lane = generator.lane
        worker = lane.worker
        if worker is None:
            raise AssertionError("picked a generator that has no worker")
        self._free -= 1
        now = self._loop.time()
        running = lane.running = Running(generator, now, lane.clock(generator), slice_ns)
        lane.last_used = now
        match generator.stage:
            case None:
                running.slice_ns = SECOND_NS
                generator.boot_slices_ns = 0
                worker.load(generator.number, generator.program, generator.limits, self.engine)
            case Stage.LOADED:
                worker.send(wire.Boot(generator.number, slice_ns))
            case Stage.SERVING:
                call = running.call = generator.next_call()
                running.output_bytes = call.output_bytes
                was, call.state = call.state, JobState.RUNNING
                if was is JobState.QUEUED:
                    call.queued_s = now - call.started
                    worker.send(wire.Start(call.number, generator.number, call.request, slice_ns))
                else:
                    answer, call.answer = call.answer, None
                    worker.send(wire.Continue(call.number, slice_ns, answer))
            case stage:
                assert_never(stage)

    # What workers report.

    def worker_reported(self, lane: Lane, message: wire.FromWorker) -> None:
        running = lane.running
        if running is None or lane.worker is None:
            raise wire.WireError("a report that nobody asked for")
        generator, call = running.generator, running.call
        if type(message) is wire.CallSlice:  # for every slice, and quicker than isinstance
            if call is None or call.number != message.call:
                raise wire.WireError("a report about another request")
            event = message.event
            if type(event) is wire.Done:
                reports.check_end(event.outcome.end)
            call.admit(message)
            if type(event) is wire.WantsMore and call.output_bytes - running.output_bytes < OUTPUT_PENDING_BYTES:
                call.slices_ns += running.slice_ns
                reports.check_slices(call.slices_ns, generator.limits.cpu_ns)
            used_ns = self._slice_over(lane)
            self._call_slice(generator, call, event)
        else:
            match message:
                case wire.Piece():
                    if call is None or call.number != message.call:
                        raise wire.WireError("a report about another request")
                    call.admit_piece(message.output)
                    return
                case wire.BootSlice() | wire.Loaded() | wire.Rejected():
                    if call is not None or message.program != generator.number:
                        raise wire.WireError("a report about another program")
                    if isinstance(message, wire.BootSlice):
                        generator.boot_slices_ns += running.slice_ns
                        reports.check_slices(generator.boot_slices_ns, generator.limits.boot_cpu_ns)
                    used_ns = self._slice_over(lane)
                    self._program_slice(generator, message)
                case _:
                    raise wire.WireError(f"{type(message).__name__} out of turn")
        self.refresh(generator)
        self._charge(
            generator, used_ns, yielded=isinstance(message, wire.CallSlice) and not isinstance(message.event, wire.WantsMore)
        )
        self.settle(lane)
        self.pump()

    def _slice_over(self, lane: Lane) -> int:
        """The worker is free again. Nanoseconds of CPU time to charge, as far as it is known yet."""
        self._free += 1
        return lane.slice_over()

    def _charge(self, generator: Generator, used_ns: int, *, yielded: bool = False) -> None:
        """After the generator's wish has been brought up to date: who sleeps is charged in half the time."""
        if generator.owed_ns:
            used_ns, generator.owed_ns = max(used_ns, self._floor_ns) + generator.owed_ns, 0
        leaf = generator.leaf
        if leaf is not None and not leaf.gone:
            self.shares.charge(leaf, used_ns, self.now_ns(), yielded=yielded)

    def _program_slice(self, generator: Generator, message: wire.BootSlice | wire.Loaded | wire.Rejected) -> None:
        match message:
            case wire.Loaded(needs_boot=needs_boot):
                self._loaded(generator, Stage.LOADED if needs_boot else Stage.SERVING)
            case wire.Rejected(detail=detail):
                self.requests.unusable(generator, Outcome(End.REJECTED, Usage(), reports.presentable(detail)))
            case wire.BootSlice(outcome=outcome, booted=booted) if outcome is not None:
                generator.boot = outcome = reports.told(outcome)
                if booted:
                    self._loaded(generator, Stage.SERVING)
                else:
                    self.requests.unusable(generator, Outcome(End.BOOT_FAILED, outcome.usage, outcome.detail))

    def _call_slice(self, generator: Generator, call: Job, event: wire.WantsMore | wire.WantsAnswer | wire.Done) -> None:
        if call.outcome is not None:
            generator.give_back(call)
            if type(event) is not wire.Done:
                generator.lane.tell(wire.Abort(call.number))
            return
        match event:
            case wire.Done(outcome=outcome):
                generator.give_back(call)
                if outcome.end is End.FINISHED:
                    generator.warm = min(generator.warm + 1, generator.limits.vms - len(generator.active))
                if call.held and outcome.end is End.FINISHED:
                    call.state, call.closing = JobState.PACED, reports.told(outcome)
                else:
                    self.requests.finish(call, reports.told(outcome))
                self.requests.note(generator, outcome.end)
            case wire.WantsMore():
                self.requests.wait_or_ready(call)
            case wire.WantsAnswer():
                self.requests.ask_edge(call, event)
            case _:
                assert_never(event)

    def _loaded(self, generator: Generator, stage: Stage) -> None:
        generator.stage = stage
        if stage is Stage.SERVING and generator.boot is None:
            generator.boot = Outcome(End.FINISHED, Usage())

    # What happens to workers: `worker_pool.Crew`.

    def worker_changed(self, lane: Lane) -> None:
        # With the worker gone nobody may be picked any more, also who held a request a moment ago.
        for generator in lane.holding() if lane.worker is not None else tuple(lane.generators.values()):
            self.refresh(generator)
        self.pump()

    def worker_unavailable(self, lane: Lane, end: End, why: str) -> None:
        for generator in lane.holding():
            self.requests.fail_queue(generator, Outcome(end, Usage(), why))

    def worker_lost(self, lane: Lane, why: str) -> None:
        """One request is to blame at most; the others begin again elsewhere, once, if nothing of them has been sent."""
        running = lane.running
        if running is not None:
            self._charge(running.generator, self._slice_over(lane))
        calls = sorted(lane.active_calls(), key=lambda call: call.number, reverse=True)
        lane.detach()
        died = Outcome(End.WORKER_DIED, Usage(), why)
        for call in calls:
            generator = call.generator
            generator.give_back(call)
            if call.edge_task is not None:
                call.edge_task.cancel()
                call.edge_task = None
            if call.outcome is not None:
                continue
            blamed = running is not None and call is running.call
            if blamed or call.retried or call.output_bytes or generator in lane.retired:
                self.requests.finish(call, died)
            else:
                generator.requeue(call)
        if running is not None:
            if running.call is None:
                self.requests.fail_queue(running.generator, died)
            self.requests.note(running.generator, End.WORKER_DIED)
        for generator in tuple(lane.generators.values()):
            generator.ready.clear()
        self.worker_changed(lane)
        self.settle(lane)

    def sweep(self) -> None:
        """Kill workers that hang, cancel for readers that never read, end idle workers. To be called a few times a second."""
        now = self._loop.time()
        policy = self._policy
        for lane in self.pool.held:
            worker, running = lane.worker, lane.running
            if worker is None:
                continue
            for call in lane.active_calls():
                if call.state is JobState.STALLED and now - call.stalled_since > policy.reader_s:
                    self.requests.end(call, Outcome(End.CANCELLED, call.usage, "nobody reads the answer"))
            if running is None:
                lane.settle_tab()
            else:
                used_ns = worker.cpu_ns() - running.cpu_ns
                if used_ns > running.slice_ns + policy.hang_cpu_ns or now - running.since > policy.hang_wall_s:
                    worker.lose("it did not report at the end of its slice")
        self.pool.sweep(now)

    def settle_tabs(self) -> None:
        """Bring the CPU time of all who do not run up to date."""
        for lane in self.pool.held:
            if lane.running is None:
                lane.settle_tab()

    def close(self) -> Coroutine[Any, Any, None]:
        """End every request and worker; what is returned ends and awaits every task."""
        self._closed = True
        if self._pump_timer is not None:
            self._pump_timer.cancel()
        closing = Outcome(End.CANCELLED, Usage(), "the monitor is closing")
        for generator in [generator for lane in self.pool.lanes.values() for generator in lane.generators.values()]:
            self.requests.fail_queue(generator, closing)
            for call in tuple(generator.active):
                self.requests.finish(call, closing)
        self.requests.close()
        self.pool.close()
        return self._tasks.close()
