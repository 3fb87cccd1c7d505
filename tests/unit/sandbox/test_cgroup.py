"""Control groups, on the machine's own cgroup v2 hierarchy, with whatever controller it has: joined, bounded, and removed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.confinement import cgroup
from sandbox.confinement.cgroup import CONTROLLERS, make, mount_point, own_path, prepare
from sandbox.errors import JailError
from sandbox.jail import Layer
from sandbox.monitor import Monitor
from tests.unit.sandbox.forked import run_forked

LIMITS = {"memory": ("memory.max", "1073741824"), "pids": ("pids.max", "7"), "hugetlb": ("hugetlb.2MB.max", "0")}


def hierarchy() -> Path | None:
    found = mount_point(Path("/proc/self/mountinfo").read_text())
    return Path(found) if found else None


@pytest.fixture
def place() -> Iterator[tuple[Path, str]]:
    """A group of the test's own with a controller to give on, and that controller's name."""
    root = hierarchy()
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    there = [name for name in LIMITS if name in (root / "cgroup.controllers").read_text().split()]
    if not there:
        pytest.skip("the cgroup v2 hierarchy has none of the controllers that the test knows")
    # What the root gives on is one setting of the machine: tests that run side by side take turns.
    turn = os.open(root, os.O_RDONLY)
    fcntl.flock(turn, fcntl.LOCK_EX)
    before = (root / "cgroup.subtree_control").read_text().split()
    group = root / f"test-{os.getpid()}"
    try:
        if there[0] not in before:
            (root / "cgroup.subtree_control").write_text(f"+{there[0]}")
        group.mkdir()
    except OSError as error:
        os.close(turn)
        pytest.skip(f"the cgroup v2 hierarchy cannot be written: {error.strerror}")
    try:
        yield group, there[0]
    finally:
        for below in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            below.rmdir()
        group.rmdir()
        if there[0] not in before:
            (root / "cgroup.subtree_control").write_text(f"-{there[0]}")
        os.close(turn)


def test_a_worker_is_bounded_in_a_group_of_its_own_until_it_is_reaped(place: tuple[Path, str]) -> None:
    group, controller = place
    file, value = LIMITS[controller]
    parent = make(group, set(), (controller,))
    assert parent.path == group / f"edgecache-{os.getpid()}"

    def worker() -> tuple[int, str | None, str]:
        parent.join({file: value})
        own = own_path(Path("/proc/self/cgroup").read_text())
        return os.getpid(), own, (parent.path / f"worker-{os.getpid()}" / file).read_text().strip()  # type: ignore[operator]

    pid, own, limit = run_forked(worker)
    assert own is not None and own.endswith(f"{group.name}/edgecache-{os.getpid()}/worker-{pid}")
    assert limit == value
    assert (parent.path / f"worker-{pid}").is_dir()
    parent.remove(pid)
    assert not (parent.path / f"worker-{pid}").exists()
    parent.close()
    parent.close()
    assert [path for path in group.iterdir() if path.is_dir()] == []


def test_a_group_that_holds_just_us_is_divided_and_put_together_again(place: tuple[Path, str]) -> None:
    group, controller = place

    def service() -> list[str | None]:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        seen = [own_path(Path("/proc/self/cgroup").read_text())]
        parent = make(group, {os.getpid()}, (controller,))
        seen.append(own_path(Path("/proc/self/cgroup").read_text()))
        child = os.fork()
        if child == 0:
            parent.join(dict([LIMITS[controller]]))
            os._exit(0)
        os.waitpid(child, 0)
        parent.remove(child)
        parent.close()
        return [*seen, own_path(Path("/proc/self/cgroup").read_text())]

    before, divided, after = run_forked(service)
    assert before == after == str(group.relative_to(str(hierarchy())))
    assert divided.startswith(f"{before}/edgecache-") and divided.endswith("/monitor")
    assert [path for path in group.iterdir() if path.is_dir()] == []


def test_a_group_that_holds_others_is_left_alone(place: tuple[Path, str]) -> None:
    group, controller = place
    other = os.fork()
    if other == 0:
        signal.pause()
    try:
        (group / "cgroup.procs").write_text(str(other))
        with pytest.raises(JailError, match="other processes"):
            make(group, {os.getpid()}, (controller,))
        assert (group / "cgroup.procs").read_text().split() == [str(other)]
        assert [path for path in group.iterdir() if path.is_dir()] == []
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def test_what_a_killed_zygote_left_is_removed(place: tuple[Path, str]) -> None:
    group, controller = place
    (group / "edgecache-99999999" / "worker-5").mkdir(parents=True)
    make(group, set(), (controller,)).close()
    assert [path for path in group.iterdir() if path.is_dir()] == []


def test_a_controller_that_is_not_there_is_named(place: tuple[Path, str]) -> None:
    group, controller = place
    with pytest.raises(JailError, match="no controller for bananas and pyjamas"):
        make(group, set(), (controller, "bananas", "pyjamas"))


def test_without_a_place_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "mount_point", lambda _: None)
    parent = prepare([])
    assert parent.path is None
    with pytest.raises(JailError, match="no cgroup v2 hierarchy"):
        parent.join({})
    parent.remove(1)
    parent.close()


def test_a_place_that_cannot_be_written_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup, "mount_point", lambda _: str(tmp_path))
    with pytest.raises(JailError, match="cannot be written: No such file"):
        prepare([]).join({})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"),
        ("30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 25 0:27 / /a\\040b rw - cgroup2 x rw\n", "/a b"),
        ("30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup2 rw,memory\n", None),
        ("", None),
    ],
)
def test_the_mount_point_is_found(text: str, found: str | None) -> None:
    assert mount_point(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0::/\n", ""),
        ("4:memory:/x\n0::/a.slice/b\n", "a.slice/b"),
        ("0::/../../x\n", None),
        ("4:memory:/x\n", None),
    ],
)
def test_the_own_group_is_found(text: str, found: str | None) -> None:
    assert own_path(text) == found


async def test_workers_of_a_monitor_have_theirs_where_that_can_be() -> None:
    parent = await asyncio.to_thread(run_forked, _possible)
    if parent:
        pytest.skip(f"no memory and pids here: {parent}")
    async with Monitor() as monitor:
        assert Layer.CGROUP in monitor.jail.active


def _possible() -> str:
    parent = prepare([os.getppid()], CONTROLLERS)
    try:
        parent.join({})
    except (JailError, OSError) as error:
        return str(error)
    finally:
        with suppress(OSError):
            parent.close()
    return ""
