"""A CPU more, for a moment, for who wakes after having used little."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.scheduler import Scheduler
from tests.unit.sandbox.share_trees import MS, QUANTUM, charge, pick, pick_express, run, sleep, wake


class TestExpress:
    CREDIT = 2 * QUANTUM

    def loops(self, count: int, light: int = 1, loop: int = 1, express_ns: int = CREDIT) -> Scheduler:
        """As many sites that loop, and one that sleeps."""
        scheduler = Scheduler(quantum_ns=QUANTUM, credit_ns=self.CREDIT, express_ns=express_ns)
        for number in range(count):
            scheduler.add((str(number),), loop)
            wake(scheduler, (str(number),))
        scheduler.add(("light",), light)
        return scheduler

    def test_it_is_for_who_wakes_and_once(self) -> None:
        scheduler = self.loops(3)
        run(scheduler, 100)
        pick(scheduler)
        assert pick_express(scheduler) is None
        wake(scheduler, ("light",))
        assert pick_express(scheduler) == ("light",)
        assert pick_express(scheduler) is None
        charge(scheduler, ("light",), QUANTUM)
        assert pick_express(scheduler) is None
        assert pick(scheduler) == [("light",)], "its credit is not used up"

    def test_who_was_picked_in_its_turn_has_had_it(self) -> None:
        scheduler = self.loops(3)
        run(scheduler, 100)
        wake(scheduler, ("light",))
        assert pick(scheduler) == [("light",)]
        charge(scheduler, ("light",), MS)
        assert pick_express(scheduler) is None

    @pytest.mark.parametrize("light", [1, 10, 1000])
    def test_who_wakes_goes_first_whatever_its_weight(self, light: int) -> None:
        """A heavy one's credit is short in virtual time, but whoever waits does not lie behind that."""
        scheduler = self.loops(20, light=light)
        run(scheduler, 1010)
        wake(scheduler, ("light",))
        assert pick(scheduler) == [("light",)]

    @settings(deadline=None)
    @given(st.integers(1, 50), st.integers(1, 50), st.integers(1, QUANTUM), st.integers(1, 5), st.integers(0, CREDIT))
    def test_waking_again_and_again_gains_no_more_than_the_credit(
        self, light: int, loop: int, cost: int, loops: int, express_ns: int
    ) -> None:
        """Express or not: over any time it gets its weight's part, its credit and a slice, and a slice of the others'."""
        scheduler = self.loops(loops, light=light, loop=loop, express_ns=express_ns)
        used = looped = 0
        for _ in range(300):
            wake(scheduler, ("light",))
            taken = pick_express(scheduler)
            paths = [taken] if taken else pick(scheduler)
            for path in paths:
                if path == ("light",):
                    sleep(scheduler, path)
                    charge(scheduler, path, cost)
                    used += cost
                else:
                    charge(scheduler, path, QUANTUM)
                    looped += QUANTUM
            bound = (looped / loops + QUANTUM) / loop + (self.CREDIT + 2 * QUANTUM) / light + 2 * QUANTUM / loop
            assert used / light <= bound

    def test_it_is_there_again_as_long_as_credit_covers_it(self) -> None:
        """Its credit is two quanta, and an express slice needs one."""
        scheduler = self.loops(3, express_ns=QUANTUM)
        run(scheduler, 99)
        taken = 0
        wake(scheduler, ("light",))
        while pick_express(scheduler) is not None:
            sleep(scheduler, ("light",))
            charge(scheduler, ("light",), MS)
            wake(scheduler, ("light",))
            taken += 1
        assert taken == (self.CREDIT - QUANTUM) // MS + 1
        assert pick(scheduler) == [("light",)]

    def test_who_woke_last_is_first_and_a_cap_or_a_full_site_holds_it_back(self) -> None:
        scheduler = self.loops(3, express_ns=QUANTUM)
        for name in ("early", "late", "capped"):
            scheduler.add((name,), 1)
        scheduler.add(("full",), 1, width=1)
        for generator in "xy":
            scheduler.add(("full", generator), 1, parent=("full",))
        run(scheduler, 99)
        scheduler.set_cap(("capped",), 1, 0)
        wake(scheduler, ("capped",))
        while pick_express(scheduler) == ("capped",):
            sleep(scheduler, ("capped",))
            charge(scheduler, ("capped",), MS)
            wake(scheduler, ("capped",))
        assert scheduler.share(("capped",)).throttled
        wake(scheduler, ("full", "x"))
        assert pick_express(scheduler) == ("full", "x")
        for path in (("full", "y"), ("early",), ("late",)):
            wake(scheduler, path)
        assert [pick_express(scheduler) for _ in range(3)] == [("late",), ("early",), None]

    def test_who_has_more_to_do_after_a_short_slice_goes_on_and_who_used_it_up_waits(self) -> None:
        scheduler = self.loops(3, express_ns=QUANTUM)
        run(scheduler, 99)
        wake(scheduler, ("light",))
        for _ in range(3):
            assert pick_express(scheduler) == ("light",)
            charge(scheduler, ("light",), MS, yielded=True)
        assert pick_express(scheduler) == ("light",)
        charge(scheduler, ("light",), MS)
        assert pick_express(scheduler) is None

    def test_generators_of_one_worker_follow_one_another(self) -> None:
        """The second waits for the first alone, whose slice is held to cost a quantum until it ends."""
        scheduler = self.loops(3, express_ns=QUANTUM)
        scheduler.add(("site",), 1, width=1)
        for generator in "xy":
            scheduler.add(("site", generator), 1, parent=("site",))
            wake(scheduler, ("site", generator))
            while pick(scheduler) != [("site", generator)]:
                for number in range(3):
                    if scheduler.share((str(number),)).running:
                        charge(scheduler, (str(number),), QUANTUM)
            sleep(scheduler, ("site", generator))
            charge(scheduler, ("site", generator), 0)
        run(scheduler, 99)
        for generator in "xyxy":
            wake(scheduler, ("site", generator))
            assert pick_express(scheduler) == ("site", generator)
            other = ("site", "y" if generator == "x" else "x")
            wake(scheduler, other)
            assert pick_express(scheduler) is None
            sleep(scheduler, ("site", generator))
            charge(scheduler, ("site", generator), MS, yielded=True)
            assert pick_express(scheduler) == other
            sleep(scheduler, other)
            charge(scheduler, other, 0)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 30), st.integers(1, QUANTUM), st.integers(1, 4))
    def test_a_busy_site_gains_nothing_by_the_number_of_its_generators(self, generators: int, cost: int, loops: int) -> None:
        """Each wakes with credit in its site, which has none among the others: it is never idle."""
        scheduler = self.loops(loops, express_ns=QUANTUM)
        scheduler.add(("busy",), 1, width=generators + 1)
        for name in ("loop", *map(str, range(generators))):
            scheduler.add(("busy", name), 1, parent=("busy",))
        wake(scheduler, ("busy", "loop"))
        used = looped = 0
        for turn in range(400):
            wake(scheduler, ("busy", str(turn % generators)))
            taken = pick_express(scheduler)
            for path in [taken] if taken else pick(scheduler):
                mine = path[0] == "busy"
                spent = cost if mine and path[1] != "loop" else QUANTUM
                if spent == cost and mine and path[1] != "loop":
                    sleep(scheduler, path)
                charge(scheduler, path, spent)
                used += spent * mine
                looped += spent * (not mine)
            assert used <= looped / loops + self.CREDIT + 5 * QUANTUM

    def test_who_was_alone_owes_nothing(self) -> None:
        """What it used while nobody wanted the CPU is no reason for it to wait for the credit of those who come."""
        scheduler = self.loops(0, express_ns=QUANTUM)
        for _ in range(100):
            wake(scheduler, ("light",))
            pick(scheduler)
            sleep(scheduler, ("light",))
            charge(scheduler, ("light",), QUANTUM)
        for number in range(20):
            scheduler.add((str(number),), 1)
            wake(scheduler, (str(number),))
        pick(scheduler)
        wake(scheduler, ("light",))
        assert pick_express(scheduler) == ("light",)
