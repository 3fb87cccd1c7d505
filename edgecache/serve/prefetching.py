"""Counts hits of stored responses in the last part of their lifetime, and says once of each that it is worth fetching anew.

No tasks here: `renewing` asks at a hit, where the route's rule wants it, and starts the revalidation.
"""

from __future__ import annotations

from typing import Final

from lru import LRU

from edgecache.policy.freshness import Terms
from edgecache.policy.prefetch import OFTEN, reserve
from edgecache.store import Entry

_CAPACITY: Final = 16_384
"""Responses counted at once; the least recently asked for is forgotten, and counted anew."""


class Prefetching:
    """Counts by URI and variant; a response that was renewed is counted anew."""

    def __init__(self) -> None:
        self._seen: LRU[tuple[str, str], tuple[Terms, int]] = LRU(_CAPACITY)

    def due(self, entry: Entry, left: float, share: float) -> bool:
        """Count a hit of `entry`, which has `left` seconds to live. True once, when it has been asked for often enough."""
        if left > reserve(entry.terms, entry.timed.response_time, share):
            return False
        where = (entry.uri, entry.variant)
        terms, hits = self._seen.get(where, (entry.terms, 0))
        hits = hits + 1 if terms is entry.terms else 1
        self._seen[where] = entry.terms, min(hits, OFTEN + 1)
        return hits == OFTEN
