"""Caps: never exceeded, on any level, whatever is idle."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.scheduler import NodePath, Scheduler
from tests.unit.sandbox.share_trees import MS, QUANTUM, charge, pick, tree, wake

SECOND = 1_000 * MS


class TestCaps:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_no_cap_is_ever_exceeded_and_nothing_else_idles(self, data: st.DataObject) -> None:
        """Over every stretch of time: at most cap x time, a tenth of a second's worth and one quantum, on every level."""
        scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=QUANTUM)
        caps: dict[NodePath, int] = {}
        for cluster in "ab":
            scheduler.add((cluster,), 1, width=4)
            for site in "xy":
                scheduler.add((cluster, site), 1, parent=(cluster,), width=2)
                for leaf in range(2):
                    scheduler.add((cluster, site, str(leaf)), 1, parent=(cluster, site))
                    wake(scheduler, (cluster, site, str(leaf)))
        for path in list(scheduler):
            cap = data.draw(st.none() | st.integers(1, 150))
            scheduler.set_cap(path, cap, 0)
            if cap is not None:
                caps[path] = cap
        ran: list[tuple[int, NodePath, int]] = []
        now = 0
        running: dict[NodePath, int] = {}
        for _ in range(data.draw(st.integers(10, 80))):
            for path in pick(scheduler, now, 2 - len(running)):
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
                    charge(scheduler, path, cost, now)
                    ran.append((now, path, cost))
            if not running:
                running = dict.fromkeys(pick(scheduler, now, 2), now)
                if not running and (release := scheduler.next_release_ns()) is not None:
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
            if picked := pick(scheduler, now):
                now += QUANTUM
                charge(scheduler, picked[0], QUANTUM, now)
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
            (path,) = pick(scheduler, now)
            now += QUANTUM
            charge(scheduler, path, QUANTUM, now)
            used[path[0]] += QUANTUM
        assert used["capped"] == pytest.approx(9 * used["free"], rel=0.02)

    @pytest.mark.parametrize("cap", [0, -1, 100_001])
    def test_a_cap_has_bounds(self, cap: int) -> None:
        with pytest.raises(ValueError, match="cap"):
            tree({"a": (1, {})}).set_cap(("a",), cap, 0)
        with pytest.raises(ValueError, match="root"):
            tree({}).set_cap((), 10, 0)
