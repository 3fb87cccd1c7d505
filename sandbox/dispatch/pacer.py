"""Holding guests to their rates: output and calls above them wait, log above them is dropped. Timers and callbacks on one loop.

What may pass is `pacing.py`'s to decide. A request whose output waits gets no slice: its VM waits with it, within its wall time;
nobody else's does. Called by `requests.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox.dispatch.lane import Generator, Job
from sandbox.dispatch.pacing import Flow, Queue, bucket
from sandbox.dispatch.timed_shaper import TimedShaper, Way
from sandbox.limits import DEFAULT_RATES, KIB, Rates

_PIECE_BYTES = 64 * KIB
_LEAST_PIECE_BYTES = KIB
_PIECES_A_SECOND = 20
"""Output that waits flows in pieces, some 50 ms apart, rather than in the bursts that a bucket would allow."""


class Pacer:
    """All shapers of all sites. `drained` is told when the output of a request that waited has all passed."""

    def __init__(self, drained: Callable[[Job], None]) -> None:
        self._drained = drained
        self._rates: dict[str, Rates] = {}
        self._shapers: dict[tuple[str, Flow], TimedShaper] = {}
        """Made when something first flows."""
        self.waiting: set[Job] = set()
        """Requests whose output waits."""

    def set_rates(self, site: str, rates: Rates) -> None:
        """What the site's generators may do together, from here on."""
        self._rates[site] = rates
        for flow in Flow:
            if (timed := self._shapers.get((site, flow))) is not None:
                timed.retune(rates, flow)

    def forget(self, site: str) -> None:
        """The site has no generator any more; what waits of it still passes."""
        self._rates.pop(site, None)
        for flow in Flow:
            self._shapers.pop((site, flow), None)

    def output(self, call: Job, data: bytes) -> None:
        """Deliver what the guest has sent: now, or as its rate allows."""
        timed, queue = self._way(call.generator, Flow.OUTPUT)
        if not call.held and timed.shaper.take(queue, len(data), timed.now_ns()):
            call.deliver(data)
            return
        call.held.append(memoryview(data))
        if call.ticket is None:
            call.generator.delayed += 1
            self.waiting.add(call)
            self._next_piece(call)

    def drop(self, call: Job) -> None:
        """The request is over: what waits of it never passes."""
        if call not in self.waiting:
            return
        self.waiting.discard(call)
        call.held.clear()
        if (ticket := call.ticket) is not None:
            call.ticket = None
            timed, _ = self._way(call.generator, Flow.OUTPUT)
            timed.shaper.leave(ticket)
            timed.wind()

    def log(self, call: Job, data: bytes) -> None:
        """Hand on as much of the log as the rate allows; count the rest, and say so in the log as soon as there is room."""
        generator = call.generator
        self.own_up(call)
        timed, queue = self._way(generator, Flow.LOG)
        kept = timed.shaper.take_some(queue, len(data), timed.now_ns())
        lost = len(data) - kept
        call.log_dropped_bytes += lost
        generator.log_dropped_bytes += lost
        generator.log_untold_bytes += lost
        if kept:
            call.tell(data[:kept])

    def own_up(self, call: Job) -> None:
        """Say in the log what was dropped of it, if its rate has room for that."""
        generator = call.generator
        if not generator.log_untold_bytes:
            return
        timed, queue = self._way(generator, Flow.LOG)
        rate = min(queue.bucket.rate, timed.shaper.bucket.rate)
        notice = f"({generator.log_untold_bytes} bytes of log dropped: more than {rate} a second)\n".encode()
        if timed.shaper.take(queue, len(notice), timed.now_ns()):
            generator.log_untold_bytes = 0
            call.tell(notice)

    def turn(self, generator: Generator, flow: Flow) -> asyncio.Future[None] | None:
        """When one call may be made: None at once, and it counts; else when this is done. Who cancels it gives its place up."""
        timed, queue = self._way(generator, flow)
        if timed.shaper.take(queue, 1, timed.now_ns()):
            return None
        generator.delayed += 1
        here: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = timed.shaper.wait(queue, 1, lambda: _settle(here), timed.now_ns())
        here.add_done_callback(lambda _: timed.shaper.leave(ticket))
        timed.wind()
        return here

    def close(self) -> None:
        """Let nothing pass any more."""
        for timed in self._shapers.values():
            timed.close()

    def _next_piece(self, call: Job) -> None:
        timed, queue = self._way(call.generator, Flow.OUTPUT)
        rate = min(queue.bucket.rate, timed.shaper.bucket.rate)
        smooth = max(_LEAST_PIECE_BYTES, rate // _PIECES_A_SECOND)
        size = min(len(call.held[0]), timed.shaper.most(queue), smooth, _PIECE_BYTES)
        call.ticket = timed.shaper.wait(queue, size, lambda: self._piece_passed(call, size), timed.now_ns())
        timed.wind()

    def _piece_passed(self, call: Job, size: int) -> None:
        if call.ticket is None:
            return  # it ended while others passed
        call.ticket = None
        data = call.held.popleft()
        if size < len(data):
            call.held.appendleft(data[size:])
        call.deliver(bytes(data[:size]))
        if call.held:
            self._next_piece(call)
        else:
            self.waiting.discard(call)
            self._drained(call)

    def _way(self, generator: Generator, flow: Flow) -> Way:
        """The site's shaper, and the generator's queue at it."""
        if flow is Flow.OUTPUT and generator.output_way is not None:
            return generator.output_way  # for every answer
        site = generator.path[0]
        found = generator.ways.get(flow)
        if found is None:
            timed = self._shapers.get((site, flow))
            if timed is None:
                timed = self._shapers[site, flow] = TimedShaper(self._rates.get(site, DEFAULT_RATES), flow)
            found = generator.ways[flow] = timed, Queue(bucket(generator.limits.rates, flow, timed.now_ns()))
            if flow is Flow.OUTPUT:
                generator.output_way = found
        return found


def _settle(here: asyncio.Future[None]) -> None:
    if not here.done():
        here.set_result(None)
