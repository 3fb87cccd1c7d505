"""Counts answers by what the edge did for them, as Cache-Status (RFC 9211) says, and makes the closing table. Pure, no Locust."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from demo.visit import parameters

RESERVOIR: Final = 20_000
"""Times kept of each kind; beyond that an even sample."""
QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)


class Kind(enum.StrEnum):
    """What an answer was."""

    HIT = "hit"
    STALE = "stale"
    MISS = "miss"
    GENERATED = "generated"
    FALLBACK = "fallback"
    """A generator failed, and its origin answered."""
    PASSED = "passed"
    """From the origin, not for storing."""
    FAILED = "failed"
    """No answer, or an error."""
    WRONG = "wrong"
    """An answer with status 200 that is not the right one."""


def classify(status: str | None, *, by_generator: bool) -> Kind | None:
    """What the last member of a Cache-Status field says; None without one. `by_generator`: the route is a generator's."""
    if not status:
        return None
    said = parameters(status.rpartition(",")[2])
    if "hit" in said:
        return Kind.STALE if said.get("ttl", "0").startswith("-") or "detail" in said else Kind.HIT
    if by_generator:
        return Kind.FALLBACK if said.get("detail", "").startswith("generator-") else Kind.GENERATED
    return Kind.MISS if "stored" in said or "collapsed" in said else Kind.PASSED


@dataclass
class Times:
    """How long the answers of one kind took, in milliseconds."""

    count: int = 0
    kept: list[float] = field(default_factory=list)

    def add(self, milliseconds: float) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R)."""
        self.count += 1
        if len(self.kept) < RESERVOIR:
            self.kept.append(milliseconds)
        elif (at := random.randrange(self.count)) < RESERVOIR:
            self.kept[at] = milliseconds

    def quantile(self, part: float) -> float:
        """The smallest time that `part` of the answers did not exceed."""
        ordered = sorted(self.kept)
        return ordered[max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1)] if ordered else 0.0


@dataclass
class Tally:
    """All answers of one run."""

    kinds: dict[Kind, Times] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, kind: Kind, milliseconds: float) -> None:
        self.kinds.setdefault(kind, Times()).add(milliseconds)

    def fail(self, name: str, reason: str, milliseconds: float, *, kind: Kind = Kind.FAILED) -> None:
        """Count a failure; at most 50 different ones are told apart."""
        self.add(kind, milliseconds)
        key = f"{name}: {reason[:200]}"
        if key in self.failures or len(self.failures) < 50:
            self.failures[key] = self.failures.get(key, 0) + 1

    @property
    def total(self) -> int:
        return sum(times.count for times in self.kinds.values())

    @property
    def failed(self) -> int:
        return sum(self.kinds[kind].count for kind in (Kind.FAILED, Kind.WRONG) if kind in self.kinds)

    def table(self, seconds: float) -> str:
        """A row for each kind: count, part of all, a second, percentiles in milliseconds; then the failures."""
        lines = [f"{'':<10}{'answers':>9}{'part':>8}{'per s':>9}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
        rows: list[tuple[str, Times]] = [(kind, self.kinds.get(kind, Times())) for kind in Kind]
        together = Times(self.total, [time for times in self.kinds.values() for time in times.kept])
        for name, times in (*rows, ("all", together)):
            part = times.count / self.total if self.total else 0.0
            quantiles = "".join(f"{times.quantile(q):>9.1f}" for q in QUANTILES)
            lines.append(f"{name:<10}{times.count:>9,}{part:>8.1%}{times.count / max(seconds, 1e-9):>9,.0f}{quantiles}")
        lines += [f"  {count:>6,} × {reason}" for reason, count in sorted(self.failures.items(), key=lambda item: -item[1])]
        return "\n".join(lines)

    def as_json(self, seconds: float) -> Mapping[str, object]:
        """The same for scripts."""
        kinds = {
            str(kind): {"count": times.count, **{f"p{q * 100:g}_ms": round(times.quantile(q), 3) for q in QUANTILES}}
            for kind, times in self.kinds.items()
        }
        return {
            "seconds": round(seconds, 3),
            "total": self.total,
            "failed": self.failed,
            "kinds": kinds,
            "failures": self.failures,
        }
