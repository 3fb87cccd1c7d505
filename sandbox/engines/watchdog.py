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

_LATE_NS: Final = 1_000_000
"""How late the end of a slice may be seen."""
LOOK_NS: Final = 4_000_000
"""Longest time between two looks while there is anything to do. One takes 12 us, mostly of the CPU that guests need."""
_REPEAT_NS: Final = 50_000
_IDLE_LOOKS: Final = 12


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
        self._armed = 0
        self._look_ns = 0
        """When it looks next, on the monotonic clock."""
        self._watcher: threading.Thread | None = None

    def arm(self, clock: int, deadline_ns: int, stop: Callable[[], None], soon_ns: int = 0) -> Alarm:
        """Call `stop` again and again once `clock` has reached the deadline, until `disarm`.

        `soon_ns`: in less time than that the deadline is not reached, or nobody minds if it is seen with the next look.
        """
        alarm = Alarm(clock, deadline_ns, stop)
        self._alarms.append(alarm)  # atomic; only what takes an alarm away has to wait for the look that may use it
        self._armed += 1
        if self._asleep or time.monotonic_ns() + soon_ns + _LATE_NS < self._look_ns:
            self._start()
        return alarm

    def disarm(self, alarm: Alarm) -> None:
        """When this returns, `stop` is not running and will not be called again."""
        with self._lock:
            self._alarms.remove(alarm)

    def _start(self) -> None:
        if self._watcher is None:
            with self._lock:
                if self._watcher is None:
                    self._watcher = threading.Thread(target=self._watch, name="vcpu-watchdog", daemon=True)
                    self._watcher.start()
        self._asleep = False
        self._wake.set()

    def _watch(self) -> None:
        idle = 0
        while True:
            armed = self._armed
            pause_ns = self._look()
            idle = idle + 1 if pause_ns is None else 0
            if idle > _IDLE_LOOKS:
                self._asleep = True
                if not self._alarms:
                    self._wake.wait()
                self._wake.clear()
                self._asleep = False
                idle = 0
                continue
            pause_ns = min(LOOK_NS if pause_ns is None else pause_ns, LOOK_NS)
            self._look_ns = time.monotonic_ns() + pause_ns
            if self._armed != armed:
                continue  # who came since has not known of this pause
            if pause_ns <= _LATE_NS:
                time.sleep(pause_ns / 1e9)
            elif self._wake.wait(pause_ns / 1e9):
                self._wake.clear()

    def _look(self) -> int | None:
        """Stop what is due. Nanoseconds until the next look; None when nothing runs."""
        with self._lock:
            pause_ns = None
            for alarm in self._alarms:
                left_ns = 0 if alarm.fired else alarm.deadline_ns - time.clock_gettime_ns(alarm.clock)
                if left_ns <= 0:
                    alarm.fired = True
                    alarm.stop()
                    left_ns = _REPEAT_NS
                pause_ns = left_ns if pause_ns is None else min(pause_ns, left_ns)
            return pause_ns


_watchdogs: list[Watchdog] = []


def watchdog() -> Watchdog:
    """This process's watchdog; a fork has its own."""
    if not _watchdogs:
        _watchdogs.append(Watchdog())
    return _watchdogs[0]


os.register_at_fork(after_in_child=_watchdogs.clear)
