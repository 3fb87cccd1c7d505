"""The share tree: fairness within the published bound, no starvation, no idle CPU while somebody wants it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.scheduler import NodePath, Scheduler
from tests.unit.sandbox.share_trees import MS, QUANTUM, WEIGHTS, charge, pick, run, sleep, tree, wake

COSTS = st.integers(0, QUANTUM)


class TestFairness:
    @settings(deadline=None)
    @given(st.lists(WEIGHTS, min_size=2, max_size=6), st.lists(COSTS, min_size=20, max_size=200), st.randoms())
    def test_two_backlogged_leaves_never_differ_by_more_than_one_slice_each(
        self, weights: list[int], costs: list[int], rng: random.Random
    ) -> None:
        """|W_f/w_f - W_m/w_m| <= l_f/w_f + l_m/w_m: theorem 1 of the paper."""
        scheduler = tree({"site": (1, {str(i): weight for i, weight in enumerate(weights)})})
        used = [0] * len(weights)
        for _ in range(len(costs)):
            (path,) = pick(scheduler)
            cost = rng.choice(costs)
            charge(scheduler, path, cost)
            used[int(path[1])] += cost
            for i, first in enumerate(weights):
                for j, second in enumerate(weights):
                    assert abs(used[i] / first - used[j] / second) <= QUANTUM / first + QUANTUM / second + 1e-6

    def test_cpu_is_divided_by_weight_first_between_sites_then_inside_each(self) -> None:
        ran = run(tree({"a": (3, {"x": 1, "y": 1}), "b": (1, {"z": 9})}), 4000)
        assert ran["a",] == pytest.approx(3 * ran["b",], rel=0.01)
        assert ran["a", "x"] == pytest.approx(ran["a", "y"], rel=0.01)

    def test_a_site_with_a_hundred_generators_gets_no_more_than_a_site_with_one(self) -> None:
        ran = run(tree({"many": (1, {str(i): 1 for i in range(100)}), "one": (1, {"only": 1})}), 2000)
        assert ran["many",] == pytest.approx(ran["one",], rel=0.01)

    def test_short_slices_do_not_lose_and_long_slices_do_not_win(self) -> None:
        scheduler = tree({"short": (1, {"g": 1}), "long": (1, {"g": 1})})
        used: Counter[str] = Counter()
        for _ in range(5000):
            ((site, name),) = pick(scheduler)
            cost = MS // 10 if site == "short" else QUANTUM
            charge(scheduler, (site, name), cost)
            used[site] += cost
        assert abs(used["short"] - used["long"]) <= 2 * QUANTUM

    @settings(deadline=None)
    @given(st.lists(st.tuples(WEIGHTS, WEIGHTS), min_size=1, max_size=8))
    def test_nobody_starves(self, shares: list[tuple[int, int]]) -> None:
        """Between two turns of a leaf the others get at most what their weights entitle them to, and one slice each."""
        scheduler = tree({str(i): (site, {"g": leaf}) for i, (site, leaf) in enumerate(shares)})
        total = sum(site for site, _ in shares)
        least = min(site for site, _ in shares)
        turns = 2 * (total // least + len(shares) + 1)
        assert len(run(scheduler, turns)) == 2 * len(shares)


class TestFloor:
    """Who answers at once is charged what that costs the others."""

    FLOOR = MS // 10

    def race(self, weights: tuple[int, int], picks: int) -> tuple[int, int]:
        """CPU time of a leaf that uses it, and how often one that returns it at once was picked meanwhile."""
        scheduler = Scheduler(quantum_ns=QUANTUM, floor_ns=self.FLOOR)
        for name, weight in zip(("busy", "flood"), weights, strict=True):
            scheduler.add((name,), weight)
            wake(scheduler, (name,))
        used = floods = 0
        for _ in range(picks):
            (path,) = pick(scheduler)
            if path == ("busy",):
                used += charge(scheduler, path, QUANTUM)
            else:
                assert charge(scheduler, path, 0) == self.FLOOR
                floods += 1
        return used, floods

    @settings(deadline=None)
    @given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 500))
    def test_a_flood_of_instant_answers_costs_as_much_as_a_loop(self, busy: int, flood: int, picks: int) -> None:
        used, floods = self.race((busy, flood), picks)
        assert floods * self.FLOOR / flood <= used / busy + QUANTUM / busy + QUANTUM / flood

    def test_a_capped_flood_is_held_to_its_cap(self) -> None:
        scheduler = Scheduler(quantum_ns=QUANTUM, floor_ns=self.FLOOR)
        scheduler.add(("flood",), 1)
        scheduler.set_cap(("flood",), 10, 0)
        wake(scheduler, ("flood",))
        floods = now = 0
        while now < 1000 * MS:
            if pick(scheduler, now):
                charge(scheduler, ("flood",), 0, now)
                floods += 1
            else:
                release = scheduler.next_release_ns()
                assert release is not None
                now = release
        assert floods * self.FLOOR <= 1000 * MS // 10 + 10 * MS + 2 * QUANTUM

    def test_the_floor_is_no_more_than_a_slice(self) -> None:
        with pytest.raises(ValueError, match="floor"):
            Scheduler(quantum_ns=1, floor_ns=2)


class TestWorkConservation:
    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_a_pick_finds_somebody_exactly_when_somebody_may_run(self, data: st.DataObject) -> None:
        scheduler = tree({str(s): (s + 1, {str(g): g + 1 for g in range(3)}) for s in range(3)}, width=2, awake=False)
        leaves = [path for path in scheduler if len(path) == 2]
        awake: set[NodePath] = set()
        running: set[NodePath] = set()
        for _ in range(data.draw(st.integers(1, 60))):
            leaf = data.draw(st.sampled_from(leaves))
            match data.draw(st.sampled_from(["wake", "sleep", "pick", "charge", "weight"])):
                case "wake":
                    wake(scheduler, leaf)
                    awake.add(leaf)
                case "sleep":
                    sleep(scheduler, leaf)
                    awake.discard(leaf)
                case "weight":
                    scheduler.set_weight(leaf[: data.draw(st.integers(1, 2))], data.draw(WEIGHTS))
                case "charge" if leaf in running:
                    charge(scheduler, leaf, data.draw(COSTS))
                    running.discard(leaf)
                case "pick":
                    held = Counter(path[0] for path in running)
                    able = {path for path in awake - running if held[path[0]] < 2}
                    picked = pick(scheduler)
                    assert set(picked) <= able
                    assert bool(picked) == bool(able)
                    running.update(picked)
            assert scheduler.share(leaf).runnable == (leaf in awake)
            assert scheduler.share(()).running == len(running)

    def test_a_site_of_width_one_runs_one_generator_at_a_time(self) -> None:
        scheduler = tree({"a": (1000, {"x": 1, "y": 1}), "b": (1, {"z": 1})})
        assert {path[0] for path in pick(scheduler, count=4)} == {"a", "b"}
        assert pick(scheduler) == []

    def test_a_site_held_up_by_its_width_earns_no_claim_on_the_past(self) -> None:
        """On two CPUs a site in one worker gets one of them, whatever its weight; made light, it does not go on owning it."""
        scheduler = tree({"heavy": (1000, {"g": 1}), "b": (1, {"g": 1}), "c": (1, {"g": 1})})
        for _ in range(1000):
            for path in pick(scheduler, count=2):
                charge(scheduler, path, QUANTUM)
        scheduler.set_weight(("heavy",), 1)
        ran = run(scheduler, 300)
        assert ran["heavy",] <= ran["b",] + 10 * QUANTUM


def test_ten_thousand_generators_are_served_by_their_shares() -> None:
    """A simulation of 2,000 sites with five generators each on eight CPUs, half of them sleeping and waking all the time."""
    rng = random.Random(1)
    scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=QUANTUM)
    for site in range(2000):
        scheduler.add((f"s{site}",), 1 + site % 4)
        for generator in range(5):
            scheduler.add((f"s{site}", f"g{generator}"), 1, parent=(f"s{site}",))
            wake(scheduler, (f"s{site}", f"g{generator}"))
    used: Counter[int] = Counter()
    for _ in range(8000):
        picked = pick(scheduler, count=8)
        assert len(picked) == 8
        for path in picked:
            cost = rng.randint(QUANTUM // 2, QUANTUM)
            charge(scheduler, path, cost)
            used[int(path[0][1:]) % 4] += cost
            if int(path[1][1:]) % 2 and rng.random() < 0.5:
                sleep(scheduler, path)
                wake(scheduler, path)
    for weight in range(4):
        assert used[weight] == pytest.approx((1 + weight) * used[0], rel=0.1)
    for node in scheduler._nodes.values():
        assert len(node.heap) <= 2 * len(node.children) + 65
