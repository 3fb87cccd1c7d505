"""A long body whose writer is cancelled at the last moment: what is stored stays stored, what is not leaves nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Response, Timed
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.store import Entry
from edgecache.store.disk import DiskSettings, DiskTier
from edgecache.store.disk.spool import Spool
from edgecache.store.stored_body import StoredBody

MIB = 1 << 20
BODY = bytes(range(256)) * 4096
URI = "http://a.test/"


def made(body: StoredBody) -> Entry:
    timed = Timed(Response(200, "OK", freeze([("Cache-Control", "max-age=60")])), 0.0, 0.0)
    return Entry(uri=URI, variant="", vary=(), site="s", timed=timed, body=body, terms=terms(timed, CacheRule()))


@pytest.mark.parametrize("stored", [True, False])
async def test_who_is_cancelled_as_it_is_stored_does_not_take_it_back(tmp_path: Path, stored: bool) -> None:
    tier = DiskTier(DiskSettings(path=tmp_path / "cache", capacity_bytes=16 * MIB))
    await tier.start()
    spool = Spool(tier, len(BODY), lambda uri, variant: None)
    await spool.write(BODY)
    linked = asyncio.Event()
    link = tier.link

    async def seen(*arguments: object) -> bool:
        outcome = await link(*arguments) if stored else False  # type: ignore[arg-type]
        linked.set()
        # The order is carried out; whoever waits has not heard of it yet.
        await asyncio.sleep(3600)
        return outcome

    tier.link = seen  # type: ignore[method-assign]
    storing = asyncio.create_task(spool.commit(made, URI, "", 0.0))
    await linked.wait()
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    await spool.abort()
    await tier.purge(Purge(tag="nobody has it"))
    entry = tier.get(URI, lambda vary: "")
    if stored:
        assert entry is not None and isinstance(entry.body, StoredBody)
        assert entry.body.read(0, len(BODY)) == BODY
    else:
        assert entry is None
        async with asyncio.timeout(10):
            while tier.stats().segments:
                await asyncio.sleep(0.01)
    await tier.close()
