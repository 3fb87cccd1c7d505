"""Ends of waits, of which nearly none is ever reached: one timer of the event loop for all that wait equally long.

A timer of the loop for each, begun and cancelled, takes microseconds. `bodiless` and `beginning` begin them.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final

_MANY_LENGTHS: Final = 256


class Deadline:
    """The end of one wait."""

    __slots__ = ("_line", "at", "expired")

    def __init__(self, line: _Line, at: float, expired: Callable[[], object]) -> None:
        """`at`: the loop's time at which `expired` is called."""
        self._line = line
        self.at = at
        self.expired = expired

    def cancel(self) -> None:
        """The wait is over. Idempotent."""
        self._line.waiting.pop(self, None)


class _Line:
    """Waits of one length: who came first ends first."""

    __slots__ = ("_loop", "_seconds", "armed", "waiting")

    def __init__(self, loop: AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self.armed = False
        self.waiting: dict[Deadline, None] = {}

    def begin(self, expired: Callable[[], object]) -> Deadline:
        deadline = Deadline(self, self._loop.time() + self._seconds, expired)
        self.waiting[deadline] = None
        if not self.armed:
            self.armed = True
            self._loop.call_at(deadline.at, self._look)
        return deadline

    def _look(self) -> None:
        """End what has lasted long enough; come again when the next one may have."""
        now = self._loop.time()
        over: list[Deadline] = []
        self.armed = False
        for deadline in self.waiting:
            if deadline.at > now:
                self.armed = True
                self._loop.call_at(deadline.at, self._look)
                break
            over.append(deadline)
        for deadline in over:
            # One may have ended another.
            if deadline in self.waiting:
                del self.waiting[deadline]
                deadline.expired()


class Deadlines:
    """Those of one event loop."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: dict[float, _Line] = {}

    def begin(self, seconds: float, expired: Callable[[], object]) -> Deadline:
        """Call `expired` in so many seconds, unless it is cancelled before."""
        line = self._lines.get(seconds)
        if line is None:
            if len(self._lines) >= _MANY_LENGTHS:
                # Configurations come and go; lines that are in use live on with their timers.
                self._lines.clear()
            line = self._lines[seconds] = _Line(self._loop, seconds)
        return line.begin(expired)
