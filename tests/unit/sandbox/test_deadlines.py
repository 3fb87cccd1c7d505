from __future__ import annotations

import asyncio
from typing import Any

from sandbox.dispatch.deadlines import Deadlines
from sandbox.dispatch.lane import Generator, Job, Lane
from sandbox.dispatch.quarantine import QuarantinePolicy, Score
from sandbox.limits import DEFAULT_LIMITS, MILLISECOND_NS
from sandbox.monitor import NoEdge
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest

SHORT, LONG = 20 * MILLISECOND_NS, 10_000 * MILLISECOND_NS
GENERATOR = Generator(
    "page",
    1,
    Program(b"\x7fELF", Convention.CGI, "page"),
    DEFAULT_LIMITS,
    path=("site", "page"),
    weight=100,
    lane=Lane("site", "site"),
    record=Score(QuarantinePolicy()),
)


def begun(number: int) -> Job:
    now = asyncio.get_running_loop().time()
    return Job(number, GENERATOR, GuestRequest(()), edge=NoEdge(), log=lambda _: None, now=now)


class Clock:
    """Who was late, in order."""

    def __init__(self) -> None:
        self.late: list[int] = []
        self.deadlines = Deadlines(lambda call: self.late.append(call.number))

    async def until(self, *numbers: int) -> None:
        async with asyncio.timeout(10):
            while len(self.late) < len(numbers):
                await asyncio.sleep(0.005)
        assert self.late == list(numbers)


async def test_who_is_not_dropped_is_late_once_in_the_order_of_beginning() -> None:
    clock = Clock()
    for number in (1, 2, 3):
        clock.deadlines.add(begun(number), SHORT)
    await clock.until(1, 2, 3)
    await asyncio.sleep(0.05)
    assert clock.late == [1, 2, 3]


async def test_who_is_dropped_is_not_late_and_who_came_behind_still_is() -> None:
    clock = Clock()
    calls = [begun(number) for number in (1, 2, 3)]
    for call in calls:
        clock.deadlines.add(call, SHORT)
    clock.deadlines.drop(calls[0], SHORT)
    clock.deadlines.drop(calls[2], SHORT)
    clock.deadlines.drop(calls[2], SHORT)
    clock.deadlines.drop(calls[2], LONG)
    await clock.until(2)


async def test_each_limit_has_its_own_time() -> None:
    clock = Clock()
    clock.deadlines.add(begun(1), LONG)
    clock.deadlines.add(begun(2), SHORT)
    await clock.until(2)
    clock.deadlines.close()


async def test_after_a_pause_the_next_is_late_too() -> None:
    clock = Clock()
    first = begun(1)
    clock.deadlines.add(first, SHORT)
    clock.deadlines.drop(first, SHORT)
    await asyncio.sleep(0.06)  # its timer has found nobody
    clock.deadlines.add(begun(2), SHORT)
    await clock.until(2)


async def test_one_that_drops_another_spares_it() -> None:
    late: list[int] = []
    first, second = begun(1), begun(2)

    def ends(call: Job) -> None:
        late.append(call.number)
        deadlines.drop(second, SHORT)

    deadlines: Any = Deadlines(ends)
    deadlines.add(first, SHORT)
    deadlines.add(second, SHORT)
    await asyncio.sleep(0.1)
    assert late == [1]


async def test_nobody_is_late_after_the_end() -> None:
    clock = Clock()
    clock.deadlines.add(begun(1), SHORT)
    clock.deadlines.close()
    await asyncio.sleep(0.05)
    assert clock.late == []
