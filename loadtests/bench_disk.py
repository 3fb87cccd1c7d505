"""`python -m loadtests.bench_disk`: the disk tier's figures: a start with many objects, lookups, purges.

In one process, on the store that the edge uses. The body of a long response is `bench_sendfile`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.store import Entry, MemoryStore, TieredStore
from edgecache.store.disk import DiskSettings, DiskTier

_RULE = CacheRule()
_TIMED = Timed(
    Response(200, "OK", freeze([("Content-Type", "text/html"), ("Cache-Control", "max-age=86400"), ("ETag", '"1"')])), 0, 0
)
_TERMS = terms(_TIMED, _RULE)
_HEAD = b'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nCache-Control: max-age=86400\r\nETag: "1"\r\n'
_BODY_BYTES = 2000
_WAITING = 2000
"""Responses handed over before the tier is given time to write them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Times as their names say; of the purges: until the caller had its answer, and no entry concerned answers any more."""

    objects: int
    written_per_second: float
    start_ms: float
    """From nothing to the first answer from disk, in a new tier over what is there."""
    hit_us: float
    """CPU of one lookup that memory cannot answer, body included."""
    miss_us: float
    """What the tier adds to a lookup that finds nothing at all."""
    hits_of_sample: int
    sample: int
    purge_tag_ms: float
    purge_prefix_ms: float
    purged: int
    stalled_ms: float
    """How long the event loop stood still at most while the entries of both purges were visited."""
    idle_stalled_ms: float
    """The same while nothing was going on: what the machine does by itself."""
    reclaimed_s: float
    """Until every entry had been visited."""


def entry_of(number: int) -> Entry:
    tags = frozenset({"all", f"part-{number % 10}"})
    body = random.Random(number).randbytes(_BODY_BYTES)
    return replace(_MODEL, uri=f"http://shop.test/products/{number}", body=body, tags=tags)


_MODEL = Entry(uri="", variant="", vary=(), site="shop", timed=_TIMED, body=b"", terms=_TERMS, head=_HEAD)


async def opened(settings: DiskSettings) -> TieredStore:
    tier = DiskTier(settings)
    await tier.start()
    return TieredStore(MemoryStore(1 << 20), tier)


async def fill(store: TieredStore, count: int) -> None:
    for number in range(count):
        store.disk.put(entry_of(number))
        if number % _WAITING == _WAITING - 1:
            while store.disk.stats().waiting_bytes:  # noqa: ASYNC110 - polled from outside
                await asyncio.sleep(0.001)
    await store.disk.purge(Purge(tag="nobody has it"))


async def measure(folder: Path, count: int) -> Figures:
    """Raises RuntimeError if something answers that must not, or does not that must."""
    settings = DiskSettings(path=folder, capacity_bytes=max(64 << 20, count * 16_000))
    store = await opened(settings)
    started = time.perf_counter()
    await fill(store, count)
    writing = time.perf_counter() - started
    await store.disk.close()

    started = time.perf_counter()
    store = await opened(settings)
    first = await _first(store, count)
    start = time.perf_counter() - started
    chance = random.Random(1)
    sample = [chance.randrange(count) for _ in range(min(5000, count))]
    hits, hit_s = _looked_up(store, sample)
    _, miss_s = _looked_up(store, [count + number for number in sample])
    if not first or hits != len(sample):
        raise RuntimeError(f"of {len(sample)} stored responses {hits} answered after the start")

    idle = await _stalls(asyncio.sleep(2.0))
    purges = _Purges()
    stalls = await _stalls(purges.measure(store, sample))
    await store.disk.close()
    return Figures(
        objects=count,
        written_per_second=count / writing,
        start_ms=start * 1e3,
        hit_us=hit_s * 1e6,
        miss_us=miss_s * 1e6,
        hits_of_sample=hits,
        sample=len(sample),
        purge_tag_ms=purges.by_tag * 1e3,
        purge_prefix_ms=purges.by_prefix * 1e3,
        purged=purges.purged,
        stalled_ms=stalls * 1e3,
        idle_stalled_ms=idle * 1e3,
        reclaimed_s=purges.reclaimed,
    )


@dataclass
class _Purges:
    """What purging took, in seconds."""

    by_prefix: float = 0.0
    by_tag: float = 0.0
    purged: int = 0
    reclaimed: float = 0.0

    async def measure(self, store: TieredStore, sample: list[int]) -> None:
        """Raises RuntimeError for a purged response that answers."""
        started = time.perf_counter()
        await store.disk.purge(Purge(prefix="http://shop.test/products/1"))
        self.by_prefix = time.perf_counter() - started
        started = time.perf_counter()
        self.purged = await store.disk.purge(Purge(tag="all", site="shop"))
        self.by_tag = time.perf_counter() - started
        left = 0
        for number in sample[:1000]:
            left += _looked_up(store, [number])[0]
            await asyncio.sleep(0)
        if left:
            raise RuntimeError(f"{left} purged responses answer")
        while store.disk.stats().objects:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        self.reclaimed = time.perf_counter() - started


async def _first(store: TieredStore, count: int) -> bool:
    return store.get(entry_of(count - 1).uri, request_of(count - 1), _RULE) is not None


def _looked_up(store: TieredStore, numbers: list[int]) -> tuple[int, float]:
    """How many answered, and the seconds of CPU that one lookup took."""
    asked = [(f"http://shop.test/products/{number}", request_of(number)) for number in numbers]
    variant: Callable[[tuple[str, ...]], str] = lambda vary: ""  # noqa: E731 - one expression is all there is to it
    started = time.thread_time()
    found = sum(store.disk.get(uri, variant) is not None for uri, _ in asked)
    return found, (time.thread_time() - started) / len(numbers)


def request_of(number: int) -> Request:
    return Request("GET", "http", "shop.test", f"/products/{number}", freeze())


async def _stalls(work: Awaitable[None]) -> float:
    """The longest time, in seconds, for which the event loop stood still while `work` was done."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.0005)
            longest = max(longest, time.perf_counter() - before - 0.0005)

    watching = asyncio.create_task(watch())
    await work
    watching.cancel()
    return longest


def main() -> int:
    """0: measured; 1: something was wrong, or a start took longer than two seconds; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_disk", description="The disk tier's figures.")
    parser.add_argument("--objects", type=int, default=100_000, help="default: %(default)s; a million take 4 GB of disk")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the one for temporary files")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if not 100 <= options.objects <= 10_000_000:
        parser.error("--objects must be from 100 to 10000000")
    sys.setswitchinterval(0.0005)
    with tempfile.TemporaryDirectory(prefix="bench-disk-", dir=options.folder) as folder:
        figures = asyncio.run(measure(Path(folder) / "cache", options.objects))
    if options.json:
        print(json.dumps(asdict(figures)))
    else:
        print(
            f"{figures.objects:,} objects written at {figures.written_per_second:,.0f} a second\n"
            f"start until the first answer from disk: {figures.start_ms:.1f} ms; "
            f"then {figures.hits_of_sample:,} of {figures.sample:,} answer\n"
            f"a hit on disk: {figures.hit_us:.1f} us; a miss costs {figures.miss_us:.1f} us more\n"
            f"purge in force and answered: by tag {figures.purge_tag_ms:.1f} ms, by prefix {figures.purge_prefix_ms:.1f} ms; "
            f"all entries visited after {figures.reclaimed_s:.1f} s\n"
            f"event loop stood still for at most {figures.stalled_ms:.1f} ms meanwhile "
            f"(idle: {figures.idle_stalled_ms:.1f} ms)"
        )
    if figures.start_ms > 2000:
        print("bench_disk: the start took longer than two seconds", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
