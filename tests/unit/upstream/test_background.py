"""Work without a client has an owner: one task a key, none after the end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from edgecache.upstream.background import Background


async def test_one_task_a_key_and_a_limit() -> None:
    gate = asyncio.Event()
    owner = Background(limit=2)
    assert owner.start("a", gate.wait()) is not None
    assert owner.start("a", gate.wait()) is None
    assert owner.start("b", gate.wait()) is not None
    assert owner.start("c", gate.wait()) is None
    gate.set()
    await owner.close(5)
    assert len(owner) == 0
    assert owner.start("d", gate.wait()) is None


async def test_close_cancels_what_does_not_end() -> None:
    owner = Background(limit=2)
    task = owner.start("a", asyncio.Event().wait())
    assert task is not None
    await owner.close(0.01)
    assert task.cancelled()


async def test_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    owner = Background(limit=1)
    with caplog.at_level(logging.ERROR):
        owner.start("a", fail())
        await owner.close(1)
    assert "broken" in caplog.text
