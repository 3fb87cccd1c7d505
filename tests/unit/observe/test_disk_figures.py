"""The disk tier's figures are told in the metrics and in the status; where there is no disk tier, nothing is."""

from __future__ import annotations

from pathlib import Path

from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.recorder import Recorder
from edgecache.observe.status import StatusBoard
from edgecache.store.disk import DiskSettings, DiskTier


async def test_the_tier_is_shown_where_there_is_one(tmp_path: Path) -> None:
    tier = DiskTier(DiskSettings(path=tmp_path / "cache", capacity_bytes=16 << 20))
    await tier.start()
    tier.counts.hits, tier.counts.corrupt = 7, 3
    sources = Sources(recorder=Recorder(None), disk=tier.stats)
    text = Metrics(sources).render()[0].decode()
    assert "edgecache_disk_hits_total 7.0" in text and "edgecache_disk_corrupt_total 3.0" in text
    shown = StatusBoard(sources, 0.0).snapshot(1.0).parts()["disk"]
    assert shown["hits"] == 7 and shown["capacity_bytes"] == 16 << 20
    await tier.close()
    without = Sources(recorder=Recorder(None))
    assert "edgecache_disk" not in Metrics(without).render()[0].decode()
    assert "disk" not in StatusBoard(without, 0.0).snapshot(1.0).parts()
