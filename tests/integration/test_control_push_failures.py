"""Every way in which a push fails: said with its place, nothing left behind, and what is active stays."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sandbox import (
    End,
    EngineUnavailable,
    GuestFailed,
    Outcome,
    Usage,
    WorkerLost,
)
from tests.control_support import BASE, TrialSandbox, bundle, files, manifest, program, running, split, tar

FAILURES: dict[str, tuple[bytes, str, str]] = {
    "not an archive": (b"PK\x03\x04" + bytes(600), "bad-bundle", "no tar archive"),
    "no manifest": (tar({"hello": program()}), "bad-manifest", "not at the root"),
    "packed from above": (
        tar({f"hello/{path}": data for path, data in files().items()}),
        "bad-manifest",
        "pack the directory's contents",
    ),
    "unknown key": (bundle(more="rout: x\n"), "bad-manifest", "did you mean routes"),
    "another name": (bundle("other"), "bad-manifest", "the manifest's name is other"),
    "program missing": (tar({"generator.yaml": manifest()}), "bad-manifest", "not in the bundle"),
    "above the ceiling": (
        bundle(more="limits: {memory: 1GiB, vms: 99}\n"),
        "limits-exceed-ceiling",
        "memory is 1GiB, the site's ceiling 64MiB",
    ),
    "not an ELF": (tar({**files(), "hello": b"#!/bin/sh"}), "verification-failed", "the program cannot be loaded"),
    "answers nothing": (tar({**files(), "hello": program(b"")}), "verification-failed", "no-answer"),
    "no CGI head": (tar({**files(), "hello": program(b"\n\nbody")}), "verification-failed", "bad-answer"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_a_push_that_fails_leaves_nothing_behind(tmp_path: Path, case: str) -> None:
    archive, code, said = FAILURES[case]
    async with running(tmp_path) as api:
        await api.site()
        answer = await api.push(archive, query="?activate=true")
        assert (answer.status, answer.code) == (422, code), answer.body
        assert said in str(answer.json["detail"])
        assert answer.json["advice"]
        assert (await api.call("GET", "/v1/sites/shop/generators")).json["generators"] == []
        assert list((tmp_path / "bundles").iterdir()) == []
        assert (await api.push(bundle())).status == 201


async def test_mistakes_in_a_manifest_come_with_line_and_column(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        answer = await api.push(bundle(more="limits: {cpu: 50}\nenv: {A: b, 1: c}\n"))
        found: Any = answer.json["errors"]
        assert [(mistake["line"], mistake["column"], mistake["key"]) for mistake in found] == [
            (5, 15, "limits.cpu"),
            (6, 16, "env.1"),
        ]
        assert answer.json["where"] == "generator.yaml:5:15"


@pytest.mark.parametrize("end", [End.CPU_LIMIT, End.FAULT, End.WORKER_DIED, End.BOOT_FAILED])
async def test_how_the_sample_ended_is_told_in_the_sandboxs_words(tmp_path: Path, end: End) -> None:
    sandbox = TrialSandbox(refuse=GuestFailed(Outcome(end, Usage(), "why")))
    async with running(tmp_path, sandbox=sandbox) as api:
        await api.site()
        answer = await api.push(bundle())
        assert (answer.code, answer.json["outcome"]) == ("verification-failed", str(end))
        assert f"{end}: why" in str(answer.json["detail"])


@pytest.mark.parametrize("failure", [EngineUnavailable("no engine"), WorkerLost("gone"), TimeoutError()])
async def test_a_sandbox_that_cannot_try_leaves_it_pushed_to_try_again(tmp_path: Path, failure: Exception) -> None:
    sandbox = TrialSandbox(refuse=failure)
    async with running(tmp_path, sandbox=sandbox) as api:
        await api.site()
        answer = await api.push(bundle(), query="?activate=true")
        assert (answer.status, answer.code) == (503, "verification-unavailable")
        assert (await api.call("GET", BASE + "/versions/1")).json["status"] == "pushed"
        assert (await api.call("POST", BASE + "/activate", {"version": 1})).code == "not-verified"
        sandbox.refuse = None
        again = await api.push(bundle(), query="?activate=true")
        assert (again.status, again.json["version"], again.json["status"]) == (201, 1, "active")


async def test_a_bundle_damaged_on_disk_is_not_activated_and_pushing_mends_it(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle())
        (stored,) = (tmp_path / "bundles").iterdir()
        stored.chmod(0o600)
        stored.write_bytes(b"x")
        assert (await api.call("POST", BASE + "/activate", {"version": 1})).code == "not-verified"
        assert (await api.push(bundle(), query="?activate=true")).status == 200
        assert await split(api) == {1: 100}


async def test_a_missing_bundle_at_start_costs_its_generator_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        await api.push(bundle("other"), name="other", query="?activate=true")
        lost = str((await api.call("GET", BASE + "/versions/1")).json["digest"])
    (tmp_path / "bundles" / lost).unlink()
    async with running(tmp_path) as api:
        assert list(api.sandbox.registered) == ["shop/other@1"]
        assert "shop/hello@1" in caplog.text


async def test_a_site_removed_during_a_push_ends_it_cleanly(tmp_path: Path) -> None:
    class Slow(TrialSandbox):
        async def verify(self, *given: Any) -> Any:
            entered.set()
            await release.wait()
            return await TrialSandbox.verify(self, *given)

    entered, release = asyncio.Event(), asyncio.Event()
    async with running(tmp_path, sandbox=Slow()) as api:
        await api.site()
        push = asyncio.ensure_future(api.push(bundle(), query="?activate=true"))
        await entered.wait()
        removed = asyncio.ensure_future(api.call("DELETE", "/v1/sites/shop"))
        assert (await removed).status == 204
        release.set()
        assert (await push).code == "not-found"
        assert api.sandbox.registered == {}


@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EROFS, 503)])
async def test_a_disk_that_takes_no_bundle_is_the_operators_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, status: int
) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")

        def refuse(_: int) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", refuse)
            assert (await api.push(bundle(text="two"), query="?activate=true")).status == status
        assert await split(api) == {1: 100}
        assert (await api.push(bundle(text="two"), query="?activate=true")).status == 201


async def test_a_full_disk_refuses_pushes_and_what_is_active_stays(tmp_path: Path) -> None:
    """A real file system of 3 MiB, where this machine lets one be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small), stderr=asyncio.subprocess.DEVNULL
    )
    if await mounted.wait() != 0:
        pytest.skip("no small file system can be mounted here")
    try:
        async with running(small) as api:
            await api.site()
            assert (await api.push(bundle(), query="?activate=true")).status == 201
            answer = await api.push(tar({**files(text="big"), "data": os.urandom(4 << 20)}), query="?activate=true")
            assert (answer.status, answer.code) == (507, "state-full")
            assert await split(api) == {1: 100}
            (small / "filler").write_bytes(bytes(os.statvfs(small).f_bavail * os.statvfs(small).f_frsize))
            assert (await api.call("GET", "/v1/healthz")).status == 503
            answer = await api.site("more", hosts=[f"h{number}.test" for number in range(900)])
            assert (answer.status, answer.code) == (507, "state-full")
            assert await split(api) == {1: 100}
            (small / "filler").unlink()
            assert (await api.call("GET", "/v1/healthz")).status == 200
            assert (await api.site("more")).status == 201
    finally:
        unmounted = await asyncio.create_subprocess_exec("umount", str(small))
        assert await unmounted.wait() == 0
