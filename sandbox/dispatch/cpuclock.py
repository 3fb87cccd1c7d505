"""CPU time of a worker's process as the kernel counts it: no word of the worker's own is taken.

The process's clock is a sum over its threads, made at each reading. On kvm the kernel starts a thread for each VM in the worker:
with a thousand VMs a reading takes 10 us and more. There the thread that runs guests is read, and the others now and then.
Called by `spawner.py`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

SUM_EVERY_NS: Final = 200_000_000
"""How late the time of other threads may be charged, on kvm."""
_LINE_BYTES: Final = 128


class CpuClock:
    """One process's. Readings never go back, and end with the process."""

    def __init__(self, pid: int, *, many_threads: bool) -> None:
        self._clock = ~pid << 3 | 2  # clock_getcpuclockid(3): CPUCLOCK_SCHED of a process
        self._used_ns = self._others_ns = self._summed_ns = 0
        self._schedstat = -1
        if many_threads:
            with suppress(OSError):  # a kernel without CONFIG_SCHED_INFO, a /proc that hides others: the sum is read each time
                self._schedstat = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def read_ns(self) -> int:
        """Nanoseconds so far; of a process that is gone, what was read last."""
        try:
            self._used_ns = max(self._used_ns, self._read())
        except OSError:
            return self._used_ns
        return self._used_ns

    def close(self) -> None:
        """Idempotent."""
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def _read(self) -> int:
        if self._schedstat < 0:
            return time.clock_gettime_ns(self._clock)
        main_ns = int(os.pread(self._schedstat, _LINE_BYTES, 0).split(None, 1)[0])
        now = time.monotonic_ns()
        if now - self._summed_ns >= SUM_EVERY_NS:
            self._summed_ns = now
            self._others_ns = max(self._others_ns, time.clock_gettime_ns(self._clock) - main_ns)
        return main_ns + self._others_ns
