"""Which lanes have a worker: started on demand, ended when idle, handed on round robin when there are fewer places than lanes.

Knows lanes and processes; requests, slices and messages are `dispatcher.py`'s, which is told when a lane's worker is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Protocol

from sandbox.channel import wire
from sandbox.dispatch.budget import Admit, Hot, MemoryBudget, Refuse, Wait, admit
from sandbox.dispatch.lane import Lane
from sandbox.dispatch.policies import PoolPolicy
from sandbox.dispatch.spawner import Spawner
from sandbox.dispatch.tasks import Tasks
from sandbox.errors import JailError, WorkerLost
from sandbox.limits import MIB
from sandbox.outcome import End
from sandbox.pages.footprint import proportional_bytes, resident_bytes

_EXPECTED_BYTES = 32 * MIB
"""Of a worker before any has been measured."""
_MEASURING_SHARE = 0.01
"""Of the event loop's time: reading smaps_rollup walks a worker's page tables, some 10 ms for each GiB."""
_log = logging.getLogger(__name__)


class Crew(Protocol):
    """Who works with the workers."""

    def worker_changed(self, lane: Lane) -> None:
        """The lane has a worker, or has lost it without having used it."""

    def worker_unavailable(self, lane: Lane, end: End, why: str) -> None:
        """There will be no worker for those who wait: it could not be started (WORKER_DIED), or fits no budget (NO_MEMORY)."""

    def worker_reported(self, lane: Lane, message: wire.FromWorker) -> None:
        """Raises WireError when the report makes no sense: the worker is killed for it."""

    def worker_lost(self, lane: Lane, why: str) -> None:
        """The worker is dead; the lane still remembers what it was doing."""


class WorkerPool:
    """The workers of all lanes: started where requests wait, parked and ended to keep to the budget of memory."""

    def __init__(self, spawner: Spawner, policy: PoolPolicy, tasks: Tasks, crew: Crew) -> None:
        self._spawner = spawner
        self._policy = policy
        self._tasks = tasks
        self._crew = crew
        self._budget = MemoryBudget(policy.hot_bytes, policy.site_hot_bytes)
        self._expected_bytes = min(_EXPECTED_BYTES, policy.hot_bytes, policy.site_hot_bytes)
        self._waiting: dict[str, Lane] = {}
        """Lanes that want a worker while all places are taken, in the order in which they asked."""
        self._held: dict[str, Lane] = {}
        """Lanes that have a place: a worker, or one that is being started. Thousands of others cost no sweep anything."""
        self._places_used = 0
        self._closed = False
        self.lanes: dict[str, Lane] = {}
        self._measure_at = 0.0
        self.started = self.lost = self.parked = 0

    @property
    def held(self) -> tuple[Lane, ...]:
        """Lanes that have a worker, or wait for its start."""
        return tuple(self._held.values())

    @property
    def hot_bytes(self) -> int:
        return sum(lane.hot_bytes for lane in self._held.values())

    def want(self, lane: Lane) -> None:
        """The lane has requests and no worker."""
        if lane.worker is not None or lane.spawning or lane.name in self._waiting or self._closed:
            return
        self._waiting[lane.name] = lane
        self._serve_waiting()

    def settle(self, lane: Lane) -> None:
        """Something in this lane ended: its worker may be what another lane waits for."""
        if self._waiting and lane.worker is not None and lane.drained and (lane.draining or not lane.queued):
            self.evict(lane)

    def evict(self, lane: Lane) -> None:
        """End the lane's worker, which holds no request; the next request gets another."""
        self._end_worker(lane)
        self._serve_waiting()
        self._crew.worker_changed(lane)

    def forget(self, lane: Lane) -> None:
        """The lane has no generator any more."""
        self.lanes.pop(lane.name, None)
        self._waiting.pop(lane.name, None)
        self.evict(lane)

    def sweep(self, now: float) -> None:
        """End idle workers, and turns that are over. To be called a few times a second."""
        if self._waiting:
            self._make_place()
        self._measure(now)
        for lane in tuple(self._held.values()):
            if lane.worker is not None and not lane.busy and now - lane.last_used > self._policy.idle_s:
                self.evict(lane)

    def close(self) -> None:
        """Kill every worker; starts under way are the tasks' owner's to cancel."""
        self._closed = True
        for lane in self.lanes.values():
            worker = lane.detach()
            if worker is not None:
                worker.kill()

    def _end_worker(self, lane: Lane) -> None:
        worker = lane.detach()
        if worker is not None:
            worker.kill()
            self._places_used -= 1
            self._held.pop(lane.name, None)

    def _park(self, names: tuple[str, ...]) -> None:
        """End these idle workers; their programs stay registered, and start again with their next request."""
        for lane in [self._held[name] for name in names]:
            self._end_worker(lane)
            self.parked += 1
            self._crew.worker_changed(lane)

    def _hot(self) -> Iterator[Hot]:
        for lane in self._held.values():
            busy = lane.worker is None or lane.busy
            yield Hot(lane.name, lane.tenant, lane.hot_bytes, busy, lane.last_used)

    def _serve_waiting(self) -> None:
        """Start what has a place and fits the budget, in turn; nobody waits behind a site that has used up its own."""
        for lane in tuple(self._waiting.values()):
            if self._places_used >= self._policy.max_workers or self._closed:
                break
            if self._waiting.get(lane.name) is not lane:
                continue
            lane.short_of_memory = False
            if not lane.queued:
                del self._waiting[lane.name]
                continue
            match admit(self._hot(), lane.tenant, self._expected_bytes, self._budget):
                case Admit(park):
                    del self._waiting[lane.name]
                    self._places_used += 1
                    self._held[lane.name] = lane
                    lane.spawning, lane.hot_bytes = True, self._expected_bytes
                    self._park(park)
                    self._tasks.start(self._provide(lane))
                case Refuse(reason):
                    del self._waiting[lane.name]
                    self._crew.worker_unavailable(lane, End.NO_MEMORY, reason)
                case Wait(own_site):
                    lane.short_of_memory = True
                    if not own_site:
                        for behind in self._waiting.values():
                            behind.short_of_memory = True
                        break
        if self._waiting:
            self._make_place()

    def _make_place(self) -> None:
        """End the worker that is idle longest, or else let one run dry: the one whose lane has had it longest."""
        held = [lane for lane in self._held.values() if lane.worker is not None]
        idle = min((lane for lane in held if not lane.busy), key=lambda lane: lane.last_used, default=None)
        if idle is not None and self._places_used >= self._policy.max_workers:
            self.evict(idle)
        elif held and not any(lane.draining for lane in held):
            longest = min(held, key=lambda lane: lane.held_since)
            if asyncio.get_running_loop().time() - longest.held_since >= self._policy.turn_s:
                longest.draining = True
                self._crew.worker_changed(longest)
                self.settle(longest)

    def _measure(self, now: float) -> None:
        """Look at the workers that were looked at longest ago; when they have grown past the budget, the idle ones go."""
        clock = asyncio.get_running_loop().time
        held = [lane for lane in self._held.values() if lane.worker is not None]
        for lane in sorted(held, key=lambda lane: lane.measured):
            if lane.worker is None:
                continue
            resident = resident_bytes(lane.worker.pid)
            started = clock()
            if resident is None:
                continue
            if started >= self._measure_at:
                found = proportional_bytes(lane.worker.pid)
                lane.proportional_bytes, lane.resident_bytes, lane.measured = found or resident, resident, now
                self._measure_at = clock() + (clock() - started) / _MEASURING_SHARE
            if lane.measured:
                # What it has written since then is its own; counting all of it errs on the safe side.
                lane.hot_bytes = lane.proportional_bytes + max(0, resident - lane.resident_bytes)
        known = [lane.hot_bytes for lane in held if lane.measured]
        if known:
            self._expected_bytes = min(sum(known) // len(known), self._policy.hot_bytes, self._policy.site_hot_bytes)
        for tenant in {lane.tenant for lane in held}:
            decision = admit(self._hot(), tenant, 0, self._budget)
            if isinstance(decision, Admit) and decision.park:
                self._park(decision.park)

    async def _provide(self, lane: Lane) -> None:
        worker = None
        try:
            worker = await self._spawner.spawn()
        except (WorkerLost, JailError) as error:
            _log.error("no worker for %r: %s", lane.name, error)
            self._crew.worker_unavailable(lane, End.WORKER_DIED, f"no worker: {error}")
        finally:
            lane.spawning = False
            if worker is None:
                self._places_used -= 1
                self._held.pop(lane.name, None)
                lane.hot_bytes = 0
        if worker is None:
            self._serve_waiting()
            return
        self.started += 1
        if self._closed or self.lanes.get(lane.name) is not lane:
            worker.kill()
            self._places_used -= 1
            if self._held.get(lane.name) is lane:
                del self._held[lane.name]
            self._serve_waiting()
            return
        lane.worker = worker
        lane.measured = 0.0
        lane.last_used = lane.held_since = asyncio.get_running_loop().time()
        worker.on_message = lambda message: self._crew.worker_reported(lane, message)
        worker.on_lost = lambda why: self._lost(lane, why)
        self._crew.worker_changed(lane)
        if self._waiting:
            self._make_place()

    def _lost(self, lane: Lane, why: str) -> None:
        self.lost += 1
        self._places_used -= 1
        self._held.pop(lane.name, None)
        _log.warning("worker of %r lost: %s", lane.name, why)
        self._crew.worker_lost(lane, why)
        self._serve_waiting()
