"""Ends of waits that share a timer: each comes when it is due, none that was called off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from edgecache.upstream.deadlines import Deadline, Deadlines


class FakeLoop:
    """Its time is told; timers run when it has come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.timers.append((when, callback))

    def advance(self, to: float) -> None:
        while self.timers and min(when for when, _ in self.timers) <= to:
            first = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = to


def made() -> tuple[FakeLoop, Deadlines]:
    loop = FakeLoop()
    return loop, Deadlines(cast(asyncio.AbstractEventLoop, loop))


def test_each_comes_when_it_is_due() -> None:
    loop, deadlines = made()
    over: list[tuple[str, float]] = []
    deadlines.begin(5.0, lambda: over.append(("a", loop.now)))
    deadlines.begin(1.0, lambda: over.append(("short", loop.now)))
    loop.advance(2.0)
    deadlines.begin(5.0, lambda: over.append(("b", loop.now)))
    loop.advance(4.9)
    assert over == [("short", 1.0)]
    loop.advance(100.0)
    assert over == [("short", 1.0), ("a", 5.0), ("b", 7.0)]
    assert not loop.timers


def test_what_is_called_off_does_not_come_and_its_timer_serves_the_next() -> None:
    loop, deadlines = made()
    over: list[float] = []
    first = deadlines.begin(5.0, lambda: over.append(-1.0))
    loop.advance(1.0)
    first.cancel()
    first.cancel()
    deadlines.begin(5.0, lambda: over.append(loop.now))
    assert len(loop.timers) == 1
    loop.advance(10.0)
    assert over == [6.0]
    deadlines.begin(5.0, lambda: over.append(loop.now))
    loop.advance(20.0)
    assert over == [6.0, 15.0]


def test_one_that_ends_may_call_off_another_or_begin_one() -> None:
    loop, deadlines = made()
    over: list[str] = []
    others: list[Deadline] = []

    def end() -> None:
        over.append("first")
        others[0].cancel()
        deadlines.begin(5.0, lambda: over.append("later"))

    deadlines.begin(5.0, end)
    others.append(deadlines.begin(5.0, lambda: over.append("other")))
    loop.advance(5.0)
    assert over == ["first"]
    loop.advance(10.0)
    assert over == ["first", "later"]
