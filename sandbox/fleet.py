"""Which lanes have a worker: started on demand, ended when idle, handed on round robin when there are fewer places than lanes.

Knows lanes and processes; requests, slices and messages are `dispatcher.py`'s, which is told when a lane's worker is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

from sandbox import wire
from sandbox.errors import JailError, WorkerLost
from sandbox.lane import Lane
from sandbox.policies import FleetPolicy
from sandbox.spawner import Spawner
from sandbox.tasks import Tasks

_log = logging.getLogger(__name__)


class Crew(Protocol):
    """Who works with the workers."""

    def worker_changed(self, lane: Lane) -> None:
        """The lane has a worker, or has lost it without having used it."""

    def worker_unavailable(self, lane: Lane, why: str) -> None:
        """No worker could be started."""

    def worker_reported(self, lane: Lane, message: wire.FromWorker) -> None:
        """Raises WireError when the report makes no sense: the worker is killed for it."""

    def worker_lost(self, lane: Lane, why: str) -> None:
        """The worker is dead; the lane still remembers what it was doing."""


class Fleet:
    def __init__(self, spawner: Spawner, policy: FleetPolicy, tasks: Tasks, crew: Crew) -> None:
        self._spawner = spawner
        self._policy = policy
        self._tasks = tasks
        self._crew = crew
        self._waiting: deque[Lane] = deque()
        """Lanes that want a worker while all places are taken, in the order in which they asked."""
        self._places_used = 0
        self._closed = False
        self.lanes: dict[str, Lane] = {}
        self.started = self.lost = 0

    def want(self, lane: Lane) -> None:
        """The lane has requests and no worker."""
        if lane.worker is not None or lane.spawning or lane in self._waiting or self._closed:
            return
        self._waiting.append(lane)
        self._serve_waiting()

    def settle(self, lane: Lane) -> None:
        """Something in this lane ended: its worker may be what another lane waits for."""
        if self._waiting and lane.worker is not None and lane.drained and (lane.draining or not lane.queued):
            self.evict(lane)

    def evict(self, lane: Lane) -> None:
        """End the lane's worker, which holds no request; the next request gets another."""
        worker = lane.detach()
        if worker is not None:
            worker.kill()
            self._places_used -= 1
        self._serve_waiting()
        self._crew.worker_changed(lane)

    def forget(self, lane: Lane) -> None:
        """The lane has no generator any more."""
        self.lanes.pop(lane.name, None)
        if lane in self._waiting:
            self._waiting.remove(lane)
        self.evict(lane)

    def sweep(self, now: float) -> None:
        """End idle workers, and turns that are over. To be called a few times a second."""
        if self._waiting:
            self._make_place()
        for lane in tuple(self.lanes.values()):
            if lane.worker is not None and not lane.busy and now - lane.last_used > self._policy.idle_s:
                self.evict(lane)

    def close(self) -> None:
        """Kill every worker; starts under way are the tasks' owner's to cancel."""
        self._closed = True
        for lane in self.lanes.values():
            worker = lane.detach()
            if worker is not None:
                worker.kill()

    def _serve_waiting(self) -> None:
        while self._waiting and self._places_used < self._policy.max_workers and not self._closed:
            lane = self._waiting.popleft()
            if lane.queued:
                lane.spawning = True
                self._places_used += 1
                self._tasks.start(self._provide(lane))
        if self._waiting:
            self._make_place()

    def _make_place(self) -> None:
        """End the worker that is idle longest, or else let one run dry: the one whose lane has had it longest."""
        held = [lane for lane in self.lanes.values() if lane.worker is not None]
        idle = min((lane for lane in held if not lane.busy), key=lambda lane: lane.last_used, default=None)
        if idle is not None:
            self.evict(idle)
        elif held and not any(lane.draining for lane in held):
            longest = min(held, key=lambda lane: lane.held_since)
            if asyncio.get_running_loop().time() - longest.held_since >= self._policy.turn_s:
                longest.draining = True
                self._crew.worker_changed(longest)
                self.settle(longest)

    async def _provide(self, lane: Lane) -> None:
        worker = None
        try:
            worker = await self._spawner.spawn()
        except (WorkerLost, JailError) as error:
            _log.error("no worker for %r: %s", lane.name, error)
            self._crew.worker_unavailable(lane, str(error))
        finally:
            lane.spawning = False
            if worker is None:
                self._places_used -= 1
        if worker is None:
            self._serve_waiting()
            return
        self.started += 1
        if self._closed or self.lanes.get(lane.name) is not lane:
            worker.kill()
            self._places_used -= 1
            self._serve_waiting()
            return
        lane.worker = worker
        lane.last_used = lane.held_since = asyncio.get_running_loop().time()
        worker.on_message = lambda message: self._crew.worker_reported(lane, message)
        worker.on_lost = lambda why: self._lost(lane, why)
        self._crew.worker_changed(lane)
        if self._waiting:
            self._make_place()

    def _lost(self, lane: Lane, why: str) -> None:
        self.lost += 1
        self._places_used -= 1
        _log.warning("worker of %r lost: %s", lane.name, why)
        self._crew.worker_lost(lane, why)
        self._serve_waiting()
