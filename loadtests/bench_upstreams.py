"""What choosing, checking and counting origins costs a request that goes upstream: `python -m loadtests.bench_upstreams`.

Whose turn it is, by itself; then whole exchanges with an origin in the same process, with nothing said of it and with everything.
Both kinds of exchange take turns within one run: only their ratio means anything on a shared machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Final

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.upstream import (
    Balance,
    BreakerRule,
    EjectionRule,
    HealthRule,
    HedgeRule,
    Origin,
    RetryOn,
    RetryRule,
    UpstreamRule,
)
from edgecache.sites import Site, SiteSnapshot
from edgecache.upstream.choosing.balancing import Candidate, turn
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.origins import Origins
from edgecache.upstream.settings import UpstreamSettings
from edgecache.upstream.upstreams import Upstreams

SIZES: Final = (2, 8, 32)
TURNS: Final = 5_000
ROUNDS: Final = 9
EXCHANGES: Final = 500
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: no-store\r\n\r\nhello"


def turns() -> dict[str, float]:
    """Microseconds of one choice, by balance and number of origins."""
    found: dict[str, float] = {}
    for balance in Balance:
        for size in SIZES:
            candidates = [Candidate(f"http://10.0.0.{number}", number % 5 + 1) for number in range(size)]
            credit: tuple[int, ...] = (0,) * size
            begin = time.perf_counter()
            for number in range(TURNS):
                _, credit = turn(candidates, balance, b"/%d" % number, credit)
            found[f"{balance} {size}"] = round((time.perf_counter() - begin) / TURNS * 1e6, 2)
    return found


async def exchanges() -> dict[str, float]:
    """Exchanges a second, one after the other, with a plain origin and with one of which everything is said."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    rule = UpstreamRule(
        origins=(Origin(url, weight=3), Origin("http://127.0.0.1:9", backup=True)),
        health=HealthRule(interval=3600.0),
        ejection=EjectionRule(),
        breaker=BreakerRule(max_connections=64, max_failures=5),
        retries=RetryRule(on=tuple(RetryOn), statuses=(503,)),
        hedge=HedgeRule(after=10.0),
    )
    sites = (
        Site(name="plain", hosts=("a.test",), origins=(url,)),
        Site(name="all", hosts=("b.test",), origins=(url, "http://127.0.0.1:9"), upstream=rule),
    )
    client = OriginClient(UpstreamSettings())
    upstreams = Upstreams(client)
    upstreams.follow(SiteSnapshot(sites))
    rates: dict[str, list[float]] = {site.name: [] for site in sites}
    try:
        async with server:
            for _ in range(ROUNDS):
                for site in sites:
                    rates[site.name].append(await _rate(upstreams.of(site)))
    finally:
        await upstreams.close()
        await client.close()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratio = statistics.median(whole / bare for whole, bare in zip(rates["all"], rates["plain"], strict=True))
    return {**{f"{name} a second": round(rate) for name, rate in medians.items()}, "all / plain": round(ratio, 3)}


async def _rate(origins: Origins) -> float:
    request = Request("GET", "http", "a.test", "/x", freeze([("Host", "a.test")]))
    begin = time.perf_counter()
    for _ in range(EXCHANGES):
        reply = await origins.fetch(request, None, "")
        async for _ in reply.body:
            pass
    return EXCHANGES / (time.perf_counter() - begin)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    asked = parser.parse_args()
    found = {"turn_us": turns(), "exchanges": asyncio.run(exchanges())}
    for part, figures in found.items():
        for name, value in figures.items():
            print(f"{part:10} {name:16} {value:>10,}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
