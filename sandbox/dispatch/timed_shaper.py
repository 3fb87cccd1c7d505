"""A shaper of `pacing.py` with a timer: looked at again when somebody may pass. Callbacks on one loop; called by `pacer.py`."""

from __future__ import annotations

import asyncio

from sandbox.dispatch.pacing import Flow, Queue, Shaper, bucket
from sandbox.limits import SECOND_NS, Rates

_TIMER_SLACK_S = 0.000_1


class TimedShaper:
    """A shaper and its timer."""

    __slots__ = ("_loop", "_running", "_timer", "shaper")

    def __init__(self, rates: Rates, flow: Flow) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self.shaper = Shaper(bucket(rates, flow, self.now_ns()))

    def now_ns(self) -> int:
        return int(self._loop.time() * SECOND_NS)

    def retune(self, rates: Rates, flow: Flow) -> None:
        self.shaper.retune(rates, flow, self.now_ns())
        self.wind()

    def wind(self) -> None:
        """Somebody came or left: see to it that the shaper is looked at in time. Nobody passes within this call."""
        if self._running:
            return
        self.close()
        now_ns = self.now_ns()
        if (next_ns := self.shaper.next_ns(now_ns)) is not None:
            self._timer = self._loop.call_at(max(now_ns, next_ns) / SECOND_NS + _TIMER_SLACK_S, self._run)

    def _run(self) -> None:
        """Let pass whatever may; those who pass may come back at once."""
        self._running = True
        try:
            while passed := self.shaper.advance(self.now_ns()):
                for ticket in passed:
                    ticket.passed()
        finally:
            self._running = False
        self.wind()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


Way = tuple[TimedShaper, Queue]
"""A site's shaper, and a generator's queue at it."""
