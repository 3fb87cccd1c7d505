"""Who fetches what, over all serving processes: the leader's table of flights by key. Decides; `flight_desk` sends.

Most flights are on the board alone (`flight_board`); one comes to this table when somebody else wants the same. Whoever the
board names is asked then, and those who want it wait for the answer. A purge seals the flights under way: who asks after it does
not wait for what was asked of the origin before.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)
"""A process."""

MAX_FLIGHTS: Final = 100_000
"""Of further ones other processes do not hear."""
MAX_WAITING: Final = 1_000
"""For one flight. Who gives up waiting stays listed until it is settled, which may take hours: further ones fly themselves."""


@dataclass(frozen=True, slots=True)
class Fly(Generic[P]):
    """This claim is granted."""

    claim: tuple[P, int]


@dataclass(frozen=True, slots=True)
class Awaited(Generic[P]):
    """Somebody waits for what this claim's holder fetches."""

    claim: tuple[P, int]


@dataclass(frozen=True, slots=True)
class Ask(Generic[P]):
    """This process is to say whether it fetches under `key`; `answered` goes on."""

    process: P
    key: bytes


@dataclass(slots=True)
class _Flight(Generic[P]):
    key: bytes
    uri: str
    holder: tuple[P, int]
    waiting: list[tuple[P, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Asked(Generic[P]):
    uri: str
    waiting: list[tuple[P, int]]
    sealed: bool = False


class FlightTable(Generic[P]):
    """Flights by key while they may be joined, and by their holder until they are settled."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Flight[P]] = {}
        self._held: dict[tuple[P, int], _Flight[P]] = {}
        self._asked: dict[tuple[P, bytes], list[_Asked[P]]] = {}
        """Who has been asked, and not answered yet: once for each in the list."""

    def __len__(self) -> int:
        return len(self._held) + len(self._asked)

    def claim(self, key: bytes, uri: str, asker: tuple[P, int], suspect: P | None = None) -> Fly[P] | Awaited[P] | Ask[P] | None:
        """Returns what is to be said now that `asker` wants to fetch; None: nothing, it waits. `suspect`: named by the board."""
        if suspect is None or suspect == asker[0] or key in self._open:
            return self._boarded(key, uri, asker)
        asked = self._asked.setdefault((suspect, key), [])
        if not asked or asked[-1].sealed:
            asked.append(_Asked(uri, [asker]))
            return Ask(suspect, key)
        if len(asked[-1].waiting) >= MAX_WAITING:
            return Fly(asker)
        asked[-1].waiting.append(asker)
        return None

    def answered(self, process: P, key: bytes, serial: int) -> list[Fly[P] | Awaited[P]]:
        """Who was asked has said which of its claims it is, or 0: it fetches nothing under `key`."""
        asked = self._asked.get((process, key))
        if not asked:
            return []
        first = asked.pop(0)
        if not asked:
            del self._asked[process, key]
        return self._resolved(key, first, (process, serial) if serial else None)

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
        sealed = None if uris is None else set(uris)
        for key in [key for key, flight in self._open.items() if sealed is None or flight.uri in sealed]:
            del self._open[key]
        for asked in self._asked.values():
            for each in asked:
                each.sealed = each.sealed or sealed is None or each.uri in sealed

    def lose(self, process: P) -> tuple[list[tuple[P, int]], list[Fly[P] | Awaited[P]]]:
        """A process is gone. Returns who waits for what it was to fetch, and what is to be said to who waits for its answer."""
        waiting: list[tuple[P, int]] = []
        for holder in [holder for holder in self._held if holder[0] == process]:
            waiting += self.settle(holder)
        for each in itertools.chain.from_iterable(self._asked.values()):
            each.waiting = [waiter for waiter in each.waiting if waiter[0] != process]
        steps: list[Fly[P] | Awaited[P]] = []
        for who, key in [asked for asked in self._asked if asked[0] == process]:
            for each in self._asked.pop((who, key)):
                steps += self._resolved(key, each, None)
        return [waiter for waiter in waiting if waiter[0] != process], steps

    def _boarded(self, key: bytes, uri: str, asker: tuple[P, int]) -> Fly[P] | Awaited[P]:
        flight = self._open.get(key)
        if flight is not None and flight.holder[0] != asker[0] and len(flight.waiting) < MAX_WAITING:
            flight.waiting.append(asker)
            return Awaited(flight.holder)
        if len(self._held) < MAX_FLIGHTS and (flight is None or flight.holder[0] == asker[0]):
            self._open[key] = self._held[asker] = _Flight(key, uri, asker)
        return Fly(asker)

    def _resolved(self, key: bytes, asked: _Asked[P], holder: tuple[P, int] | None) -> list[Fly[P] | Awaited[P]]:
        """Have those who waited for an answer wait for `holder`'s flight, or without one for that of the first of them."""
        if asked.sealed and holder is None:
            return [Fly(asker) for asker in asked.waiting]
        if holder is None:
            return [self._boarded(key, asked.uri, asker) for asker in asked.waiting]
        flight = self._held.get(holder)
        if flight is None:
            if len(self._held) >= MAX_FLIGHTS:
                return [Fly(asker) for asker in asked.waiting]
            flight = self._held[holder] = _Flight(key, asked.uri, holder)
            if not asked.sealed:
                self._open.setdefault(key, flight)
        room = MAX_WAITING - len(flight.waiting)
        flight.waiting += asked.waiting[:room]
        return [Fly(asker) for asker in asked.waiting[room:]]
