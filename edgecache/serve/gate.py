"""Lets a client's request into a site, or says why not. Keeps one token bucket a client and site, bounded in number.

`pipeline` asks it before anything else is done for a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from lru import LRU

from edgecache.policy.access import Bucket, Refusal, client_of, permits, take
from edgecache.sites import Site

_BUCKETS = 65_536
"""A client that is forgotten among so many starts with a full bucket."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not let in; `wait_seconds` until it would be, 0 where it never is."""

    why: Refusal
    wait_seconds: float = 0.0


class Gate:
    """One edge's."""

    def __init__(self, capacity: int = _BUCKETS) -> None:
        self._buckets: LRU[tuple[str, str], Bucket] = LRU(capacity)

    def __len__(self) -> int:
        """Buckets that are kept."""
        return len(self._buckets)

    def refuse(self, site: Site, client_ip: str, now: float) -> Refused | None:
        """None: let it in, and count it."""
        rule = site.access
        if rule.open:
            return None
        if not permits(rule, client_ip):
            return Refused(Refusal.DENIED)
        if not rule.client_rate:
            return None
        key = (site.name, client_of(client_ip))
        self._buckets[key], wait = take(self._buckets.get(key), rule, now)
        return Refused(Refusal.RATE, wait) if wait else None
