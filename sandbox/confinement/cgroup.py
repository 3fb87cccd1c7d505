"""Control groups (cgroup v2) around workers: a bound on the memory and the tasks of each, held by the kernel from outside.

The zygote finds a place and makes one group for itself; each worker makes its own below and enters it, before its jail. CPU time
is the scheduler's. Where the hierarchy is not ours to write, the reason goes into the jail's report. Used by `zygote.py`,
`worker.py` and `jail.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.errors import JailError

CONTROLLERS: Final = ("memory", "pids")
_PREFIX: Final = "edgecache-"
_WORKER: Final = "worker-"
_SELF: Final = "monitor"
"""Where the processes go that were in a group whose controllers are to be enabled: only a group without any may do that."""


class CgroupParent:
    """The group that this process's workers have theirs in; or why there is none."""

    def __init__(self, path: Path | None, reason: str = "", *, moved_from: Path | None = None) -> None:
        self._path = path
        self._reason = reason
        self._moved_from = moved_from

    @property
    def path(self) -> Path | None:
        return self._path

    def join(self, limits: Mapping[str, int | str]) -> None:
        """Put the calling process into a new group with these limits, by the names of their files.

        Raises JailError where there is no hierarchy to write to, OSError where the kernel refuses.
        """
        if self._path is None:
            raise JailError(self._reason)
        group = self._path / f"{_WORKER}{os.getpid()}"
        group.mkdir(exist_ok=True)
        for name, value in limits.items():
            (group / name).write_text(str(value))
        (group / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self, pid: int) -> None:
        """Of a worker that has been reaped. Nothing happens where it had none."""
        if self._path is not None:
            _remove(self._path / f"{_WORKER}{pid}")

    def close(self) -> None:
        """Remove everything, once every worker has been reaped; who was moved goes back. Idempotent."""
        path, self._path = self._path, None
        if path is None:
            return
        if self._moved_from is not None:
            with suppress(OSError):  # the group stays, and with it those in it
                for group in (path, self._moved_from):  # from below: what is in use there cannot be taken away above
                    _write_controllers(group, "-", _enabled(group))
                _move(_processes(path / _SELF), self._moved_from)
        _remove_tree(path)


NO_CGROUP: Final = CgroupParent(None, "nobody has made a control group")


def prepare(followers: Iterable[int], controllers: tuple[str, ...] = CONTROLLERS) -> CgroupParent:
    """Make a group for this process's workers: below its own, or beside it.

    `followers` are other processes that may be moved together with this one, where its group must be empty for that.
    """
    try:
        mount, own = mount_point(Path("/proc/self/mountinfo").read_text()), own_path(Path("/proc/self/cgroup").read_text())
    except OSError as error:
        return CgroupParent(None, f"its place among control groups cannot be read: {error}")
    if mount is None or own is None:
        return CgroupParent(None, "no cgroup v2 hierarchy is mounted")
    place = Path(mount, own)
    reasons = []
    for candidate in (place, place.parent) if own else (place,):
        try:
            return make(candidate, {os.getpid(), *followers}, controllers)
        except JailError as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"{candidate} cannot be written: {os.strerror(error.errno or 0)}")
    return CgroupParent(None, "; ".join(reasons))


def make(place: Path, movable: set[int], controllers: tuple[str, ...]) -> CgroupParent:
    """A group in `place` whose groups have these controllers. Raises JailError, OSError; nothing is left behind then."""
    lacking = [name for name in controllers if name not in (place / "cgroup.controllers").read_text().split()]
    if lacking:
        raise JailError(f"{place} has no controller for {' and '.join(lacking)} (cgroup v1 may hold it)")
    _remove_left_over(place)
    path = place / f"{_PREFIX}{os.getpid()}"
    path.mkdir()
    moved_from = None
    try:
        try:
            _write_controllers(place, "+", controllers)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            inside = _processes(place)
            if not inside <= movable:
                raise JailError(f"{place} holds other processes, so that it cannot be divided") from error
            (path / _SELF).mkdir()
            moved_from = place
            _move(inside, path / _SELF)
            _write_controllers(place, "+", controllers)
        _write_controllers(path, "+", controllers)
    except (JailError, OSError):
        CgroupParent(path, moved_from=moved_from).close()
        raise
    return CgroupParent(path, moved_from=moved_from)


def mount_point(mountinfo: str) -> str | None:
    """Where the cgroup v2 hierarchy is mounted, from proc_pid_mountinfo(5): of several, the first."""
    for line in mountinfo.splitlines():
        fields, _, source = line.partition(" - ")
        if source.split(" ", 1)[0] == "cgroup2":
            return fields.split()[4].encode().decode("unicode_escape")
    return None


def own_path(cgroups: str) -> str | None:
    """This process's group below the mount point, without a slash before it; cgroups(7), /proc/pid/cgroup."""
    for line in cgroups.splitlines():
        if line.startswith("0::/"):
            path = line.removeprefix("0::/").removesuffix(" (deleted)")
            return None if path.startswith("..") else path  # outside of what this namespace sees
    return None


def _write_controllers(group: Path, sign: str, controllers: Iterable[str]) -> None:
    (group / "cgroup.subtree_control").write_text(" ".join(f"{sign}{name}" for name in controllers))


def _enabled(group: Path) -> list[str]:
    return (group / "cgroup.subtree_control").read_text().split()


def _processes(group: Path) -> set[int]:
    return {int(line) for line in (group / "cgroup.procs").read_text().split()}


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))


def _remove(group: Path) -> None:
    """rmdir(2): refused while anybody is in it, and then it stays for the next start to remove."""
    with suppress(OSError):
        group.rmdir()


def _remove_tree(group: Path) -> None:
    with suppress(OSError):
        for below in group.iterdir():
            if below.is_dir():
                _remove(below)
    _remove(group)


def _remove_left_over(place: Path) -> None:
    """What zygotes that were killed have left."""
    for group in place.glob(f"{_PREFIX}*"):
        pid = group.name.removeprefix(_PREFIX)
        if pid.isdigit() and not Path("/proc", pid).exists():
            _remove_tree(group)
