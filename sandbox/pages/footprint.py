"""What a process really takes: each page it maps, divided by how many map it (PSS), so that a shared template counts once.

Reads proc_pid_smaps(5); decides nothing. Called by `dispatch/worker_pool.py` and `bench/`.
"""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.pages.paging import PAGE


def proportional_bytes(pid: int | str) -> int | None:
    """PSS of a process. Where its smaps are not ours to read (ptrace(2), PTRACE_MODE_READ), its RSS: shared pages counted whole.

    None when the process is gone.
    """
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident_bytes(pid)


def resident_bytes(pid: int | str) -> int | None:
    """RSS of a process: some 20 us, however large it is. None when the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except (OSError, IndexError):
        return None


def physical_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """What could be used without swapping: MemAvailable of proc_meminfo(5), or all of it where that is not told."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return physical_bytes()
