"""What a share promises: everything is promised to somebody, weight counts, no ceiling is passed, what one leaves others get."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.dispatch.ledger import WINDOW_NS, Ledger
from sandbox.queueing.nodes import ROOT, Contender, NodePath
from sandbox.queueing.promise import divide, promises
from sandbox.scheduler import Scheduler
from tests.unit.sandbox.share_trees import charge, pick, sleep, wake

MS = 1_000_000
WEIGHTS = st.integers(1, 1_000_000)


@st.composite
def trees(draw: st.DrawFn, *, caps: bool = False, wants: bool = False) -> list[Contender]:
    """Clusters with sites with leaves, parents first."""
    contenders: list[Contender] = []

    def add(path: NodePath, parent: NodePath, *, leaf: bool = False) -> None:
        cap = draw(st.none() | st.integers(1, 400)) if caps else None
        wish = draw(st.none() | st.floats(0, 1)) if wants and leaf else None
        contenders.append(Contender(path, parent, draw(WEIGHTS), draw(st.integers(1, 4)), cap, wish))

    for cluster in range(draw(st.integers(1, 3))):
        add(("", str(cluster)), ROOT)
        for site in range(draw(st.integers(1, 3))):
            name = f"{cluster}.{site}"
            add((name,), ("", str(cluster)))
            for leaf in range(draw(st.integers(1, 4))):
                add((name, str(leaf)), (name,), leaf=True)
    return contenders


def leaves(contenders: list[Contender]) -> list[Contender]:
    parents = {contender.parent for contender in contenders}
    return [contender for contender in contenders if contender.path not in parents]


@settings(deadline=None)
@given(trees(), st.integers(1, 8), st.floats(0.1, 8))
def test_all_that_is_given_out_is_promised_where_no_cap_binds(contenders: list[Contender], slots: int, cpus: float) -> None:
    found = promises(contenders, cpus=cpus, slots=slots)
    assert sum(found[leaf.path] for leaf in leaves(contenders)) == pytest.approx(1)


@settings(deadline=None)
@given(trees(caps=True, wants=True), st.integers(1, 8), st.floats(0.1, 8))
def test_no_ceiling_is_passed_and_a_parents_promise_is_its_childrens(
    contenders: list[Contender], slots: int, cpus: float
) -> None:
    found = promises(contenders, cpus=cpus, slots=slots)
    below: dict[NodePath, float] = defaultdict(float)
    for contender in contenders:
        below[contender.parent] += found[contender.path]
        if contender.cap is not None:
            assert found[contender.path] <= contender.cap / 100 / cpus + 1e-9
        if contender.wants is not None:
            assert found[contender.path] <= contender.wants + 1e-9
    assert below.pop(ROOT) <= 1 + 1e-9
    for path, amount in below.items():
        assert amount == pytest.approx(found[path], abs=1e-9)


@settings(deadline=None)
@given(trees(caps=True), st.integers(1, 8), st.floats(0.1, 8), st.data())
def test_more_weight_never_promises_less(contenders: list[Contender], slots: int, cpus: float, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(contenders) - 1))
    heavier = [*contenders]
    heavier[number] = replace(contenders[number], weight=contenders[number].weight + data.draw(WEIGHTS))
    path = contenders[number].path
    assert promises(heavier, cpus=cpus, slots=slots)[path] >= promises(contenders, cpus=cpus, slots=slots)[path] - 1e-9


@given(st.dictionaries(st.tuples(st.text(max_size=3)), st.tuples(WEIGHTS, st.floats(0, 1)), min_size=1, max_size=8))
def test_whoever_is_below_its_ceiling_has_as_much_for_its_weight_as_anybody(among: dict[NodePath, tuple[int, float]]) -> None:
    """Weighted max-min fairness: nobody could have more without somebody who has less for its weight losing."""
    found = divide(1.0, among)
    for path, (weight, ceiling) in among.items():
        if found[path] < ceiling - 1e-9:
            rate = found[path] / weight
            assert all(found[other] / share <= rate * (1 + 1e-9) + 1e-12 for other, (share, _) in among.items())


def test_what_a_capped_site_leaves_goes_to_the_others_by_weight() -> None:
    contenders = [
        Contender(("a",), ROOT, 3, cap=20),
        Contender(("b",), ROOT, 2),
        Contender(("c",), ROOT, 1),
        *(Contender((name, "g"), (name,), 1) for name in "abc"),
    ]
    found = promises(contenders, cpus=1.0, slots=1)
    assert [found[name,] for name in "abc"] == pytest.approx([0.2, 0.8 * 2 / 3, 0.8 / 3])


def test_a_site_in_one_worker_is_promised_one_of_two_slots_at_most() -> None:
    contenders = [Contender((name,), ROOT, weight) for name, weight in (("a", 8), ("b", 1), ("c", 1))]
    contenders += [Contender((name, "g"), (name,), 1) for name in "abc"]
    found = promises(contenders, cpus=2.0, slots=2)
    assert [found[name,] for name in "abc"] == pytest.approx([0.5, 0.25, 0.25])


class TestLedger:
    def run(self, weights: dict[str, int], slices: int, *, start_ns: int = 0) -> tuple[Scheduler, Ledger, int]:
        scheduler = Scheduler(quantum_ns=5 * MS)
        for name, weight in weights.items():
            scheduler.add((name,), weight)
            scheduler.add((name, "g"), 1, parent=(name,))
            wake(scheduler, (name, "g"))
        ledger = Ledger(scheduler, 1)
        return scheduler, ledger, self.go(scheduler, ledger, slices, start_ns)

    def go(self, scheduler: Scheduler, ledger: Ledger, slices: int, now_ns: int) -> int:
        for _ in range(slices):
            (path,) = pick(scheduler)
            now_ns += 5 * MS
            charge(scheduler, path, 5 * MS)
            ledger.charge(scheduler.node(path), 5 * MS, now_ns)
        return now_ns

    def test_what_was_received_follows_what_was_promised(self) -> None:
        _, ledger, now_ns = self.run({"a": 3, "b": 1}, 1000)
        found = ledger.allocations(now_ns)
        assert found["a",].promised == pytest.approx(0.75)
        for path in (("a",), ("a", "g"), ("b",), ("b", "g")):
            assert found[path].received == pytest.approx(found[path].promised, abs=0.01)

    def test_a_change_of_weight_counts_from_then_on_and_is_forgotten_after_the_window(self) -> None:
        scheduler, ledger, now_ns = self.run({"a": 3, "b": 1}, 1000)
        ledger.book(now_ns)
        scheduler.set_weight(("a",), 1)
        now_ns = self.go(scheduler, ledger, 1000, now_ns)
        assert ledger.allocations(now_ns)["a",].promised == pytest.approx(0.625, abs=0.02)
        now_ns = self.go(scheduler, ledger, 1500, now_ns)
        found = ledger.allocations(now_ns)
        assert (found["a",].promised, found["a",].received) == (pytest.approx(0.5), pytest.approx(0.5, abs=0.01))

    def test_who_asks_for_little_is_promised_that_and_the_rest_goes_to_others(self) -> None:
        scheduler, ledger, now_ns = self.run({"busy": 1, "light": 1}, 0)
        sleep(scheduler, ("light", "g"))
        for _ in range(100):
            now_ns = self.go(scheduler, ledger, 19, now_ns)
            wake(scheduler, ("light", "g"))
            picked = pick(scheduler)
            assert picked == [("light", "g")]
            now_ns += 5 * MS
            sleep(scheduler, ("light", "g"))
            charge(scheduler, ("light", "g"), 5 * MS)
            ledger.charge(scheduler.node(("light", "g")), 5 * MS, now_ns)
        found = ledger.allocations(now_ns)
        assert found["light",].promised == pytest.approx(0.05, abs=0.03)
        assert found["busy",].promised == pytest.approx(0.95, abs=0.03)

    def test_a_quiet_window_leaves_nothing_behind(self) -> None:
        _, ledger, now_ns = self.run({str(number): 1 for number in range(50)}, 500)
        assert len(ledger.allocations(now_ns)) == 100
        assert not ledger.allocations(now_ns + 2 * WINDOW_NS)
