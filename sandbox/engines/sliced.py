"""What the vCPUs of every engine have in common: runs that end with their slice, and the state that a template keeps.

No instruction is run here, and no engine is known. Each `unicorn.UnicornVcpu` and `kvm.KvmVcpu` has one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from sandbox.engines.base import CpuState
from sandbox.engines.watchdog import LOOK_NS, Alarm, watchdog

_BRIEF_NS: Final = 1_000_000


class Runs:
    """The runs of one vCPU: what of `base.Vcpu` does not depend on the engine."""

    __slots__ = ("_alarm", "_began_ns", "_brief", "_clock", "_watchdog", "entered", "loaded", "runner")

    def __init__(self) -> None:
        self._watchdog = watchdog()
        self._alarm: Alarm | None = None
        self._began_ns = 0
        self._brief = False
        """Whether the last run was over before a deadline could matter."""
        self._clock = 0
        """CPU time of `runner`."""
        self.runner = 0
        """The thread that ran last."""
        self.entered = False
        """Whether an instruction of the guest has run."""
        self.loaded: CpuState | None = None
        """The state that was loaded last."""

    def interrupt(self, stop: Callable[[], None]) -> None:
        """See `base.Vcpu`; `stop` ends a run that is under way in another thread."""
        alarm = self._alarm
        if alarm is not None:
            alarm.fire()
            stop()

    def save(self, state: Callable[[], CpuState]) -> CpuState:
        """The state to load into a fork; what was loaded, if no instruction has run since, else what `state` finds."""
        if self.entered:
            return state()
        if self.loaded is None:
            raise RuntimeError("save before load")
        return self.loaded

    def begin(self, slice_ns: int, now_ns: int | None, stop: Callable[[], None]) -> Alarm:
        """Have `stop` called when this thread has used `slice_ns` more of CPU time than `now_ns`, until `finish`.

        What comes before the run has begun may be lost: it is called again.
        """
        thread = threading.get_ident()
        if thread != self.runner:
            self.runner, self._clock = thread, time.pthread_getcpuclockid(thread)
        now = time.thread_time_ns() if now_ns is None else now_ns
        self._began_ns = time.monotonic_ns()
        # One that mostly makes short runs may once be late by a look, and pays for it; others are seen in time.
        soon_ns = LOOK_NS if self._brief else slice_ns
        self._alarm = alarm = self._watchdog.arm(self._clock, now + slice_ns, stop, soon_ns)
        return alarm

    def finish(self, alarm: Alarm) -> None:
        self._alarm = None
        self._brief = time.monotonic_ns() - self._began_ns < _BRIEF_NS
        self._watchdog.disarm(alarm)
