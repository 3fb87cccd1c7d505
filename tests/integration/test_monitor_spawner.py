"""Starting processes when things go wrong: no zygote, one that hangs, one that lies, a caller that does not wait."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import JailPolicy, WorkerLost
from sandbox.channel import wire
from sandbox.dispatch import spawner
from sandbox.dispatch.spawner import Spawner
from tests.integration.monitor_support import until
from tests.integration.process_support import alive


def children() -> list[int]:
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def grandchildren() -> list[int]:
    return [int(word) for pid in children() for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
async def starter() -> AsyncIterator[Spawner]:
    fds = sorted(os.listdir("/proc/self/fd"))
    starter = Spawner(JailPolicy())
    yield starter
    await starter.close()
    assert children() == []
    assert sorted(os.listdir("/proc/self/fd")) == fds


async def test_many_at_once_come_from_one_zygote(starter: Spawner) -> None:
    handles = await asyncio.gather(*(starter.spawn() for _ in range(5)))
    assert len({handle.pid for handle in handles}) == 5
    assert len(children()) == 1
    lost: list[str] = []
    handles[0].on_lost = lost.append
    os.kill(handles[0].pid, signal.SIGKILL)
    await until(lambda: lost)
    await until(lambda: starter.statuses.get(handles[0].pid) == -9)
    handles[0].send(wire.Abort(1))
    handles[0].lose("again")
    assert len(lost) == 1
    for handle in handles:
        handle.kill()
    assert handles[1].cpu_ns() > 0


async def test_no_python_no_zygote(starter: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerLost, match="no zygote"):
        await starter.spawn()


async def test_a_zygote_that_ends_at_once(starter: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(WorkerLost, match="gone"):
        await starter.spawn()


async def test_a_zygote_that_hangs_is_given_up_and_killed(starter: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    (await starter.spawn()).kill()
    (zygote,) = children()
    monkeypatch.setattr(spawner, "SPAWN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(spawner, "EXIT_TIMEOUT_S", 0.2)
    os.kill(zygote, signal.SIGSTOP)
    with pytest.raises(WorkerLost, match=r"no worker within 0\.2 s"):
        await starter.spawn()
    await starter.close()
    assert not alive(zygote)


async def test_a_worker_that_nobody_waits_for_any_more_is_killed(starter: Spawner) -> None:
    (await starter.spawn()).kill()
    (zygote,) = children()
    os.kill(zygote, signal.SIGSTOP)
    task = asyncio.create_task(starter.spawn())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.kill(zygote, signal.SIGCONT)
    handle = await starter.spawn()
    await until(lambda: grandchildren() == [handle.pid])
    handle.kill()


async def test_a_worker_that_dies_before_its_greeting(starter: Spawner) -> None:
    (await starter.spawn()).kill()
    await until(lambda: not grandchildren())
    task = asyncio.create_task(starter.spawn())
    async with asyncio.timeout(30):
        while not grandchildren():
            await asyncio.sleep(0)
    for pid in grandchildren():
        os.kill(pid, signal.SIGKILL)
    try:
        handle = await task
    except WorkerLost as lost:
        assert "before it was ready" in str(lost)
    else:
        handle.kill()


async def test_a_zygote_that_lies_is_replaced(starter: Spawner) -> None:
    (await starter.spawn()).kill()
    with pytest.raises(wire.WireError):
        starter._message(wire.Spawned(99, 1))
    starter._message(wire.SpawnFailed(99, "late"))
    for pid in range(100):
        starter._message(wire.Died(pid, 0))
    assert len(starter.statuses) <= 64
    handle = await starter.spawn()
    handle.kill()
