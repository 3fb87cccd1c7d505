"""When requests are late: one timer for each time limit, however many requests run under it. On one event loop.

Requests with the same limit are late in the order in which they began, so that only the first needs a timer, and one that ends
in time costs no more than two dict operations. What becomes of one that is late is `requests.py`'s, which calls this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox.dispatch.lane import Job
from sandbox.limits import SECOND_NS


class _Row:
    """The requests under one limit, by number, in the order in which they began."""

    def __init__(self, limit_ns: int) -> None:
        self.limit_s = limit_ns / SECOND_NS
        self.calls: dict[int, Job] = {}
        self.timer: asyncio.TimerHandle | None = None


class Deadlines:
    """`late` is told once of each request that has not been dropped within its limit of the time at which it started."""

    def __init__(self, late: Callable[[Job], None]) -> None:
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._rows: dict[int, _Row] = {}

    def add(self, call: Job, limit_ns: int) -> None:
        """`call` has just started."""
        row = self._rows.get(limit_ns)
        if row is None:
            row = self._rows[limit_ns] = _Row(limit_ns)
        row.calls[call.number] = call
        if row.timer is None:
            self._wind(limit_ns, row)

    def drop(self, call: Job, limit_ns: int) -> None:
        """Harmless when it has been late, or is unknown. The timer stays: it finds the next one, or nobody."""
        row = self._rows.get(limit_ns)
        if row is not None:
            row.calls.pop(call.number, None)

    def close(self) -> None:
        """Nobody is late any more."""
        for row in self._rows.values():
            if row.timer is not None:
                row.timer.cancel()
        self._rows.clear()

    def _wind(self, limit_ns: int, row: _Row) -> None:
        """Look again when the first is late."""
        for first in row.calls.values():
            row.timer = self._loop.call_at(first.started + row.limit_s, self._due, limit_ns)
            return
        row.timer = None
        del self._rows[limit_ns]

    def _due(self, limit_ns: int) -> None:
        row = self._rows.get(limit_ns)
        if row is None:
            return
        latest = self._loop.time() - row.limit_s
        late: list[Job] = []
        for call in row.calls.values():
            if call.started > latest:
                break
            late.append(call)
        for call in late:
            # One that ends because of another's end is not late any more.
            if row.calls.pop(call.number, None) is not None:
                self._late(call)
        self._wind(limit_ns, row)
