"""Share trees for tests of the scheduler, and a loop that serves them."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st

from sandbox.scheduler import Path, Scheduler

MS = 1_000_000
QUANTUM = 5 * MS
WEIGHTS = st.integers(1, 1000)


def tree(shape: dict[str, tuple[int, dict[str, int]]], *, width: int = 1, credit_ns: int = 0, awake: bool = True) -> Scheduler:
    """Sites by name, each with its weight and the weights of its generators."""
    scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=credit_ns)
    for site, (weight, generators) in shape.items():
        scheduler.add((site,), weight, width=width)
        for generator, share in generators.items():
            scheduler.add((site, generator), share, parent=(site,))
            if awake:
                scheduler.wake((site, generator))
    return scheduler


def run(scheduler: Scheduler, slices: int, cost: int = QUANTUM) -> Counter[Path]:
    """CPU time of each leaf and of each site, after so many slices of one CPU."""
    ran: Counter[Path] = Counter()
    for _ in range(slices):
        (path,) = scheduler.pick()
        scheduler.charge(path, cost)
        ran[path] += cost
        ran[path[:1]] += cost
    return ran
