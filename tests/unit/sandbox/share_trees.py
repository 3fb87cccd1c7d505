"""Share trees for tests of the scheduler, its operations by the paths of leaves, and a loop that serves them."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st

from sandbox.scheduler import NodePath, Scheduler

MS = 1_000_000
QUANTUM = 5 * MS
WEIGHTS = st.integers(1, 1000)


def wake(scheduler: Scheduler, path: NodePath) -> None:
    scheduler.wake(scheduler.node(path))


def sleep(scheduler: Scheduler, path: NodePath) -> None:
    scheduler.sleep(scheduler.node(path))


def pick(scheduler: Scheduler, now_ns: int = 0, count: int = 1) -> list[NodePath]:
    """Up to `count` leaves to run now, best first."""
    picked: list[NodePath] = []
    while len(picked) < count and (leaf := scheduler.pick(now_ns)) is not None:
        picked.append(leaf.path)
    return picked


def pick_express(scheduler: Scheduler, now_ns: int = 0) -> NodePath | None:
    leaf = scheduler.pick_express(now_ns)
    return None if leaf is None else leaf.path


def charge(scheduler: Scheduler, path: NodePath, cpu_ns: int, now_ns: int = 0, *, yielded: bool = False) -> int:
    return scheduler.charge(scheduler.node(path), cpu_ns, now_ns, yielded=yielded)


def tree(shape: dict[str, tuple[int, dict[str, int]]], *, width: int = 1, credit_ns: int = 0, awake: bool = True) -> Scheduler:
    """Sites by name, each with its weight and the weights of its generators."""
    scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=credit_ns)
    for site, (weight, generators) in shape.items():
        scheduler.add((site,), weight, width=width)
        for generator, share in generators.items():
            scheduler.add((site, generator), share, parent=(site,))
            if awake:
                wake(scheduler, (site, generator))
    return scheduler


def run(scheduler: Scheduler, slices: int, cost: int = QUANTUM) -> Counter[NodePath]:
    """CPU time of each leaf and of each site, after so many slices of one CPU."""
    ran: Counter[NodePath] = Counter()
    for _ in range(slices):
        (path,) = pick(scheduler)
        charge(scheduler, path, cost)
        ran[path] += cost
        ran[path[:1]] += cost
    return ran
