"""What the tier's worker makes of a disk that fails in the middle of a batch. Index and files are real, the failure arranged."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from edgecache.store.disk import DiskSettings, DiskTier


def segments_open(path: Path) -> int:
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(each).startswith(str(path)) and os.readlink(each).endswith(".seg")
        except OSError:
            continue
    return found


@pytest.mark.parametrize("times", [1, 2])
async def test_a_segment_reserved_in_a_batch_that_fails_is_not_reserved_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    tier = DiskTier(DiskSettings(path=tmp_path, capacity_bytes=16 << 20))
    await tier.start()
    worker = tier._worker
    assert worker is not None
    drop, failed = worker._drop, 0

    def failing(*args: Any) -> None:
        nonlocal failed
        failed += 1
        if failed <= times:
            raise lmdb.DiskError("no space left")
        drop(*args)

    monkeypatch.setattr(worker, "_drop", failing)
    try:
        # One batch: the first waits for others.
        tier.drop("http://a/", "", time=1.0)
        writer = await tier.reserve(100_000)
        assert writer is not None
        assert failed == 2
        assert segments_open(tmp_path) == 1
        writer.close()
        tier.release(writer.number)
        async with asyncio.timeout(10):
            while tier.stats().segments:
                await asyncio.sleep(0.01)
        assert segments_open(tmp_path) == 0
        assert not list(tmp_path.glob("*.seg"))
    finally:
        await tier.close()


async def test_a_segment_whose_reservation_is_not_recorded_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the index is committed, and has room again later."""
    tier = DiskTier(DiskSettings(path=tmp_path, capacity_bytes=16 << 20))
    await tier.start()
    index = tier._index
    assert index is not None
    writing, full = index.writing, True

    @contextlib.contextmanager
    def refused() -> Iterator[Any]:
        with writing() as txn:
            yield txn
            if full:
                raise lmdb.DiskError("no space left")

    monkeypatch.setattr(index, "writing", refused)
    try:
        for _ in range(5):
            assert await tier.reserve(100_000) is None
        assert segments_open(tmp_path) == 0
        full = False
        writer = await tier.reserve(100_000)
        assert writer is not None
        writer.close()
        tier.release(writer.number)
    finally:
        await tier.close()
