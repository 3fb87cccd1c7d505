"""A light generator beside others that loop, in virtual time: the dispatcher's rules over the real scheduler and policy.

The CPUs are the slots'; an express slice takes its CPU from one that runs, which is put off by as much.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.dispatch.dispatcher import scheduler_for
from sandbox.dispatch.policies import DispatchPolicy
from sandbox.scheduler import NodePath, Scheduler
from sandbox.shares import cluster_path
from tests.unit.sandbox.share_trees import charge, pick, pick_express, sleep, wake

MS = 1_000_000
POLICY = DispatchPolicy(slots=2)
SHARED = cluster_path("default")


@dataclass(slots=True)
class Machine:
    """Loops want CPU from `onset` on; each light site asks for `cost` every `gap`, or `gap` after its last answer."""

    loops: int
    cost: int
    gap: int
    lights: int = 1
    patient: bool = False
    onset: int = 0
    now: int = 0
    free: int = POLICY.slots
    running: dict[NodePath, int] = field(default_factory=dict)
    """CPU time left of a slice."""
    given: dict[NodePath, int] = field(default_factory=dict)
    express: set[NodePath] = field(default_factory=set)
    asked: dict[NodePath, list[int]] = field(default_factory=dict)
    coming: list[tuple[int, NodePath]] = field(default_factory=list)
    waits: list[tuple[int, int]] = field(default_factory=list)
    """When each light request began, and how long it had waited for that."""
    used: Counter[NodePath] = field(default_factory=Counter)
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = scheduler_for(POLICY)
        self.scheduler.add(SHARED, 100, width=POLICY.most_at_once)
        for number in range(self.loops):
            self._add(f"loop{number}")
        for number in range(self.lights):
            leaf = self._add(f"light{number}")
            self.asked[leaf] = []
            heapq.heappush(self.coming, (self.gap * number // self.lights, leaf))

    def _add(self, name: str) -> NodePath:
        self.scheduler.add((name,), 100, parent=SHARED)
        self.scheduler.add((name, "g"), 100, parent=(name,))
        return name, "g"

    def run(self, until: int) -> None:
        self._pump()
        while self.now < until:
            turn = sorted(self.running, key=lambda path: path not in self.express)[: POLICY.slots]
            nexts = [until, *(self.now + self.running[path] for path in turn)]
            if self.coming:
                nexts.append(self.coming[0][0])
            if self.onset > self.now:
                nexts.append(self.onset)
            passed, self.now = max(self.now, min(nexts)) - self.now, max(self.now, min(nexts))
            for path in turn:
                self.running[path] -= passed
            for path in [path for path in turn if not self.running[path]]:
                self._end(path)
            while self.coming and self.coming[0][0] <= self.now:
                due, path = heapq.heappop(self.coming)
                self.asked[path].append(due)
                wake(self.scheduler, path)
                if not self.patient:
                    heapq.heappush(self.coming, (due + self.gap, path))
            self._pump()

    def _pump(self) -> None:
        if self.now >= self.onset >= 0:
            self.onset = -1
            for number in range(self.loops):
                wake(self.scheduler, (f"loop{number}", "g"))
        while self.free > 0 and (picked := pick(self.scheduler, self.now)):
            self._begin(picked[0], POLICY.slice_for(self.scheduler.awake))
        while self.free > -POLICY.express and (woken := pick_express(self.scheduler, self.now)):
            self.express.add(woken)
            self._begin(woken, POLICY.express_slice_ns)

    def _begin(self, path: NodePath, slice_ns: int) -> None:
        self.free -= 1
        if path in self.asked:
            self.waits.append((self.now, self.now - self.asked[path][0]))
            slice_ns = min(slice_ns, self.cost)
        self.running[path] = self.given[path] = slice_ns

    def _end(self, path: NodePath) -> None:
        self.free += 1
        self.express.discard(path)
        del self.running[path]
        if path in self.asked:
            self.asked[path].pop(0)
            if not self.asked[path]:
                sleep(self.scheduler, path)
            if self.patient:
                heapq.heappush(self.coming, (self.now + self.gap, path))
        self.used[path] += self.given[path]
        charge(self.scheduler, path, self.given[path], self.now, yielded=path in self.asked)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(MS // 10, 2 * MS), st.floats(0.05, 0.5), st.integers(1, 3))
def test_who_asks_for_half_of_its_share_waits_for_no_slice_of_a_loop(loops: int, cost: int, part: float, lights: int) -> None:
    """Only for one another: an express slice runs at a time."""
    share = POLICY.slots / (loops + lights)
    machine = Machine(loops, cost, int(cost / (share * part)), lights)
    machine.run(4000 * MS)
    settled = [waited for began, waited in machine.waits if began > 1000 * MS]
    assert settled
    assert max(settled) <= (lights - 1) * cost


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(MS // 10, 2 * MS), st.integers(0, 5 * MS))
def test_who_asks_for_more_gets_its_share_and_not_more(loops: int, cost: int, gap: int) -> None:
    """Its share, its credit, and a slice each way; and the loops share the rest evenly."""
    machine = Machine(loops, cost, gap, patient=True)
    machine.run(4000 * MS)
    looped = [machine.used[f"loop{number}", "g"] for number in range(loops)]
    light = machine.used["light0", "g"]
    assert light <= max(looped) + POLICY.credit_ns + 2 * POLICY.slice_ns
    assert max(looped) - min(looped) <= 2 * POLICY.slice_ns + 2 * POLICY.credit_ns
    assert sum(looped) + light >= POLICY.slots * 4000 * MS - (POLICY.slots + POLICY.express) * POLICY.slice_ns


def test_who_comes_back_at_once_waits_for_a_slice_at_most_one_time_in_a_hundred_more() -> None:
    machine = Machine(20, MS // 5, MS // 10, patient=True)
    machine.run(10_000 * MS)
    waits = sorted(waited for began, waited in machine.waits if began > 1000 * MS)
    assert waits[len(waits) * 99 // 100] <= POLICY.slice_ns


@pytest.mark.parametrize("gap", [4 * MS, 10 * MS, 25 * MS])
def test_who_was_alone_before_the_loops_began_does_not_wait_until_they_have_used_their_credit(gap: int) -> None:
    """Twenty newcomers have 200 ms of credit together: 100 ms on both CPUs."""
    machine = Machine(20, 3 * MS // 10, gap, onset=1000 * MS)
    machine.run(1100 * MS)
    waits = [waited for began, waited in machine.waits if began >= 1000 * MS]
    assert len(waits) >= 90 * MS // gap
    assert max(waits) <= POLICY.slice_ns
