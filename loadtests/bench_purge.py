"""`python -m loadtests.bench_purge`: a million entries purged by their tag: how long that takes, and how long it blocks the loop.

In one process, on the store that the edge uses, with the purge as the control API calls it. Python's garbage collector is told
to leave the entries alone (`gc.freeze`): its passes are no part of a purge.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Response, Timed
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.serve.pipeline import Pipeline
from edgecache.sites import SiteTable
from edgecache.source import Source
from edgecache.store import Entry, MemoryStore

_TICK_S = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Times in milliseconds. A stall: how much later than asked for the event loop came back to a waiting task."""

    entries: int
    purged: int
    answered_ms: float
    """Until the caller had the count; no purged entry answers from then on."""
    reclaimed_ms: float
    """Until the last entry's memory was given back."""
    worst_stall_ms: float
    p99_stall_ms: float
    idle_worst_stall_ms: float
    """The same before the purge, for as long: what the machine does by itself."""


def fill(store: MemoryStore, count: int) -> None:
    """`count` entries that bear one tag in common and one of ten others. Their values are shared, to fit in little memory."""
    timed = Timed(Response(200, "OK", freeze([("Cache-Control", "max-age=86400")])), 0, 0)
    known = terms(timed, CacheRule())
    tags = [frozenset({"all", f"part-{number}"}) for number in range(10)]
    for number in range(count):
        uri = f"http://shop.test/products/{number}"
        store.put(
            Entry(uri=uri, variant="", vary=(), site="shop", timed=timed, body=b"x", terms=known, tags=tags[number % len(tags)])
        )


async def measure(count: int) -> Figures:
    """Raises RuntimeError if a purged entry still answers."""
    store = MemoryStore(1 << 50)
    pipeline = Pipeline(sites=SiteTable(), store=store, origins=_no_origin, generators=_no_origin)
    fill(store, count)
    gc.collect()
    gc.freeze()
    idle = await _stalls_during(asyncio.sleep(1.0))
    started = time.perf_counter()
    answered = 0.0
    purged = 0

    async def work() -> None:
        nonlocal answered, purged
        purged = await pipeline.purge(Purge(tag="all", site="shop"))
        answered = time.perf_counter() - started
        for number in range(0, count, max(1, count // 1000)):
            if store.at((f"http://shop.test/products/{number}", "")) is not None:
                raise RuntimeError(f"entry {number} answers after its purge")
            await asyncio.sleep(0)
        while store.stats().entries:  # noqa: ASYNC110 - polled from outside, as a client would
            await asyncio.sleep(_TICK_S)

    stalls = await _stalls_during(work())
    reclaimed = time.perf_counter() - started
    await pipeline.close()
    return Figures(
        entries=count,
        purged=purged,
        answered_ms=answered * 1e3,
        reclaimed_ms=reclaimed * 1e3,
        worst_stall_ms=stalls[-1] * 1e3,
        p99_stall_ms=stalls[int(len(stalls) * 0.99)] * 1e3,
        idle_worst_stall_ms=idle[-1] * 1e3,
    )


async def _stalls_during(work: Coroutine[None, None, None]) -> list[float]:
    """Seconds, sorted."""
    task = asyncio.create_task(work)
    stalls = [0.0]
    while not task.done():
        before = time.perf_counter()
        await asyncio.sleep(_TICK_S)
        stalls.append(max(0.0, time.perf_counter() - before - _TICK_S))
    await task
    return sorted(stalls)


def _no_origin(of: object) -> Source:
    raise RuntimeError(f"nothing is to be fetched here, nor for {of}")


def main() -> int:
    """0: measured; 1: the purge was wrong or took more than a second; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_purge", description="Purge by tag of many entries.")
    parser.add_argument("--entries", type=int, default=1_000_000, help="default: %(default)s, which take 1.5 GB")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if not 1 <= options.entries <= 10_000_000:
        parser.error("--entries must be from 1 to 10000000")
    figures = asyncio.run(measure(options.entries))
    if options.json:
        print(json.dumps(asdict(figures)))
    else:
        print(
            f"purge by tag of {figures.purged:,} entries: in force and answered after {figures.answered_ms:.2f} ms, "
            f"memory given back after {figures.reclaimed_ms:.0f} ms\n"
            f"event loop stood still for at most {figures.worst_stall_ms:.1f} ms, p99 {figures.p99_stall_ms:.2f} ms "
            f"(idle: at most {figures.idle_worst_stall_ms:.1f} ms)"
        )
    if figures.purged != figures.entries or figures.answered_ms > 1000:
        print("bench_purge: not all were purged within a second", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
