"""How fast output, log, edge calls and sub-requests may flow: what passes now, and when to look again. Pure: time is an argument.

A `Shaper` is one flow of one site; each of its generators has a `Queue` at it. Whatever passes is taken from the generator's
bucket and the site's in the same moment, so that neither ever lets more through than its rate. Called by `pacer.py`.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable

from sandbox.limits import SECOND_NS, Rates
from sandbox.queueing.bucket import TokenBucket


class Flow(enum.Enum):
    """What a rate is for."""

    OUTPUT = "output"
    LOG = "log"
    EDGE_CALLS = "edge-calls"
    SUB_REQUESTS = "sub-requests"


def bucket(rates: Rates, flow: Flow, now_ns: int) -> TokenBucket:
    """A full one."""
    rate, burst = _numbers(rates, flow)
    return TokenBucket(rate, burst, now_ns)


def _numbers(rates: Rates, flow: Flow) -> tuple[int, int]:
    rate = {
        Flow.OUTPUT: rates.output_bytes,
        Flow.LOG: rates.log_bytes,
        Flow.EDGE_CALLS: rates.edge_calls,
        Flow.SUB_REQUESTS: rates.sub_requests,
    }[flow]
    return rate, max(1, rate * rates.burst_ns // SECOND_NS)


class Ticket:
    """Somebody's place in a queue: so much wants to pass. `passed` is called when it does."""

    __slots__ = ("amount", "passed", "queue")

    def __init__(self, queue: Queue, amount: int, passed: Callable[[], None]) -> None:
        self.queue = queue
        self.amount = amount
        self.passed = passed


class Queue:
    """One generator's way through a shaper: its bucket, and who waits there, in order."""

    __slots__ = ("bucket", "listed", "waiting")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.listed = False
        """Whether the shaper looks after it: once only, however many come and go. Nobody waits where it does not."""

    @property
    def head(self) -> Ticket | None:
        return next(iter(self.waiting), None)


class Shaper:
    """One flow of one site. Generators whose own rate lets them pass take turns at the site's."""

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self._ready: deque[Queue] = deque()
        """Queues whose head its own bucket lets pass, in turn."""
        self._later: list[tuple[int, int, Queue]] = []
        """The other queues in which somebody waits, by the time when their bucket lets their head pass."""
        self._serial = 0

    def retune(self, rates: Rates, flow: Flow, now_ns: int) -> None:
        """The site's rate from here on; nobody gets more by a change than the new burst."""
        self.bucket.retune(*_numbers(rates, flow), now_ns)

    def most(self, queue: Queue) -> int:
        """The largest amount that can pass at once."""
        return min(self.bucket.burst, queue.bucket.burst)

    def take(self, queue: Queue, amount: int, now_ns: int) -> bool:
        """Pass at once if nobody is overtaken by it and both rates allow it; whether that was so."""
        if (queue.listed and queue.waiting) or self._ready or not queue.bucket.spend(amount, now_ns):
            return False
        if self.bucket.spend(amount, now_ns):
            return True
        queue.bucket.take(-amount, now_ns)
        return False

    def take_some(self, queue: Queue, amount: int, now_ns: int) -> int:
        """Pass as much of `amount` as both rates allow now; how much that was. For what does not wait."""
        some = max(0, min(amount, self.bucket.level(now_ns), queue.bucket.level(now_ns)))
        if some:
            self._pay(queue, some, now_ns)
        return some

    def wait(self, queue: Queue, amount: int, passed: Callable[[], None], now_ns: int) -> Ticket:
        """Wait in the queue. `amount` is at most `most`. Call `advance` next."""
        ticket = Ticket(queue, amount, passed)
        queue.waiting[ticket] = None
        if not queue.listed:
            self._enqueue(queue, now_ns)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place up. Harmless when it has passed. Call `advance` next."""
        ticket.queue.waiting.pop(ticket, None)

    def advance(self, now_ns: int) -> list[Ticket]:
        """Those who pass now, in order."""
        passed: list[Ticket] = []
        while True:
            while self._later and self._later[0][0] <= now_ns:
                self._enqueue(heapq.heappop(self._later)[2], now_ns)
            if not self._ready:
                return passed
            queue = self._ready[0]
            ticket = queue.head
            if ticket is not None:
                if self.bucket.wait_ns(ticket.amount, now_ns):
                    return passed
                del queue.waiting[ticket]
                self._pay(queue, ticket.amount, now_ns)
                passed.append(ticket)
            self._enqueue(self._ready.popleft(), now_ns)

    def next_ns(self, now_ns: int) -> int | None:
        """When to `advance` again although nobody came or left; None: nobody waits."""
        times = [self._later[0][0]] if self._later else []
        if self._ready:
            ticket = self._ready[0].head
            times.append(now_ns + (self.bucket.wait_ns(ticket.amount, now_ns) if ticket is not None else 0))
        return min(times, default=None)

    def _enqueue(self, queue: Queue, now_ns: int) -> None:
        """Put the queue where its head is to be found, if there is one."""
        head = queue.head
        queue.listed = head is not None
        if head is None:
            return
        if wait_ns := queue.bucket.wait_ns(head.amount, now_ns):
            self._serial += 1
            heapq.heappush(self._later, (now_ns + wait_ns, self._serial, queue))
        else:
            self._ready.append(queue)

    def _pay(self, queue: Queue, amount: int, now_ns: int) -> None:
        queue.bucket.take(amount, now_ns)
        self.bucket.take(amount, now_ns)
