"""Remembers keys whose responses could not be shared, so that requests for them are not made to wait for each other.

Bounded and forgetful: an entry ends by time, by displacement, or by a storable response. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Hashable

from lru import LRU


class Predictor:
    """Uncacheable keys, at most `capacity`, each for `ttl` seconds."""

    def __init__(self, capacity: int, ttl: float) -> None:
        self._until: LRU[Hashable, float] = LRU(capacity)
        self._ttl = ttl

    def remember(self, key: Hashable, now: float) -> None:
        self._until[key] = now + self._ttl

    def forget(self, key: Hashable) -> None:
        self._until.pop(key, None)

    def uncacheable(self, key: Hashable, now: float) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if until > now:
            return True
        self._until.pop(key, None)
        return False

    def __len__(self) -> int:
        return len(self._until)
