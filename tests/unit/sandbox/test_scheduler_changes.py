"""The share tree changes while it runs: weights, nodes that leave, nodes that move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.scheduler import MAX_WEIGHT, Scheduler
from tests.unit.sandbox.share_trees import QUANTUM, WEIGHTS, charge, pick, run, tree, wake


class TestLiveChanges:
    def test_a_weight_counts_from_the_next_charge_on(self) -> None:
        scheduler = tree({"a": (1, {"g": 1}), "b": (1, {"g": 1})})
        run(scheduler, 100)
        scheduler.set_weight(("a",), 4)
        ran = run(scheduler, 1000)
        assert ran["a",] == pytest.approx(4 * ran["b",], rel=0.02)

    def test_a_running_leaf_can_be_removed(self) -> None:
        scheduler = tree({"a": (1, {"g": 1, "h": 1})})
        leaf = scheduler.pick(0)
        assert leaf is not None
        scheduler.remove(leaf.path)
        with pytest.raises(KeyError):
            scheduler.node(leaf.path)
        with pytest.raises(KeyError):
            scheduler.charge(leaf, 1, 0, yielded=False)
        assert len(pick(scheduler, count=5)) == 1
        scheduler.remove(("a",))
        assert list(scheduler) == []
        assert scheduler.share(()).running == 0

    def test_what_it_cost_is_added_up_along_the_path(self) -> None:
        scheduler = tree({"a": (1, {"g": 1})})
        run(scheduler, 3, cost=7)
        assert [scheduler.share(path).cpu_ns for path in ((), ("a",), ("a", "g"))] == [21, 21, 21]

    @pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1])
    def test_a_weight_has_bounds(self, weight: int) -> None:
        with pytest.raises(ValueError, match="weight"):
            tree({"a": (weight, {})})

    def test_wrong_use_is_told(self) -> None:
        scheduler = tree({"a": (1, {"g": 1})})
        for wrong in [
            lambda: scheduler.add(("a",), 1),
            lambda: scheduler.add(("b",), 1, width=0),
            lambda: scheduler.add(("a", "g", "deeper"), 1, parent=("a", "g")),
            lambda: wake(scheduler, ("a",)),
            lambda: scheduler.remove(()),
            lambda: Scheduler(quantum_ns=0),
        ]:
            with pytest.raises(ValueError):
                wrong()
        with pytest.raises(KeyError):
            scheduler.add(("nobody", "g"), 1, parent=("nobody",))
        with pytest.raises(KeyError):
            charge(scheduler, ("a", "g"), 1)
        assert "2 nodes, 1 leaves awake, 0 running" in repr(scheduler)


class TestMoving:
    def test_a_site_moves_with_what_runs_in_it(self) -> None:
        scheduler = Scheduler(quantum_ns=QUANTUM)
        for cluster, weight in (("gold", 3), ("tin", 1)):
            scheduler.add((cluster,), weight, width=2)
        for site in ("a", "b", "c"):
            scheduler.add((site,), 1, parent=("tin",))
            scheduler.add((site, "g"), 1, parent=(site,))
            wake(scheduler, (site, "g"))
        run(scheduler, 30)
        (path,) = pick(scheduler)
        moved = path[:1]
        scheduler.move(moved, ("gold",))
        assert scheduler.share(("gold",)).running == 1
        assert scheduler.share(("tin",)).running == 0
        charge(scheduler, path, QUANTUM)
        ran = run(scheduler, 4000)
        others = sum(ran[site,] for site in "abc" if (site,) != moved)
        assert ran[moved] == pytest.approx(3 * others, rel=0.01)

    def test_a_node_cannot_move_below_itself(self) -> None:
        scheduler = tree({"a": (1, {"g": 1})})
        with pytest.raises(ValueError, match="below"):
            scheduler.move(("a",), ("a",))
        with pytest.raises(ValueError, match="below"):
            scheduler.move((), ("a",))


@settings(deadline=None)
@given(st.lists(WEIGHTS, min_size=2, max_size=5), st.lists(WEIGHTS, min_size=2, max_size=5), st.integers(0, 50))
def test_a_live_weight_holds_from_the_moment_it_is_set(before: list[int], after: list[int], warm: int) -> None:
    """The bound of the paper holds over what follows the change as it does from the beginning: one more slice each."""
    count = min(len(before), len(after))
    before, after = before[:count], after[:count]
    scheduler = tree({"site": (1, {str(i): weight for i, weight in enumerate(before)})})
    run(scheduler, warm)
    for i, weight in enumerate(after):
        scheduler.set_weight(("site", str(i)), weight)
    used = [0] * count
    for _ in range(100):
        (path,) = pick(scheduler)
        charge(scheduler, path, QUANTUM)
        used[int(path[1])] += QUANTUM
        for i, first in enumerate(after):
            for j, second in enumerate(after):
                assert abs(used[i] / first - used[j] / second) <= 2 * (QUANTUM / first + QUANTUM / second) + 1e-6


def test_a_node_says_that_it_has_left_and_the_next_of_its_name_is_another() -> None:
    scheduler = Scheduler(quantum_ns=5)
    scheduler.add(("site",), 1)
    scheduler.add(("site", "g"), 1, parent=("site",))
    leaf = scheduler.node(("site", "g"))
    scheduler.wake(leaf)
    assert scheduler.pick(0) is leaf
    scheduler.remove(("site",))
    assert leaf.gone
    with pytest.raises(KeyError):
        scheduler.charge(leaf, 5, 0, yielded=False)
    scheduler.add(("site",), 1)
    scheduler.add(("site", "g"), 1, parent=("site",))
    again = scheduler.node(("site", "g"))
    assert again is not leaf
    assert not again.gone
    wake(scheduler, ("site", "g"))
    assert scheduler.pick(0) is again


def test_who_sleeps_takes_no_room_in_a_heap_of_few_who_are_awake() -> None:
    scheduler = Scheduler(quantum_ns=5)
    scheduler.add(("site",), 1)
    for number in range(1000):
        scheduler.add(("site", f"{number}"), 1, parent=("site",))
    for number in range(1000):
        leaf = scheduler.node(("site", f"{number}"))
        scheduler.wake(leaf)
        assert scheduler.pick(0) is leaf
        scheduler.sleep(leaf)
        scheduler.charge(leaf, 5, 0, yielded=True)
    assert len(scheduler.node(("site",)).heap) < 100
