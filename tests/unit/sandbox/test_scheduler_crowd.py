"""Nobody starves in a crowd of those who come for the first time."""

from __future__ import annotations

import pytest

from sandbox.scheduler import Scheduler

MS = 1_000_000


@pytest.mark.parametrize("ahead_ms", [20, 60, 500])
def test_who_is_ahead_waits_for_a_bounded_time_while_others_come_with_credit(ahead_ms: int) -> None:
    """Eight others are awake at any time; each takes three slices, less than its credit, and another comes in its place."""
    scheduler = Scheduler(quantum_ns=5 * MS, credit_ns=10 * MS)
    scheduler.add(("site",), 100)
    names = [("site", f"{number}") for number in range(20_000)]
    for name in names:
        scheduler.add(name, 100, parent=("site",))
    first, *others = names
    scheduler.wake(first)
    scheduler.pick()
    scheduler.charge(first, ahead_ms * MS)
    coming = iter(others)
    for _ in range(8):
        scheduler.wake(next(coming))
    slices: dict[tuple[str, ...], int] = {}
    waited_ms = 0
    while (picked := scheduler.pick()[0]) != first:
        slices[picked] = slices.get(picked, 0) + 1
        if slices[picked] == 3:
            scheduler.sleep(picked)
            scheduler.wake(next(coming))
        scheduler.charge(picked, MS)
        waited_ms += 1
    assert waited_ms <= 9 * (ahead_ms + 10 + 5) + 50
