"""Which origin is asked first: those that refused connections lately come last. Values and given times only; `origin` calls it.

Only failures to connect count. They say something of the server; a reset or a timeout may be one request's own doing, and must
not let one site's clients push an origin away from others.
"""

from __future__ import annotations

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


class Ejection:
    """The health of origins by base URL. An origin without an entry is well."""

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._health: LRU[str, Health] = LRU(_CAPACITY)

    def order(self, origins: tuple[str, ...], now: float) -> tuple[str, ...]:
        """All of `origins`, the ejected ones last: when all are ejected, they are still tried in the given order."""
        return tuple(sorted(origins, key=lambda origin: self.ejected(origin, now)))

    def ejected(self, origin: str, now: float) -> bool:
        health = self._health.get(origin)
        return health is not None and health.until > now

    def failed(self, origin: str, now: float) -> None:
        self._health[origin] = failed(self._health.get(origin) or Health(), now, self._limit, self._pause)

    def succeeded(self, origin: str) -> None:
        self._health.pop(origin, None)
