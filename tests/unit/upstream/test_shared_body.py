"""One body for many readers: kept whole while it is small, a window once it is not."""

from __future__ import annotations

import asyncio

import pytest

from edgecache.source import Culprit, SourceError
from edgecache.upstream.flights.shared_body import BufferBudget, SharedBody, SharedReader


def body(limit: int = 100, window: int = 20, budget: BufferBudget | None = None) -> SharedBody:
    return SharedBody(limit_bytes=limit, window_bytes=window, budget=budget or BufferBudget(1000))


async def drained(reader: SharedReader) -> bytes:
    return b"".join([chunk async for chunk in reader])


async def test_every_reader_starts_at_the_first_byte() -> None:
    shared = body()
    early = shared.reader()
    await shared.feed(b"ab")
    late = shared.reader()
    await shared.feed(b"cd")
    shared.finish()
    assert await drained(early) == await drained(late) == b"abcd"
    assert shared.content() == b"abcd"


async def test_a_reader_that_waits_is_woken() -> None:
    shared = body()
    reading = asyncio.create_task(drained(shared.reader()))
    await asyncio.sleep(0)
    await shared.feed(b"a")
    await asyncio.sleep(0)
    shared.finish()
    assert await reading == b"a"


async def test_a_failure_reaches_every_reader_after_what_came_before() -> None:
    shared = body()
    readers = [shared.reader(), shared.reader()]
    await shared.feed(b"a")
    shared.fail(SourceError(Culprit.ORIGIN, "reset"))
    for reader in readers:
        assert await anext(reader) == b"a"
        with pytest.raises(SourceError, match="reset"):
            await anext(reader)
    assert shared.content() is None


async def test_beyond_the_limit_the_producer_waits_for_the_slowest() -> None:
    budget = BufferBudget(1000)
    shared = body(limit=30, window=20, budget=budget)
    fast, slow = shared.reader(), shared.reader()
    for _ in range(3):
        await shared.feed(bytes(10))
    assert shared.whole and budget.used_bytes == 30
    feeding = asyncio.create_task(shared.feed(bytes(10)))
    for _ in range(4):
        await anext(fast)
    await asyncio.sleep(0)
    assert not feeding.done()
    assert not shared.whole and budget.used_bytes == 0
    await anext(slow)
    await asyncio.sleep(0)
    assert not feeding.done(), "30 bytes are kept for the slow reader"
    await slow.close()
    await feeding
    with pytest.raises(RuntimeError):
        shared.reader()


async def test_an_exhausted_budget_ends_keeping() -> None:
    budget = BufferBudget(25)
    first, second = body(budget=budget), body(budget=budget)
    await first.feed(bytes(20))
    await second.feed(bytes(10))
    assert first.whole and not second.whole
    first.release()
    assert budget.used_bytes == 0
