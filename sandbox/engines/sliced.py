"""What the vCPUs of every engine have in common: a run that ends with its slice, and the state that a template keeps.

No instruction is run here, and no engine is known. Base class of `unicorn.UnicornVcpu` and `kvm.KvmVcpu`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from sandbox.engines.base import CpuState
from sandbox.engines.watchdog import LOOK_NS, Alarm, watchdog

_BRIEF_NS: Final = 1_000_000


class SlicedVcpu(ABC):
    """The part of `base.Vcpu` that does not depend on the engine."""

    def __init__(self) -> None:
        self._watchdog = watchdog()
        self._alarm: Alarm | None = None
        self._entered = False
        """Whether an instruction of the guest has run."""
        self._loaded: CpuState | None = None
        self._began_ns = 0
        self._brief = False
        """Whether the last run was over before a deadline could matter."""
        self._runner = 0
        self._clock = 0
        """CPU time of `_runner`, which ran last."""

    def interrupt(self) -> None:
        """See `base.Vcpu`."""
        alarm = self._alarm
        if alarm is not None:
            alarm.fire()
            self._stop()

    def save(self) -> CpuState:
        """The state to load into a fork; what was loaded, if no instruction has run since."""
        if self._entered:
            return self._state()
        if self._loaded is None:
            raise RuntimeError("save before load")
        return self._loaded

    def _begin(self, slice_ns: int, now_ns: int | None, stop: Callable[[], None]) -> Alarm:
        """Have `stop` called when this thread has used `slice_ns` more of CPU time than `now_ns`, until `_finish`."""
        thread = threading.get_ident()
        if thread != self._runner:
            self._runner, self._clock = thread, time.pthread_getcpuclockid(thread)
        now = time.thread_time_ns() if now_ns is None else now_ns
        self._began_ns = time.monotonic_ns()
        # One that mostly makes short runs may once be late by a look, and pays for it; others are seen in time.
        soon_ns = LOOK_NS if self._brief else slice_ns
        self._alarm = alarm = self._watchdog.arm(self._clock, now + slice_ns, stop, soon_ns=soon_ns)
        return alarm

    def _finish(self, alarm: Alarm) -> None:
        self._alarm = None
        self._brief = time.monotonic_ns() - self._began_ns < _BRIEF_NS
        self._watchdog.disarm(alarm)

    @abstractmethod
    def _stop(self) -> None:
        """End a run that is under way in another thread. What comes too early is lost."""

    @abstractmethod
    def _state(self) -> CpuState:
        """What the vCPU holds, once the guest has run."""
