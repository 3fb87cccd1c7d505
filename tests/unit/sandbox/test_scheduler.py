"""The share tree: fairness within the published bound, no starvation, no idle CPU while somebody wants it, live weights."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.policies import DispatchPolicy
from sandbox.scheduler import MAX_WEIGHT, Path, Scheduler

MS = 1_000_000
QUANTUM = 5 * MS
COSTS = st.integers(0, QUANTUM)
WEIGHTS = st.integers(1, 1000)


def tree(shape: dict[str, tuple[int, dict[str, int]]], *, width: int = 1, credit_ns: int = 0, awake: bool = True) -> Scheduler:
    scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=credit_ns)
    for site, (weight, generators) in shape.items():
        scheduler.add((site,), weight, width=width)
        for generator, share in generators.items():
            scheduler.add((site, generator), share, parent=(site,))
            if awake:
                scheduler.wake((site, generator))
    return scheduler


def run(scheduler: Scheduler, slices: int, cost: int = QUANTUM) -> Counter[Path]:
    ran: Counter[Path] = Counter()
    for _ in range(slices):
        (path,) = scheduler.pick()
        scheduler.charge(path, cost)
        ran[path] += cost
        ran[path[:1]] += cost
    return ran


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
            (path,) = scheduler.pick()
            cost = rng.choice(costs)
            scheduler.charge(path, cost)
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
            ((site, name),) = scheduler.pick()
            cost = MS // 10 if site == "short" else QUANTUM
            scheduler.charge((site, name), cost)
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
            scheduler.wake((name,))
        used = floods = 0
        for _ in range(picks):
            (path,) = scheduler.pick()
            if path == ("busy",):
                used += scheduler.charge(path, QUANTUM)
            else:
                assert scheduler.charge(path, 0) == self.FLOOR
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
        scheduler.wake(("flood",))
        floods = now = 0
        while now < 1000 * MS:
            if scheduler.pick(now):
                scheduler.charge(("flood",), 0, now)
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
        awake: set[Path] = set()
        running: set[Path] = set()
        for _ in range(data.draw(st.integers(1, 60))):
            leaf = data.draw(st.sampled_from(leaves))
            match data.draw(st.sampled_from(["wake", "sleep", "pick", "charge", "weight"])):
                case "wake":
                    scheduler.wake(leaf)
                    awake.add(leaf)
                case "sleep":
                    scheduler.sleep(leaf)
                    awake.discard(leaf)
                case "weight":
                    scheduler.set_weight(leaf[: data.draw(st.integers(1, 2))], data.draw(WEIGHTS))
                case "charge" if leaf in running:
                    scheduler.charge(leaf, data.draw(COSTS))
                    running.discard(leaf)
                case "pick":
                    held = Counter(path[0] for path in running)
                    able = {path for path in awake - running if held[path[0]] < 2}
                    assert scheduler.runnable() == bool(able)
                    picked = scheduler.pick()
                    assert set(picked) <= able
                    assert bool(picked) == bool(able)
                    running.update(picked)
            assert scheduler.share(leaf).runnable == (leaf in awake)
            assert scheduler.share(()).running == len(running)

    def test_a_site_of_width_one_runs_one_generator_at_a_time(self) -> None:
        scheduler = tree({"a": (1000, {"x": 1, "y": 1}), "b": (1, {"z": 1})})
        assert {path[0] for path in scheduler.pick(count=4)} == {"a", "b"}
        assert scheduler.pick() == []

    def test_a_site_held_up_by_its_width_earns_no_claim_on_the_past(self) -> None:
        """On two CPUs a site in one worker gets one of them, whatever its weight; made light, it does not go on owning it."""
        scheduler = tree({"heavy": (1000, {"g": 1}), "b": (1, {"g": 1}), "c": (1, {"g": 1})})
        for _ in range(1000):
            for path in scheduler.pick(count=2):
                scheduler.charge(path, QUANTUM)
        scheduler.set_weight(("heavy",), 1)
        ran = run(scheduler, 300)
        assert ran["heavy",] <= ran["b",] + 10 * QUANTUM


class TestExpress:
    """A CPU more, for a moment, for who wakes after having used little."""

    CREDIT = 2 * QUANTUM

    def loops(self, count: int, light: int = 1, loop: int = 1, express_ns: int = CREDIT) -> Scheduler:
        """As many sites that loop, and one that sleeps."""
        scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=self.CREDIT, express_ns=express_ns)
        for number in range(count):
            scheduler.add((str(number),), loop)
            scheduler.wake((str(number),))
        scheduler.add(("light",), light)
        return scheduler

    def test_it_is_for_who_wakes_and_once(self) -> None:
        scheduler = self.loops(3)
        run(scheduler, 100)
        scheduler.pick()
        assert scheduler.pick_express() is None
        scheduler.wake(("light",))
        assert scheduler.pick_express() == ("light",)
        assert scheduler.pick_express() is None
        scheduler.charge(("light",), QUANTUM)
        assert scheduler.pick_express() is None
        assert scheduler.pick() == [("light",)], "its credit is not used up"

    def test_who_was_picked_in_its_turn_has_had_it(self) -> None:
        scheduler = self.loops(3)
        run(scheduler, 100)
        scheduler.wake(("light",))
        assert scheduler.pick() == [("light",)]
        scheduler.charge(("light",), MS)
        assert scheduler.pick_express() is None

    @pytest.mark.parametrize("light", [1, 10, 1000])
    def test_who_wakes_goes_first_whatever_its_weight(self, light: int) -> None:
        """A heavy one's credit is short in virtual time, but whoever waits does not lie behind that."""
        scheduler = self.loops(20, light=light)
        run(scheduler, 1010)
        scheduler.wake(("light",))
        assert scheduler.pick() == [("light",)]

    @settings(deadline=None)
    @given(st.integers(1, 50), st.integers(1, 50), st.integers(1, QUANTUM), st.integers(1, 5), st.integers(0, CREDIT))
    def test_waking_again_and_again_gains_no_more_than_the_credit(
        self, light: int, loop: int, cost: int, loops: int, express_ns: int
    ) -> None:
        """Express or not: over any time it gets its weight's part, its credit and a slice, and a slice of the others'."""
        scheduler = self.loops(loops, light=light, loop=loop, express_ns=express_ns)
        used = looped = 0
        for _ in range(300):
            scheduler.wake(("light",))
            taken = scheduler.pick_express()
            paths = [taken] if taken else scheduler.pick()
            for path in paths:
                if path == ("light",):
                    scheduler.sleep(path)
                    scheduler.charge(path, cost)
                    used += cost
                else:
                    scheduler.charge(path, QUANTUM)
                    looped += QUANTUM
            bound = (looped / loops + QUANTUM) / loop + (self.CREDIT + 2 * QUANTUM) / light + 2 * QUANTUM / loop
            assert used / light <= bound

    def test_it_is_there_again_as_long_as_credit_covers_it(self) -> None:
        """Its credit is two quanta, and an express slice needs one."""
        scheduler = self.loops(3, express_ns=QUANTUM)
        run(scheduler, 99)
        taken = 0
        scheduler.wake(("light",))
        while scheduler.pick_express() is not None:
            scheduler.sleep(("light",))
            scheduler.charge(("light",), MS)
            scheduler.wake(("light",))
            taken += 1
        assert taken == (self.CREDIT - QUANTUM) // MS + 1
        assert scheduler.pick() == [("light",)]

    def test_who_woke_last_is_first_and_a_cap_or_a_full_site_holds_it_back(self) -> None:
        scheduler = self.loops(3, express_ns=QUANTUM)
        for name in ("early", "late", "capped"):
            scheduler.add((name,), 1)
        scheduler.add(("full",), 1, width=1)
        for generator in "xy":
            scheduler.add(("full", generator), 1, parent=("full",))
        run(scheduler, 99)
        scheduler.set_cap(("capped",), 1, 0)
        scheduler.wake(("capped",))
        while scheduler.pick_express() == ("capped",):
            scheduler.sleep(("capped",))
            scheduler.charge(("capped",), MS)
            scheduler.wake(("capped",))
        assert scheduler.share(("capped",)).throttled
        scheduler.wake(("full", "x"))
        assert scheduler.pick_express() == ("full", "x")
        for path in (("full", "y"), ("early",), ("late",)):
            scheduler.wake(path)
        assert [scheduler.pick_express() for _ in range(3)] == [("late",), ("early",), None]

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 30), st.integers(1, QUANTUM), st.integers(1, 4))
    def test_a_busy_site_gains_nothing_by_the_number_of_its_generators(self, generators: int, cost: int, loops: int) -> None:
        """Each wakes with credit in its site, which has none among the others: it is never idle."""
        scheduler = self.loops(loops, express_ns=QUANTUM)
        scheduler.add(("busy",), 1, width=generators + 1)
        for name in ("loop", *map(str, range(generators))):
            scheduler.add(("busy", name), 1, parent=("busy",))
        scheduler.wake(("busy", "loop"))
        used = looped = 0
        for turn in range(400):
            scheduler.wake(("busy", str(turn % generators)))
            taken = scheduler.pick_express()
            for path in [taken] if taken else scheduler.pick():
                mine = path[0] == "busy"
                spent = cost if mine and path[1] != "loop" else QUANTUM
                if spent == cost and mine and path[1] != "loop":
                    scheduler.sleep(path)
                scheduler.charge(path, spent)
                used += spent * mine
                looped += spent * (not mine)
            assert used <= looped / loops + self.CREDIT + 5 * QUANTUM

    def test_who_was_alone_owes_nothing(self) -> None:
        """What it used while nobody wanted the CPU is no reason for it to wait for the credit of those who come."""
        scheduler = self.loops(0, express_ns=QUANTUM)
        for _ in range(100):
            scheduler.wake(("light",))
            scheduler.pick()
            scheduler.sleep(("light",))
            scheduler.charge(("light",), QUANTUM)
        for number in range(20):
            scheduler.add((str(number),), 1)
            scheduler.wake((str(number),))
        scheduler.pick()
        scheduler.wake(("light",))
        assert scheduler.pick_express() == ("light",)


class TestWaking:
    def test_sleep_is_not_saved_up(self) -> None:
        scheduler = tree({"a": (1, {"g": 1}), "b": (1, {"g": 1})})
        scheduler.sleep(("b", "g"))
        run(scheduler, 1000)
        scheduler.wake(("b", "g"))
        ran = run(scheduler, 100)
        assert abs(ran["a",] - ran["b",]) <= 2 * QUANTUM

    def test_who_wakes_goes_before_a_busy_loop_but_only_as_long_as_its_credit(self) -> None:
        scheduler = tree({"busy": (1, {"g": 1}), "idle": (1, {"g": 1})}, credit_ns=4 * QUANTUM)
        scheduler.sleep(("idle", "g"))
        run(scheduler, 100)
        scheduler.wake(("idle", "g"))
        turns = [path[0] for path in (scheduler.pick()[0],)]
        scheduler.charge(("idle", "g"), QUANTUM)
        for _ in range(20):
            (path,) = scheduler.pick()
            scheduler.charge(path, QUANTUM)
            turns.append(path[0])
        assert turns[:4] == ["idle"] * 4
        assert abs(turns.count("idle") - turns.count("busy")) <= 4 + 2

    def test_sleeping_and_waking_does_not_pay(self) -> None:
        scheduler = tree({"loop": (1, {"g": 1}), "napper": (1, {"g": 1})}, credit_ns=QUANTUM)
        used: Counter[str] = Counter()
        for _ in range(2000):
            (path,) = scheduler.pick()
            scheduler.charge(path, QUANTUM)
            used[path[0]] += QUANTUM
            if path[0] == "napper":
                scheduler.sleep(path)
                scheduler.wake(path)
        assert abs(used["loop"] - used["napper"]) <= 4 * QUANTUM

    def test_waking_twice_and_sleeping_twice_is_once(self) -> None:
        scheduler = tree({"a": (1, {"g": 1})})
        scheduler.wake(("a", "g"))
        scheduler.sleep(("a", "g"))
        scheduler.sleep(("a", "g"))
        assert not scheduler.runnable()


class TestLiveChanges:
    def test_a_weight_counts_from_the_next_charge_on(self) -> None:
        scheduler = tree({"a": (1, {"g": 1}), "b": (1, {"g": 1})})
        run(scheduler, 100)
        scheduler.set_weight(("a",), 4)
        ran = run(scheduler, 1000)
        assert ran["a",] == pytest.approx(4 * ran["b",], rel=0.02)

    def test_a_running_leaf_can_be_removed(self) -> None:
        scheduler = tree({"a": (1, {"g": 1, "h": 1})})
        (path,) = scheduler.pick()
        scheduler.remove(path)
        with pytest.raises(KeyError):
            scheduler.charge(path, 1)
        assert len(scheduler.pick(count=5)) == 1
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
            lambda: scheduler.wake(("a",)),
            lambda: scheduler.remove(()),
            lambda: Scheduler(quantum_ns=0),
        ]:
            with pytest.raises(ValueError):
                wrong()
        with pytest.raises(KeyError):
            scheduler.add(("nobody", "g"), 1, parent=("nobody",))
        with pytest.raises(KeyError):
            scheduler.charge(("a", "g"), 1)
        assert "2 nodes, 1 leaves awake, 0 running" in repr(scheduler)


def test_ten_thousand_generators_are_served_by_their_shares() -> None:
    """A simulation of 2,000 sites with five generators each on eight CPUs, half of them sleeping and waking all the time."""
    rng = random.Random(1)
    scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=QUANTUM)
    for site in range(2000):
        scheduler.add((f"s{site}",), 1 + site % 4)
        for generator in range(5):
            scheduler.add((f"s{site}", f"g{generator}"), 1, parent=(f"s{site}",))
            scheduler.wake((f"s{site}", f"g{generator}"))
    used: Counter[int] = Counter()
    for _ in range(8000):
        picked = scheduler.pick(count=8)
        assert len(picked) == 8
        for path in picked:
            cost = rng.randint(QUANTUM // 2, QUANTUM)
            scheduler.charge(path, cost)
            used[int(path[0][1:]) % 4] += cost
            if int(path[1][1:]) % 2 and rng.random() < 0.5:
                scheduler.sleep(path)
                scheduler.wake(path)
    for weight in range(4):
        assert used[weight] == pytest.approx((1 + weight) * used[0], rel=0.1)
    for node in scheduler._nodes.values():
        assert len(node.heap) <= 2 * len(node.children) + 65


SECOND = 1_000 * MS


class TestCaps:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_no_cap_is_ever_exceeded_and_nothing_else_idles(self, data: st.DataObject) -> None:
        """Over every stretch of time: at most cap x time, a tenth of a second's worth and one quantum, on every level."""
        scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=QUANTUM)
        caps: dict[Path, int] = {}
        for cluster in "ab":
            scheduler.add((cluster,), 1, width=4)
            for site in "xy":
                scheduler.add((cluster, site), 1, parent=(cluster,), width=2)
                for leaf in range(2):
                    scheduler.add((cluster, site, str(leaf)), 1, parent=(cluster, site))
                    scheduler.wake((cluster, site, str(leaf)))
        for path in list(scheduler):
            cap = data.draw(st.none() | st.integers(1, 150))
            scheduler.set_cap(path, cap, 0)
            if cap is not None:
                caps[path] = cap
        ran: list[tuple[int, Path, int]] = []
        now = 0
        running: dict[Path, int] = {}
        for _ in range(data.draw(st.integers(10, 80))):
            for path in scheduler.pick(now, 2 - len(running)):
                running[path] = now
            if len(running) < 2:
                for leaf in (path for path in scheduler if len(path) == 3 and path not in running):
                    full = sum(path[:2] == leaf[:2] for path in running) == 2
                    assert full or any(scheduler.share(leaf[:depth]).throttled for depth in (1, 2, 3))
            step = data.draw(st.integers(1, QUANTUM))
            now += step
            for path in list(running):
                if data.draw(st.booleans()):
                    cost = min(QUANTUM, now - running.pop(path))
                    scheduler.charge(path, cost, now)
                    ran.append((now, path, cost))
            if not running and (release := scheduler.next_release_ns()) is not None and not scheduler.runnable(now):
                now = max(now, release)
        for capped, cap in caps.items():
            mine = [(at, cost) for at, path, cost in ran if path[: len(capped)] == capped]
            for first in range(len(mine)):
                used = 0
                for at, cost in mine[first:]:
                    used += cost
                    # a slice charged at `first` began up to one quantum of CPU earlier on each of the two CPUs
                    since = mine[first][0] - 2 * QUANTUM
                    assert used <= (at - since) * cap / 100 + SECOND * cap / 1000 + 3 * QUANTUM

    def test_a_lone_capped_loop_gets_its_cap_and_no_more(self) -> None:
        scheduler = tree({"a": (1, {"g": 1})})
        scheduler.set_cap(("a",), 20, 0)
        now = used = 0
        while now < 10 * SECOND:
            if picked := scheduler.pick(now):
                now += QUANTUM
                scheduler.charge(picked[0], QUANTUM, now)
                used += QUANTUM
            else:
                release = scheduler.next_release_ns()
                assert release is not None
                assert release > now
                now = release
        assert used == pytest.approx(0.2 * now, rel=0.02)

    def test_what_a_cap_leaves_goes_to_the_others_and_comes_back_when_it_is_lifted(self) -> None:
        scheduler = tree({"capped": (9, {"g": 1}), "free": (1, {"g": 1})})
        scheduler.set_cap(("capped",), 10, 0)
        used: Counter[str] = Counter()
        now = 0
        for turn in range(4000):
            if turn == 2000:
                assert used["capped"] == pytest.approx(0.1 * now, rel=0.05)
                scheduler.set_cap(("capped",), None, now)
                used.clear()
            (path,) = scheduler.pick(now)
            now += QUANTUM
            scheduler.charge(path, QUANTUM, now)
            used[path[0]] += QUANTUM
        assert used["capped"] == pytest.approx(9 * used["free"], rel=0.02)

    @pytest.mark.parametrize("cap", [0, -1, 100_001])
    def test_a_cap_has_bounds(self, cap: int) -> None:
        with pytest.raises(ValueError, match="cap"):
            tree({"a": (1, {})}).set_cap(("a",), cap, 0)
        with pytest.raises(ValueError, match="root"):
            tree({}).set_cap((), 10, 0)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(0, 10**6))
def test_slices_shrink_with_competition_within_their_bounds(slots: int, competing: int) -> None:
    policy = DispatchPolicy(slots=slots)
    slice_ns = policy.slice_for(competing)
    assert policy.least_slice_ns <= slice_ns <= policy.slice_ns
    assert slice_ns == policy.slice_ns or slice_ns * competing >= policy.round_ns * slots - competing


class TestMoving:
    def test_a_site_moves_with_what_runs_in_it(self) -> None:
        scheduler = Scheduler(quantum_ns=QUANTUM)
        for cluster, weight in (("gold", 3), ("tin", 1)):
            scheduler.add((cluster,), weight, width=2)
        for site in ("a", "b", "c"):
            scheduler.add((site,), 1, parent=("tin",))
            scheduler.add((site, "g"), 1, parent=(site,))
            scheduler.wake((site, "g"))
        run(scheduler, 30)
        (path,) = scheduler.pick()
        moved = path[:1]
        scheduler.move(moved, ("gold",))
        assert scheduler.share(("gold",)).running == 1
        assert scheduler.share(("tin",)).running == 0
        scheduler.charge(path, QUANTUM)
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
        (path,) = scheduler.pick()
        scheduler.charge(path, QUANTUM)
        used[int(path[1])] += QUANTUM
        for i, first in enumerate(after):
            for j, second in enumerate(after):
                assert abs(used[i] / first - used[j] / second) <= 2 * (QUANTUM / first + QUANTUM / second) + 1e-6
