"""How fast output, log, edge calls and sub-requests may flow: what passes now, and when to look again. Pure: time is an argument.

A `Gate` is one flow of one site; each of its generators has a `Line` through it. Whatever passes is taken from the generator's
bucket and the site's in the same moment, so that neither ever lets more through than its rate. Called by `pacer.py`.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable

from sandbox.bucket import TokenBucket
from sandbox.limits import SECOND_NS, Rates


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
    """Somebody's place in a line: so much wants to pass. `passed` is called when it does."""

    __slots__ = ("amount", "line", "passed")

    def __init__(self, line: Line, amount: int, passed: Callable[[], None]) -> None:
        self.line = line
        self.amount = amount
        self.passed = passed


class Line:
    """One generator's way through a gate: its bucket, and who waits there, in order."""

    __slots__ = ("bucket", "listed", "queue")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.queue: OrderedDict[Ticket, None] = OrderedDict()
        self.listed = False
        """Whether the gate looks after it: once only, however many come and go. Nobody waits where it does not."""

    @property
    def head(self) -> Ticket | None:
        return next(iter(self.queue), None)


class Gate:
    """One flow of one site. Generators whose own rate lets them pass take turns at the site's."""

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self._ready: deque[Line] = deque()
        """Lines whose head its own bucket lets pass, in turn."""
        self._later: list[tuple[int, int, Line]] = []
        """The other lines in which somebody waits, by the time when their bucket lets their head pass."""
        self._serial = 0

    def retune(self, rates: Rates, flow: Flow, now_ns: int) -> None:
        """The site's rate from here on; nobody gets more by a change than the new burst."""
        self.bucket.retune(*_numbers(rates, flow), now_ns)

    def most(self, line: Line) -> int:
        """The largest amount that can pass at once."""
        return min(self.bucket.burst, line.bucket.burst)

    def take(self, line: Line, amount: int, now_ns: int) -> bool:
        """Pass at once if nobody is overtaken by it and both rates allow it; whether that was so."""
        if (line.listed and line.queue) or self._ready or not line.bucket.spend(amount, now_ns):
            return False
        if self.bucket.spend(amount, now_ns):
            return True
        line.bucket.take(-amount, now_ns)
        return False

    def take_some(self, line: Line, amount: int, now_ns: int) -> int:
        """Pass as much of `amount` as both rates allow now; how much that was. For what does not wait."""
        some = max(0, min(amount, self.bucket.level(now_ns), line.bucket.level(now_ns)))
        if some:
            self._pay(line, some, now_ns)
        return some

    def wait(self, line: Line, amount: int, passed: Callable[[], None], now_ns: int) -> Ticket:
        """Stand in line. `amount` is at most `most`. Call `advance` next."""
        ticket = Ticket(line, amount, passed)
        line.queue[ticket] = None
        if not line.listed:
            self._line_up(line, now_ns)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place up. Harmless when it has passed. Call `advance` next."""
        ticket.line.queue.pop(ticket, None)

    def advance(self, now_ns: int) -> list[Ticket]:
        """Those who pass now, in order."""
        passed: list[Ticket] = []
        while True:
            while self._later and self._later[0][0] <= now_ns:
                self._line_up(heapq.heappop(self._later)[2], now_ns)
            if not self._ready:
                return passed
            line = self._ready[0]
            ticket = line.head
            if ticket is not None:
                if self.bucket.wait_ns(ticket.amount, now_ns):
                    return passed
                del line.queue[ticket]
                self._pay(line, ticket.amount, now_ns)
                passed.append(ticket)
            self._line_up(self._ready.popleft(), now_ns)

    def next_ns(self, now_ns: int) -> int | None:
        """When to `advance` again although nobody came or left; None: nobody waits."""
        times = [self._later[0][0]] if self._later else []
        if self._ready:
            ticket = self._ready[0].head
            times.append(now_ns + (self.bucket.wait_ns(ticket.amount, now_ns) if ticket is not None else 0))
        return min(times, default=None)

    def _line_up(self, line: Line, now_ns: int) -> None:
        """Put the line where its head is to be found, if there is one."""
        head = line.head
        line.listed = head is not None
        if head is None:
            return
        if wait_ns := line.bucket.wait_ns(head.amount, now_ns):
            self._serial += 1
            heapq.heappush(self._later, (now_ns + wait_ns, self._serial, line))
        else:
            self._ready.append(line)

    def _pay(self, line: Line, amount: int, now_ns: int) -> None:
        line.bucket.take(amount, now_ns)
        self.bucket.take(amount, now_ns)
