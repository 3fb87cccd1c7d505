"""The room a worker lives in: what is given up, in which order, and the report of what is in force.

Runs in the forked worker, before it has seen a byte of anybody's program. Each layer is one function; a layer that cannot be
had is reported with its reason, and only the required ones are fatal. Called by `worker.py`.
"""

from __future__ import annotations

import ctypes
import enum
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox.confinement import landlock, seccomp
from sandbox.confinement.cgroup import NO_CGROUP, CgroupParent
from sandbox.engines import kvm_api
from sandbox.errors import JailError
from sandbox.limits import MIB
from sandbox.pages.footprint import physical_bytes

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SYS_PIVOT_ROOT, _SYS_CAPSET = 155, 126
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 1 << 18
_MNT_DETACH = 2
_OWN_TASKS = 4
"""The vCPU's thread, the watchdog, and room for what a library starts and ends before the filter."""
_MOUNT_POINTS = ("/tmp", "/proc", "/dev", "/etc")  # noqa: S108  nothing is put there: an empty root is mounted over it


class Layer(enum.StrEnum):
    """One thing that stands between an escaped guest and the machine, in the order of application."""

    CGROUP = "cgroup"
    """A control group bounds its memory and its tasks."""
    DESCRIPTORS = "descriptors"
    """No inherited file is open."""
    NETWORK_NAMESPACE = "network-namespace"
    IPC_NAMESPACE = "ipc-namespace"
    UTS_NAMESPACE = "uts-namespace"
    MOUNT_NAMESPACE = "mount-namespace"
    EMPTY_ROOT = "empty-root"
    """The root directory is an empty, read-only file system."""
    UNPRIVILEGED_USER = "unprivileged-user"
    """The user is not root."""
    USER_NAMESPACE = "user-namespace"
    NO_CAPABILITIES = "no-capabilities"
    NO_NEW_PRIVILEGES = "no-new-privileges"
    NOT_DUMPABLE = "not-dumpable"
    """No core, and nobody of the same user reads its memory or traces it."""
    DIES_WITH_PARENT = "dies-with-parent"
    LANDLOCK = "landlock"
    RESOURCE_LIMITS = "resource-limits"
    SECCOMP = "seccomp"


_NAMESPACES = {
    Layer.NETWORK_NAMESPACE: 0x40000000,
    Layer.IPC_NAMESPACE: 0x08000000,
    Layer.UTS_NAMESPACE: 0x04000000,
    Layer.MOUNT_NAMESPACE: 0x00020000,
}
_CLONE_NEWUSER = 0x10000000

ALWAYS_POSSIBLE = frozenset(
    {
        Layer.DESCRIPTORS,
        Layer.UNPRIVILEGED_USER,
        Layer.NO_CAPABILITIES,
        Layer.NO_NEW_PRIVILEGES,
        Layer.NOT_DUMPABLE,
        Layer.DIES_WITH_PARENT,
        Layer.RESOURCE_LIMITS,
        Layer.SECCOMP,
    }
)
"""What any Linux that this software supports gives to anybody, in containers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JailPolicy:
    """How strict a jail must be, and how large it is."""

    required: frozenset[Layer] = ALWAYS_POSSIBLE
    user_id: int = 65534
    """Who to become when started as root."""
    group_id: int = 65534
    address_space_bytes: int = 64 << 30
    """RLIMIT_AS. A VM's window counts whole, though only what is written to takes memory."""
    memory_bytes: int = physical_bytes() * 3 // 4
    """memory.max of its control group, templates and the kernel's own memory for it included: a last bound, beyond the budgets
    within which idle workers are parked."""
    memfd_bytes: int = 4 << 30
    """RLIMIT_FSIZE: the largest template."""
    open_files: int = 4096
    """RLIMIT_NOFILE: a few for each loaded program; on kvm two more for each VM."""
    engine: str = "unicorn"
    """What workers run guests on. For `kvm` the filter has a few rows more."""
    nice: int = 5
    """How far a worker steps back behind the monitor where both want one CPU, nice(2): 5 is a third of its weight."""
    poll_ns: int = 50_000
    """For how long a worker may wait for its next message with the CPU in hand, where calls come one upon the other: see
    `polling`. The time is for the account of who has called it last and calls it next; 0 for never."""


@dataclass(frozen=True, slots=True)
class MissingLayer:
    """A layer that is not in force, and why."""

    layer: Layer
    reason: str


@dataclass(frozen=True, slots=True)
class JailReport:
    """What is in force in one worker, and what is not."""

    active: tuple[Layer, ...]
    missing: tuple[MissingLayer, ...]


class _Ledger:
    """Which layers are in force so far."""

    def __init__(self) -> None:
        self.active: list[Layer] = []
        self.reasons: dict[Layer, str] = {}

    def attempt(self, layer: Layer, apply: Callable[[], None]) -> bool:
        """Apply a layer that is not in force yet."""
        if layer in self.active:
            return True
        try:
            apply()
        except (OSError, JailError, ValueError) as error:
            self.reasons[layer] = str(error)
            return False
        self.active.append(layer)
        self.reasons.pop(layer, None)
        return True

    def report(self) -> JailReport:
        missing = (MissingLayer(layer, self.reasons.get(layer, "not tried")) for layer in Layer if layer not in self.active)
        return JailReport(tuple(layer for layer in Layer if layer in self.active), tuple(missing))


def enter(
    policy: JailPolicy,
    parent: int,
    keep: Iterable[int],
    *,
    open_files: Callable[[], None],
    start: Callable[[], None],
    cgroup: CgroupParent = NO_CGROUP,
) -> JailReport:
    """Give everything up, for ever, and say what worked.

    `parent` is the process id that must still be our parent; `keep` the descriptors that stay. `open_files` runs when the
    inherited files are closed and nothing else is lost yet: what is opened there stays usable. `start` runs last before the
    system call filter: threads that are to live in the jail start there. `cgroup` is entered first, while that can be written.
    The calling process must have one thread.
    Raises JailError when a required layer is missing; the process is half jailed then, and must exit.
    """
    ledger = _Ledger()
    ledger.attempt(Layer.CGROUP, lambda: cgroup.join(_group_limits(policy)))
    ledger.attempt(Layer.DESCRIPTORS, lambda: _close_descriptors(keep))
    open_files()
    with suppress(OSError):  # a favour to the rest of the machine, not a layer
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(policy.nice)
    root = os.geteuid() == 0
    if root:
        _unshare(ledger)
    ledger.attempt(Layer.UNPRIVILEGED_USER, lambda: _become(policy) if root else None)
    if ledger.attempt(Layer.USER_NAMESPACE, lambda: _call("unshare", _CLONE_NEWUSER)):
        _unshare(ledger)
    ledger.attempt(Layer.NO_CAPABILITIES, _drop_capabilities)
    ledger.attempt(Layer.NO_NEW_PRIVILEGES, lambda: _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    ledger.attempt(Layer.NOT_DUMPABLE, lambda: _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0))
    ledger.attempt(Layer.DIES_WITH_PARENT, lambda: die_with(parent))
    ledger.attempt(Layer.LANDLOCK, landlock.restrict)
    start()
    ledger.attempt(Layer.RESOURCE_LIMITS, lambda: _limit(policy))
    ledger.attempt(Layer.SECCOMP, lambda: seccomp.install(seccomp.assemble(_rules(policy))))
    report = ledger.report()
    lacking = [f"{missing.layer} ({missing.reason})" for missing in report.missing if missing.layer in policy.required]
    if lacking:
        raise JailError(f"required, but not to be had here: {', '.join(lacking)}")
    return report


def _group_limits(policy: JailPolicy) -> dict[str, int | str]:
    """Files of the controllers memory and pids. On kvm the kernel starts a thread for each VM, which has two descriptors."""
    tasks = _OWN_TASKS + (policy.open_files // 2 if policy.engine == "kvm" else 0)
    return {"memory.max": policy.memory_bytes, "pids.max": tasks}


def _rules(policy: JailPolicy) -> tuple[seccomp.Rule, ...]:
    if policy.engine != "kvm":
        return seccomp.RULES
    return seccomp.with_kvm(seccomp.RULES, requests=kvm_api.REQUESTS, kick=kvm_api.KICK, pid=os.getpid())


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies. Raises OSError, and JailError when that has happened already."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise JailError("the parent is gone")


def _call(name: str, *args: int) -> None:
    """A C library call that returns 0 or fails with errno. Raises OSError."""
    if getattr(_LIBC, name)(*(ctypes.c_ulong(arg) for arg in args)):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _close_descriptors(keep: Iterable[int]) -> None:
    """Close all but `keep`, and put /dev/null where the standard streams were."""
    kept = sorted(keep)
    if kept and kept[0] <= 2:
        raise JailError(f"descriptor {kept[0]} is a standard stream")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    low = 3
    for fd in kept:
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)


def _unshare(ledger: _Ledger) -> None:
    for layer, flag in _NAMESPACES.items():
        ledger.attempt(layer, lambda flag=flag: _call("unshare", flag))  # type: ignore[misc]
    if Layer.MOUNT_NAMESPACE in ledger.active:
        ledger.attempt(Layer.EMPTY_ROOT, _empty_root)


def _empty_root() -> None:
    """Put an empty file system in the place of the root and let the old one go; pivot_root(2), "pivot_root(".", ".")"."""
    point = next((path for path in _MOUNT_POINTS if Path(path).is_dir()), None)
    if point is None:
        raise JailError("no directory to mount an empty root on")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("none", point, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.chdir(point)
    if _LIBC.syscall(_SYS_PIVOT_ROOT, b".", b"."):
        raise OSError(ctypes.get_errno(), "pivot_root")
    if _LIBC.umount2(b".", _MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount2")
    os.chdir("/")


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = (None if text is None else text.encode() for text in (source, target, kind))
    if _LIBC.mount(*encoded, ctypes.c_ulong(flags), None):
        code = ctypes.get_errno()
        raise OSError(code, f"mount {kind or 'private'} on {target}: {os.strerror(code)}")


def _become(policy: JailPolicy) -> None:
    if 0 in (policy.user_id, policy.group_id):
        raise JailError("a worker must not run as root")
    os.setgroups([])
    os.setresgid(policy.group_id, policy.group_id, policy.group_id)
    os.setresuid(policy.user_id, policy.user_id, policy.user_id)


def _drop_capabilities() -> None:
    """Empty all five sets, capabilities(7). The bounding set only where we may: without it nothing can be gained either."""
    for capability in range(_LAST_CAPABILITY + 1):
        if _LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0):
            break
    _LIBC.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    if _LIBC.syscall(_SYS_CAPSET, header, bytes(24)):
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def _limit(policy: JailPolicy) -> None:
    """setrlimit(2). NPROC comes when all threads run: one more, or a child, is refused from here on.

    Not on kvm: the kernel starts a thread of its own for each VM, and counts it. There the system call filter alone refuses.
    """
    limits = {
        resource.RLIMIT_AS: policy.address_space_bytes,
        resource.RLIMIT_NOFILE: policy.open_files,
        resource.RLIMIT_FSIZE: policy.memfd_bytes,
        resource.RLIMIT_STACK: 8 * MIB,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_SIGPENDING: 64,
        resource.RLIMIT_NPROC: 0,
    }
    if policy.engine == "kvm":
        del limits[resource.RLIMIT_NPROC]
    for which, value in limits.items():
        _, hard = resource.getrlimit(which)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))
