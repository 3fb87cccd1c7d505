"""What the vCPUs of every engine have in common: a run that ends with its slice, and the state that a template keeps.

No instruction is run here, and no engine is known. Base class of `unicorn.UnicornVcpu` and `kvm.KvmVcpu`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from sandbox.engines.base import CpuState
from sandbox.engines.watchdog import Alarm, watchdog


class SlicedVcpu(ABC):
    """The part of `base.Vcpu` that does not depend on the engine."""

    def __init__(self) -> None:
        self._watchdog = watchdog()
        self._alarm: Alarm | None = None
        self._entered = False
        """Whether an instruction of the guest has run."""
        self._loaded: CpuState | None = None
        self._thread = 0
        self._clock = 0
        """CPU time of `_thread`, which ran last."""

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
        if thread != self._thread:
            self._thread, self._clock = thread, time.pthread_getcpuclockid(thread)
        now = time.thread_time_ns() if now_ns is None else now_ns
        self._alarm = alarm = self._watchdog.arm(self._clock, now + slice_ns, stop)
        return alarm

    def _finish(self, alarm: Alarm) -> None:
        self._alarm = None
        self._watchdog.disarm(alarm)

    @abstractmethod
    def _stop(self) -> None:
        """End a run that is under way in another thread. What comes too early is lost."""

    @abstractmethod
    def _state(self) -> CpuState:
        """What the vCPU holds, once the guest has run."""
