"""The jail, tried from the inside: what an escaped guest can still do, with the filter and with the layers behind it alone."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import jail
from sandbox.confinement import landlock
from sandbox.errors import JailError
from sandbox.jail import ALWAYS_POSSIBLE, JailPolicy, JailReport, Layer
from tests.unit.sandbox import jail_escape
from tests.unit.sandbox.forked import run_forked
from tests.unit.sandbox.jail_escape import ATTEMPTS, start

ROOT = Path(__file__).resolve().parents[3]
REFUSED = {
    "openat a file": "EPERM",
    "create a file": "EPERM",
    "open the parent's memory": "EPERM",
    "open a process's memory": "EPERM",
    "clone a process": "EPERM",
    "be dumpable again": "EPERM",
    "start a thread": "EAGAIN",
}
"""What is refused in words; everything else is death."""
HARMLESS_UNFILTERED = {
    "signal everybody": "where Landlock does not scope signals, others of the same user: hence the filter",
    "make a Unix socket": "with nobody to connect to: the namespace and the root are empty",
    "open the parent's pidfd": "which Landlock and the lack of rights leave useless",
    "use the kernel's keyring": "an empty one of its own",
    "be dumpable again": "for processes of its own user namespace",
    "map a file executable": "its own",
    "make memory executable": "its own",
    "call as i386": "the same kernel, the same refusals",
}


def attempts(*arguments: str) -> dict[str, str]:
    """Every attempt's fate, by name; the report of the jail under the name ""."""
    ran = subprocess.run(
        [sys.executable, jail_escape.__file__, *arguments],
        env={"PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        check=True,
        timeout=60,
    )
    fates: dict[str, str] = json.loads(ran.stdout)
    return fates


@pytest.fixture(scope="module", params=["root", "user"])
def identity(request: pytest.FixtureRequest) -> list[str]:
    if os.geteuid() == 0:
        return ["--as-user"] if request.param == "user" else []
    if request.param == "root":
        pytest.skip("not root")
    return []


@pytest.fixture(scope="module")
def fates(identity: list[str]) -> dict[str, str]:
    return attempts(*identity)


@pytest.fixture(scope="module")
def unfiltered(identity: list[str]) -> dict[str, str]:
    return attempts("--no-filter", *identity)


def test_every_layer_is_in_force_or_has_a_reason(fates: dict[str, str]) -> None:
    active, missing = json.loads(fates[""])
    assert set(active) | set(missing) == set(Layer)
    assert set(active) >= ALWAYS_POSSIBLE
    assert all(missing.values())


def test_a_worker_can_do_its_work(fates: dict[str, str]) -> None:
    assert fates["work as a worker does"] == "done"


@pytest.mark.parametrize("name", [name for name in ATTEMPTS if name != "work as a worker does"])
def test_an_escaped_guest_cannot(fates: dict[str, str], name: str) -> None:
    if name == "list the root":
        assert "PermissionError" in fates[name]
    else:
        assert fates[name] == REFUSED.get(name, "killed")


@pytest.mark.parametrize("name", [name for name in ATTEMPTS if name not in HARMLESS_UNFILTERED])
def test_without_the_filter_it_still_cannot(fates: dict[str, str], unfiltered: dict[str, str], name: str) -> None:
    """Each line of defence holds without the others: here namespaces, rights, Landlock and limits without seccomp."""
    active, _ = json.loads(fates[""])
    if not {Layer.EMPTY_ROOT, Layer.LANDLOCK, Layer.NETWORK_NAMESPACE} <= set(active):
        pytest.skip("this machine gives fewer layers")
    if name != "work as a worker does":
        assert unfiltered[name] != "done"


class TestEntering:
    def enter(self, policy: JailPolicy, *, keep: tuple[int, ...] = (), parent: int | None = None) -> JailReport | str:
        pid = os.getpid()

        def child() -> JailReport:
            pipe = run_forked.pipe  # type: ignore[attr-defined]
            return jail.enter(policy, pid if parent is None else parent, [pipe, *keep], open_files=lambda: None, start=start)

        report: JailReport | str = run_forked(child)
        return report

    def test_the_report_names_what_is_in_force(self) -> None:
        report = self.enter(JailPolicy())
        assert isinstance(report, JailReport)
        assert set(report.active) >= ALWAYS_POSSIBLE

    def test_a_required_layer_that_cannot_be_had_is_fatal_and_named(self) -> None:
        assert "the parent is gone" in str(self.enter(JailPolicy(), parent=1))
        assert "dies-with-parent" in str(self.enter(JailPolicy(), parent=1))

    def test_a_layer_that_is_not_required_is_only_reported(self) -> None:
        report = self.enter(JailPolicy(required=ALWAYS_POSSIBLE - {Layer.DIES_WITH_PARENT}), parent=1)
        assert isinstance(report, JailReport)
        assert [missing.reason for missing in report.missing if missing.layer is Layer.DIES_WITH_PARENT] == ["the parent is gone"]

    def test_a_standard_stream_cannot_be_kept(self) -> None:
        assert "standard stream" in str(self.enter(JailPolicy(), keep=(1,)))

    @pytest.mark.skipif(os.geteuid() != 0, reason="root only")
    def test_root_does_not_become_root(self) -> None:
        assert "must not run as root" in str(self.enter(JailPolicy(user_id=0)))

    def test_every_other_descriptor_is_closed(self) -> None:
        ours, theirs = socket.socketpair()
        pid = os.getpid()

        def child() -> list[int]:
            pipe = run_forked.pipe  # type: ignore[attr-defined]
            jail.enter(JailPolicy(), pid, [pipe], open_files=lambda: None, start=lambda: None)
            return [fd for fd in range(3, 200) if fd != pipe and _is_open(fd)]

        with ours, theirs:
            assert run_forked(child) == []

    def test_limits_are_set_for_good(self) -> None:
        pid = os.getpid()
        seen: dict[int, tuple[int, int]] = {}

        def child() -> dict[int, tuple[int, int]]:
            pipe = run_forked.pipe  # type: ignore[attr-defined]
            jail.seccomp.install = lambda program: None  # type: ignore[assignment]
            jail.enter(JailPolicy(), pid, [pipe], open_files=lambda: None, start=lambda: None)
            for which in (resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
                seen[which] = resource.getrlimit(which)
            return seen

        assert run_forked(child) == {
            resource.RLIMIT_NPROC: (0, 0),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_NOFILE: (4096, 4096),
        }


class TestLandlock:
    @pytest.mark.parametrize(
        ("version", "sizes"), [(1, [13]), (3, [15]), (4, [15, 2]), (5, [16, 2]), (6, [16, 2, 2]), (99, [16, 2, 2])]
    )
    def test_everything_that_a_version_knows_is_handled(self, version: int, sizes: list[int]) -> None:
        handled = landlock.ruleset(version)
        words = [int.from_bytes(handled[at : at + 8], "little") for at in range(0, len(handled), 8)]
        assert words == [(1 << size) - 1 for size in sizes]

    def test_a_kernel_without_it_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(landlock, "abi", lambda: 0)
        with pytest.raises(JailError, match="no Landlock"):
            landlock.restrict()


def _is_open(fd: int) -> bool:
    """fcntl(F_GETFD) is what the filter leaves of asking."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True
