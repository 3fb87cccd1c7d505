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
    """One edge's. When the table is full, a site with more than its part of it loses its own oldest bucket first, so that a flood
    of one site's clients cannot have another's forgotten."""

    def __init__(self, capacity: int = _BUCKETS) -> None:
        self._capacity = capacity
        self._sites: dict[str, LRU[str, Bucket]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Buckets that are kept."""
        return self._count

    def refuse(self, site: Site, client_ip: str, now: float) -> Refused | None:
        """None: let it in, and count it."""
        rule = site.access
        if rule.open:
            return None
        if not permits(rule, client_ip):
            return Refused(Refusal.DENIED)
        if not rule.client_rate:
            return None
        buckets = self._sites.get(site.name)
        if buckets is None:
            buckets = self._sites[site.name] = LRU(self._capacity + 1)
        client = client_of(client_ip)
        known = buckets.get(client)
        buckets[client], wait = take(known, rule, now)
        if known is None:
            self._count += 1
            if self._count > self._capacity:
                self._drop_oldest(self._too_full(site.name))
        return Refused(Refusal.RATE, wait) if wait else None

    def _too_full(self, site: str) -> str:
        """A site with more than its part: `site` where it is one, else the next in turn. When the table is full, there is one."""
        part = self._capacity // len(self._sites)
        while len(self._sites[site]) <= part:
            site = next(iter(self._sites))
            if len(self._sites[site]) <= part:
                # To the end, so that it is not looked at again before all others.
                self._sites[site] = self._sites.pop(site)
        return site

    def _drop_oldest(self, site: str) -> None:
        buckets = self._sites[site]
        oldest = buckets.peek_last_item()
        if oldest is not None:
            del buckets[oldest[0]]
            self._count -= 1
        if not buckets:
            del self._sites[site]
