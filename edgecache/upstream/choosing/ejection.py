"""Which origins have failed lately, and for how long they are asked last. Values and given times; `pool` and `member` call it.

Failures to connect say something of the server, for every site: they are kept here by endpoint. A reset, a timeout or an error
may be one request's own doing, and must not let one site's clients push an origin away from others: `member` keeps those.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from lru import LRU

_CAPACITY = 65_536
"""Origins remembered; the least recently touched is forgotten, and is then simply tried again."""
_LONGEST = 32
"""The pause doubles with each ejection in a row, up to this multiple of the first."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one origin that has failed since its last success. `until` is in the caller's clock, seconds."""

    failures: int = 0
    """In a row, since the last success or ejection."""
    ejections: int = 0
    """In a row, since the last success."""
    until: float = float("-inf")


def failed(health: Health, now: float, limit: int, pause: float) -> Health:
    """After one more failure at `now`: the `limit`-th in a row ejects, and so does the first after an ejection has ended."""
    if health.until > now:
        return health
    failures = health.failures + 1
    if failures < limit and not health.ejections:
        return Health(failures)
    return Health(0, health.ejections + 1, now + min(pause * 2.0 ** min(health.ejections, _LONGEST), pause * _LONGEST))


def may_eject(ejected: int, size: int, max_share: float) -> bool:
    """Whether one more of `size` origins may be ejected beside `ejected`. One may in any case where there is another."""
    return size > 1 and ejected < max(1, math.floor(size * max_share))


class Ejection:
    """The health of endpoints. One without an entry is well."""

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._health: LRU[Hashable, Health] = LRU(_CAPACITY)

    def change(self, limit: int, pause: float) -> None:
        """The bounds of failures from here on."""
        self._limit, self._pause = limit, pause

    def ejected(self, endpoint: Hashable, now: float) -> bool:
        # Telling one endpoint from others takes a microsecond, and mostly all are well.
        health = self._health.get(endpoint) if self._health else None
        return health is not None and health.until > now

    def failed(self, endpoint: Hashable, now: float) -> None:
        self._health[endpoint] = failed(self._health.get(endpoint) or Health(), now, self._limit, self._pause)

    def succeeded(self, endpoint: Hashable) -> None:
        if self._health:
            self._health.pop(endpoint, None)
