"""What a leaf that wakes may claim, and what those that wait for it must bear."""

from __future__ import annotations

from collections import Counter

import pytest

from sandbox.scheduler import Scheduler
from tests.unit.sandbox.share_trees import MS, QUANTUM, charge, pick, run, sleep, tree, wake


class TestWaking:
    def test_sleep_is_not_saved_up(self) -> None:
        scheduler = tree({"a": (1, {"g": 1}), "b": (1, {"g": 1})})
        sleep(scheduler, ("b", "g"))
        run(scheduler, 1000)
        wake(scheduler, ("b", "g"))
        ran = run(scheduler, 100)
        assert abs(ran["a",] - ran["b",]) <= 2 * QUANTUM

    def test_who_wakes_goes_before_a_busy_loop_but_only_as_long_as_its_credit(self) -> None:
        scheduler = tree({"busy": (1, {"g": 1}), "idle": (1, {"g": 1})}, credit_ns=4 * QUANTUM)
        sleep(scheduler, ("idle", "g"))
        run(scheduler, 100)
        wake(scheduler, ("idle", "g"))
        turns = [path[0] for path in (pick(scheduler)[0],)]
        charge(scheduler, ("idle", "g"), QUANTUM)
        for _ in range(20):
            (path,) = pick(scheduler)
            charge(scheduler, path, QUANTUM)
            turns.append(path[0])
        assert turns[:4] == ["idle"] * 4
        assert abs(turns.count("idle") - turns.count("busy")) <= 4 + 2

    def test_sleeping_and_waking_does_not_pay(self) -> None:
        scheduler = tree({"loop": (1, {"g": 1}), "napper": (1, {"g": 1})}, credit_ns=QUANTUM)
        used: Counter[str] = Counter()
        for _ in range(2000):
            (path,) = pick(scheduler)
            charge(scheduler, path, QUANTUM)
            used[path[0]] += QUANTUM
            if path[0] == "napper":
                sleep(scheduler, path)
                wake(scheduler, path)
        assert abs(used["loop"] - used["napper"]) <= 4 * QUANTUM

    def test_waking_twice_and_sleeping_twice_is_once(self) -> None:
        scheduler = tree({"a": (1, {"g": 1})})
        wake(scheduler, ("a", "g"))
        sleep(scheduler, ("a", "g"))
        sleep(scheduler, ("a", "g"))
        assert pick(scheduler) == []


@pytest.mark.parametrize("ahead_ms", [20, 60, 500])
def test_who_is_ahead_waits_for_a_bounded_time_while_others_come_with_credit(ahead_ms: int) -> None:
    """Eight others are awake at any time; each takes three slices, less than its credit, and another comes in its place."""
    scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=2 * QUANTUM)
    scheduler.add(("site",), 100)
    names = [("site", f"{number}") for number in range(20_000)]
    for name in names:
        scheduler.add(name, 100, parent=("site",))
    first, *others = names
    wake(scheduler, first)
    pick(scheduler)
    charge(scheduler, first, ahead_ms * MS)
    coming = iter(others)
    for _ in range(8):
        wake(scheduler, next(coming))
    slices: dict[tuple[str, ...], int] = {}
    waited_ms = 0
    while (picked := pick(scheduler)[0]) != first:
        slices[picked] = slices.get(picked, 0) + 1
        if slices[picked] == 3:
            sleep(scheduler, picked)
            wake(scheduler, next(coming))
        charge(scheduler, picked, MS)
        waited_ms += 1
    assert waited_ms <= 9 * (ahead_ms + 10 + 5) + 50
