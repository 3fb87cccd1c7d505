"""One site's guests write as much as they like: what others have stored, and what operators do, goes on beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgecache.control.bundle.manifest import Manifest, Sample
from edgecache.control.database.sqlite_state import SqliteState
from edgecache.control.records import Draft
from edgecache.control.settings import ControlSettings
from edgecache.control.values import StoredValues
from edgecache.sites import Site
from sandbox.limits import DEFAULT_LIMITS
from sandbox.program import Convention

FLOOD = 1_200


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SqliteState]:
    opened = SqliteState(ControlSettings(state_dir=tmp_path))
    await opened.open()
    for name in ("loud", "quiet"):
        await opened.put_site(Site(name=name, hosts=(f"{name}.test",), origins=()), new=True)
        manifest = Manifest(
            name="g", program="g", convention=Convention.CGI, routes=("/",), limits=DEFAULT_LIMITS, sample=Sample("/")
        )
        draft = Draft(site=name, generator="g", digest="a" * 64, size_bytes=1, manifest=manifest, created=0.0)
        await opened.add_version(draft)
    yield opened
    await opened.close()


async def test_one_sites_writes_do_not_hold_up_anothers_nor_the_operator(state: SqliteState) -> None:
    values = StoredValues(state)
    assert await values.kv_put("quiet", "g", b"k", b"v")
    flood = [asyncio.create_task(values.kv_put("loud", "g", b"%d" % number, b"x")) for number in range(FLOOD)]
    await asyncio.sleep(0)
    assert await values.kv_get("quiet", "g", b"k") == b"v"
    assert await values.kv_put("quiet", "g", b"k", b"w")
    await state.check()
    assert sum(task.done() for task in flood) < FLOOD // 4, "they had their turn in between"
    assert all(await asyncio.gather(*flood)), "nobody was refused"
    assert values.failures == 0


async def test_writes_that_nobody_waits_for_any_more_count_until_they_are_done(state: SqliteState) -> None:
    values = StoredValues(state)
    for _ in range(300):
        given_up = [asyncio.create_task(values.kv_put("loud", "g", b"k", b"x")) for _ in range(4)]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
    assert state._waiting <= 4
    assert await values.kv_put("quiet", "g", b"k", b"v")
    assert await values.kv_put("loud", "g", b"k", b"y")
    assert values.failures == 0
