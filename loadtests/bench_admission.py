"""`python -m loadtests.bench_admission`: hit ratios of the memory tier under both admission policies, with and without crawlers.

Traces are drawn from a seed and run against the store that the edge uses, without an edge around it: a request that finds nothing
stores. Popularity follows Zipf's law; a crawler asks once for each of many URLs that nobody else wants.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Response, Timed
from edgecache.policy.rule import CacheRule
from edgecache.store import AdmissionPolicy, Entry, MemoryStore

_BODY_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One trace under both policies; ratios of the requests that are no crawler's."""

    trace: str
    share: float
    """Of all popular objects' bytes that memory holds."""
    lru: float
    tinylfu: float
    hit_lru_ns: float
    hit_tinylfu_ns: float
    """CPU of one lookup that hits."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by number of their object; those of crawlers are negative."""

    name: str
    requests: list[int]


def zipf(chance: random.Random, objects: int, exponent: float) -> Iterator[int]:
    """Numbers of objects, the most popular ones least, for ever."""
    weights = list(itertools.accumulate(1 / rank**exponent for rank in range(1, objects + 1)))
    while True:
        yield bisect.bisect_left(weights, chance.random() * weights[-1])


def traces(objects: int, length: int, seed: int) -> list[Trace]:
    """The traces: steady, with crawlers, and with a popularity that moves."""
    found = []
    for exponent in (0.7, 0.9, 1.1):
        drawn = zipf(random.Random(seed), objects, exponent)
        found.append(Trace(f"zipf {exponent}", list(itertools.islice(drawn, length))))
    steady = found[1].requests
    found.append(Trace("zipf 0.9, half of all requests a crawler's", _with_crawler(steady, 1)))
    found.append(Trace("zipf 0.9, crawls of ten times the memory", _with_crawls(steady, objects)))
    moved = [number if at < length // 2 else (number + objects // 2) % objects for at, number in enumerate(steady)]
    found.append(Trace("zipf 0.9, others popular from the middle on", moved))
    return found


def _with_crawler(requests: list[int], every: int) -> list[int]:
    crawled = itertools.count(1)
    mixed = []
    for at, number in enumerate(requests):
        mixed.append(number)
        if at % every == 0:
            mixed.append(-next(crawled))
    return mixed


def _with_crawls(requests: list[int], objects: int) -> list[int]:
    crawled = itertools.count(1)
    mixed: list[int] = []
    part = len(requests) // 4
    for start in range(0, len(requests), part):
        mixed += requests[start : start + part]
        mixed += [-next(crawled) for _ in range(objects // 2)]
    return mixed


def entry_of(number: int) -> Entry:
    return replace(_MODEL, uri=f"http://shop.test/{number}", body=bytes(_BODY_BYTES))


def run(trace: Trace, capacity_bytes: int, policy: AdmissionPolicy) -> tuple[float, float]:
    """The hit ratio, crawlers apart, and the time of a hit in nanoseconds."""
    store = MemoryStore(capacity_bytes, admission=policy)
    known: dict[int, Entry] = {}
    hits = asked = 0
    for number in trace.requests:
        entry = known.get(number)
        if entry is None:
            entry = known[number] = entry_of(number)
        hit = store.at((entry.uri, "")) is not None
        if not hit:
            store.put(entry)
        if number >= 0:
            asked += 1
            hits += hit
    return hits / asked, _time_of_hit(store, known[trace.requests[-1]])


def _time_of_hit(store: MemoryStore, entry: Entry) -> float:
    store.put(entry)
    key, at, rounds = (entry.uri, ""), store.at, 100_000
    best = float("inf")
    for _ in range(5):
        started = time.thread_time_ns()
        for _ in range(rounds):
            at(key)
        best = min(best, (time.thread_time_ns() - started) / rounds)
    return best


_TIMED = Timed(Response(200, "OK", freeze([("Cache-Control", "max-age=86400")])), 0, 0)
_MODEL = Entry(uri="", variant="", vary=(), site="shop", timed=_TIMED, body=b"", terms=terms(_TIMED, CacheRule()))


def main() -> int:
    """0: measured; 1: TinyLFU was worse on a steady trace; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_admission", description="Hit ratios of admission policies.")
    parser.add_argument("--objects", type=int, default=20_000, help="popular URLs; default: %(default)s")
    parser.add_argument("--requests", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if not 100 <= options.objects <= 1_000_000 or not 1000 <= options.requests <= 100_000_000:
        parser.error("--objects must be from 100 to 1000000, --requests from 1000 to 100000000")
    rows = []
    size = entry_of(1).size_bytes
    for trace, share in itertools.product(traces(options.objects, options.requests, options.seed), (0.05, 0.2)):
        capacity = int(options.objects * share * size)
        lru, lru_ns = run(trace, capacity, AdmissionPolicy.LRU)
        tiny, tiny_ns = run(trace, capacity, AdmissionPolicy.TINYLFU)
        rows.append(Row(trace=trace.name, share=share, lru=lru, tinylfu=tiny, hit_lru_ns=lru_ns, hit_tinylfu_ns=tiny_ns))
        if not options.json:
            if len(rows) == 1:
                print(f"{'trace':46}{'memory':>8}{'LRU':>9}{'TinyLFU':>9}{'hit, ns':>16}")
            print(f"{trace.name:46}{share:8.0%}{lru:9.2%}{tiny:9.2%}{lru_ns:9.0f}{tiny_ns:7.0f}", flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    worse = [row.trace for row in rows if row.trace.startswith("zipf") and "," not in row.trace and row.tinylfu < row.lru - 0.001]
    for name in worse:
        print(f"bench_admission: TinyLFU is worse on {name}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
