"""Rates: over no interval does more pass than rate x time + burst, nobody is overtaken, and everybody passes in the end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.dispatch.pacing import Flow, Queue, Shaper, Ticket, bucket
from sandbox.limits import DEFAULT_RATES, SECOND_NS, Rates
from sandbox.queueing.bucket import TokenBucket

MS = 1_000_000
SMALL = st.integers(1, 50)


class Road:
    """A shaper with queues, driven through time as its timer would: everything that passes is written down."""

    def __init__(self, site: tuple[int, int], queues: list[tuple[int, int]]) -> None:
        self.shaper = Shaper(TokenBucket(*site, 0))
        self.queues = [Queue(TokenBucket(rate, burst, 0)) for rate, burst in queues]
        self.now = 0
        self.passed: list[tuple[int, int, int]] = []
        """When, through which queue, how much."""
        self.order: list[Ticket] = []

    def ask(self, number: int, amount: int) -> Ticket | None:
        queue = self.queues[number]
        amount = min(amount, self.shaper.most(queue))
        if self.shaper.take(queue, amount, self.now):
            self.passed.append((self.now, number, amount))
            return None
        ticket = self.shaper.wait(queue, amount, lambda: None, self.now)
        self.advance()
        return ticket

    def advance(self) -> None:
        for ticket in self.shaper.advance(self.now):
            self.order.append(ticket)
            self.passed.append((self.now, self.queues.index(ticket.queue), ticket.amount))

    def until(self, now: int) -> None:
        while (due := self.shaper.next_ns(self.now)) is not None and due <= now:
            self.now = max(self.now, due)
            self.advance()
        self.now = now

    def drain(self) -> None:
        for _ in range(10_000):
            due = self.shaper.next_ns(self.now)
            if due is None:
                return
            self.now = max(self.now, due)
            self.advance()
        raise AssertionError("somebody waits for ever")

    def most(self, queue: int | None, rate: int, burst: int) -> None:
        """Over every interval."""
        events = [(at, amount) for at, number, amount in self.passed if queue in (None, number)]
        for first in range(len(events)):
            total = 0
            for at, amount in events[first:]:
                total += amount
                assert total * SECOND_NS <= burst * SECOND_NS + rate * (at - events[first][0])


@settings(deadline=None)
@given(
    st.tuples(SMALL, SMALL),
    st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 80), st.integers(0, 2000), st.booleans()), max_size=40),
)
def test_over_any_interval_no_more_passes_than_rate_times_time_and_burst(
    site: tuple[int, int], queues: list[tuple[int, int]], asked: list[tuple[int, int, int, bool]]
) -> None:
    road = Road(site, queues)
    for number, amount, pause_ms, leaves in asked:
        road.until(road.now + pause_ms * MS)
        ticket = road.ask(number % len(queues), amount)
        if ticket is not None and leaves:
            road.shaper.leave(ticket)
            road.advance()
    road.drain()
    road.most(None, *site)
    for number, (rate, burst) in enumerate(queues):
        road.most(number, rate, burst)
    assert not any(queue.waiting for queue in road.queues)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), max_size=40))
def test_nobody_is_overtaken_in_its_lane(asked: list[tuple[int, int]]) -> None:
    road = Road((7, 20), [(5, 20), (3, 20), (50, 20)])
    tickets = [ticket for number, amount in asked if (ticket := road.ask(number, amount)) is not None]
    road.drain()
    for queue in road.queues:
        assert [t for t in road.order if t.queue is queue] == [t for t in tickets if t.queue is queue]


def test_a_generator_that_waits_for_its_own_rate_is_in_nobodys_way() -> None:
    road = Road((1000, 1000), [(1, 1), (1000, 1000)])
    for _ in range(5):
        road.ask(0, 1)
    assert [number for _, number, _ in road.passed] == [0]
    assert road.ask(1, 500) is None


def test_generators_take_turns_at_their_sites_rate() -> None:
    road = Road((1, 1), [(100, 100), (100, 100)])
    road.ask(0, 1)
    for number in (0, 0, 0, 1):
        road.ask(number, 1)
    road.drain()
    assert [number for _, number, _ in road.passed] == [0, 0, 1, 0, 0]


def test_what_cannot_wait_passes_in_part() -> None:
    shaper, queue = Shaper(TokenBucket(10, 10, 0)), Queue(TokenBucket(100, 6, 0))
    assert [shaper.take_some(queue, 8, 0), shaper.take_some(queue, 8, 0)] == [6, 0]
    assert shaper.take_some(queue, 100, SECOND_NS) == 6
    assert shaper.take_some(queue, 100, SECOND_NS) == 0


def test_coming_and_leaving_without_end_leaves_nothing_behind() -> None:
    road = Road((1, 1), [(1, 1)])
    road.ask(0, 1)
    for _ in range(1000):
        ticket = road.ask(0, 1)
        assert ticket is not None
        road.shaper.leave(ticket)
        road.advance()
    assert len(road.shaper._later) <= 1
    road.drain()
    assert len(road.passed) == 1


def test_a_changed_rate_gives_nobody_more_than_its_burst() -> None:
    shaper = Shaper(bucket(DEFAULT_RATES, Flow.OUTPUT, 0))
    slow = replace(DEFAULT_RATES, output_bytes=1000)
    shaper.retune(slow, Flow.OUTPUT, 0)
    assert (shaper.bucket.rate, shaper.bucket.level(0)) == (1000, 1000)
    shaper.bucket.take(1000, 0)
    shaper.retune(DEFAULT_RATES, Flow.OUTPUT, 0)
    assert shaper.bucket.level(0) == 0


def test_a_burst_is_at_least_one() -> None:
    assert bucket(Rates(1, 1, 1, 1, 1), Flow.EDGE_CALLS, 0).burst == 1
