"""Stops vCPUs whose slice of CPU time is used: one thread a process, started at the first need.

Knows clocks and a stop function, no engine. A stop that arrives before the engine has started is lost, so it is repeated until
the run has returned.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

_TICK_S: Final = 0.001
"""Longest time for which a new run is not noticed, and so the error of a slice."""
_REPEAT_S: Final = 0.000_05
_IDLE_TICKS: Final = 50


class Alarm:
    """One run's deadline, in nanoseconds of its thread's CPU time."""

    __slots__ = ("clock", "deadline_ns", "fired", "stop")

    def __init__(self, clock: int, deadline_ns: int, stop: Callable[[], None]) -> None:
        self.clock = clock
        self.deadline_ns = deadline_ns
        self.stop = stop
        self.fired = False

    def fire(self) -> None:
        self.fired = True


class Watchdog:
    """Watches every run of this process."""

    def __init__(self) -> None:
        self._alarms: list[Alarm] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._asleep = True
        self._thread: threading.Thread | None = None

    def arm(self, clock: int, deadline_ns: int, stop: Callable[[], None]) -> Alarm:
        """Call `stop` again and again once `clock` has reached the deadline, until `disarm`."""
        alarm = Alarm(clock, deadline_ns, stop)
        self._alarms.append(alarm)  # atomic; only what takes an alarm away has to wait for the look that may use it
        if self._asleep:
            self._start()
        return alarm

    def disarm(self, alarm: Alarm) -> None:
        """When this returns, `stop` is not running and will not be called again."""
        with self._lock:
            self._alarms.remove(alarm)

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._watch, name="vcpu-watchdog", daemon=True)
                    self._thread.start()
        self._asleep = False
        self._wake.set()

    def _watch(self) -> None:
        idle = 0
        while True:
            pause = self._look()
            if pause is None:
                idle += 1
                if idle > _IDLE_TICKS:
                    self._asleep = True
                    if not self._alarms:
                        self._wake.wait()
                    self._wake.clear()
                    self._asleep = False
                    idle = 0
                    continue
                pause = _TICK_S
            else:
                idle = 0
            time.sleep(pause)

    def _look(self) -> float | None:
        """Stop what is due. Seconds until the next look; None when nothing runs."""
        with self._lock:
            pause = None
            for alarm in self._alarms:
                left_ns = 0 if alarm.fired else alarm.deadline_ns - time.clock_gettime_ns(alarm.clock)
                if left_ns <= 0:
                    alarm.fired = True
                    alarm.stop()
                    left_ns = int(_REPEAT_S * 1e9)
                wait = min(left_ns / 1e9, _TICK_S)
                pause = wait if pause is None else min(pause, wait)
            return pause


_watchdogs: list[Watchdog] = []


def watchdog() -> Watchdog:
    """This process's watchdog; a fork has its own."""
    if not _watchdogs:
        _watchdogs.append(Watchdog())
    return _watchdogs[0]


os.register_at_fork(after_in_child=_watchdogs.clear)
