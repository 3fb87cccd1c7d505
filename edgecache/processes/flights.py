"""Who fetches what, over all serving processes: the leader's table of flights by key. Decides; `fleet` sends.

A purge seals the flights under way: who asks after it does not wait for what was asked of the origin before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)
"""A process."""

MAX_FLIGHTS: Final = 100_000
"""Of further ones other processes do not hear."""
MAX_WAITING: Final = 1_000
"""For one flight. Who gives up waiting stays listed until it is settled, which may take hours: further ones fly themselves."""


@dataclass(slots=True)
class _Flight(Generic[P]):
    key: bytes
    uri: str
    holder: tuple[P, int]
    waiting: list[tuple[P, int]] = field(default_factory=list)


class FlightTable(Generic[P]):
    """Flights by key while they may be joined, and by their holder until they are settled."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Flight[P]] = {}
        self._held: dict[tuple[P, int], _Flight[P]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, key: bytes, uri: str, asker: tuple[P, int]) -> tuple[P, int] | None:
        """Who fetches `key` already, for whom `asker` waits from here on; None: `asker` fetches, and others may wait for it."""
        flight = self._open.get(key)
        if flight is not None and flight.holder[0] != asker[0]:
            if len(flight.waiting) >= MAX_WAITING:
                return None
            flight.waiting.append(asker)
            return flight.holder
        if len(self._held) < MAX_FLIGHTS:
            self._open[key] = self._held[asker] = _Flight(key, uri, asker)
        return None

    def settle(self, holder: tuple[P, int]) -> list[tuple[P, int]]:
        """The flight is over. Returns who waits for it."""
        flight = self._held.pop(holder, None)
        if flight is None:
            return []
        if self._open.get(flight.key) is flight:
            del self._open[flight.key]
        return flight.waiting

    def seal(self, uris: Iterable[str] | None = None) -> None:
        """Let nobody join the flights under way, or those for these URIs."""
        if uris is None:
            self._open.clear()
            return
        sealed = set(uris)
        for key in [key for key, flight in self._open.items() if flight.uri in sealed]:
            del self._open[key]

    def lose(self, process: P) -> list[tuple[P, int]]:
        """A process is gone. Returns who waits for what it was to fetch."""
        waiting: list[tuple[P, int]] = []
        for holder in [holder for holder in self._held if holder[0] == process]:
            waiting += self.settle(holder)
        return [waiter for waiter in waiting if waiter[0] != process]
