"""Runs to figures, and figures to a table and to JSON: medians, the spread, and ratios beside each peer. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from loadtests.bench.rows import Row
from loadtests.wrk import Run

EDGE_NAME: Final = "edgecache"


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs against one server: medians, and the spread of the rate."""

    server: str
    per_second: float
    slowest: float
    fastest: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of all its processes, a request."""
    errors: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """The edge's figures as multiples of a peer's; above 1 is better for `per_second`, below 1 for the others."""

    peer: str
    per_second: float
    p50: float
    p99: float
    cpu: float


def summarise(server: str, runs: Sequence[Run], cpu_us: Sequence[float]) -> Summary:
    """At least one run."""
    rates = [run.per_second for run in runs]
    return Summary(
        server=server,
        per_second=statistics.median(rates),
        slowest=min(rates),
        fastest=max(rates),
        p50_ms=statistics.median(run.p50_ms for run in runs),
        p99_ms=statistics.median(run.p99_ms for run in runs),
        cpu_us=round(statistics.median(cpu_us), 2),
        errors=sum(run.errors for run in runs),
    )


def ratios(summaries: Sequence[Summary]) -> list[Ratio]:
    """The edge's beside each peer's; empty without the edge."""
    own = next((summary for summary in summaries if summary.server == EDGE_NAME), None)
    if own is None:
        return []
    return [
        Ratio(
            peer.server,
            per_second=_part(own.per_second, peer.per_second),
            p50=_part(own.p50_ms, peer.p50_ms),
            p99=_part(own.p99_ms, peer.p99_ms),
            cpu=_part(own.cpu_us, peer.cpu_us),
        )
        for peer in summaries
        if peer.server != EDGE_NAME
    ]


def table(figures: Mapping[Row, Sequence[Summary]]) -> str:
    """Each row: a line a server, the edge first, with the edge's multiples of each peer's rate, p99 and CPU time."""
    lines = []
    titles = f"{'per second':>12}{'slowest':>10}{'fastest':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}{'errors':>8}"
    for row, summaries in figures.items():
        lines += ["", f"{row.title:<36}{titles}{'× rate':>9}{'× p99':>8}{'× CPU':>8}"]
        beside = {ratio.peer: ratio for ratio in ratios(summaries)}
        for s in summaries:
            rates = f"{s.per_second:>12,.0f}{s.slowest:>10,.0f}{s.fastest:>10,.0f}"
            times = f"{s.p50_ms:>9.2f}{s.p99_ms:>9.2f}{s.cpu_us:>9.2f}{s.errors:>8}"
            ratio = beside.get(s.server)
            multiples = f"{ratio.per_second:>9.2f}{ratio.p99:>8.2f}{ratio.cpu:>8.2f}" if ratio else ""
            lines.append(f"  {s.server:<34}{rates}{times}{multiples}")
    return "\n".join(lines)


def document(figures: Mapping[Row, Sequence[Summary]]) -> dict[str, object]:
    """The same for scripts, by the rows' names."""
    return {
        row.name: {
            "title": row.title,
            "servers": [asdict(summary) for summary in summaries],
            "ratios": [asdict(ratio) for ratio in ratios(summaries)],
        }
        for row, summaries in figures.items()
    }


def _part(own: float, peers: float) -> float:
    return round(own / peers, 3) if peers else 0.0
