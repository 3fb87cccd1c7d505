"""The leader's part in what its serving processes fetch for each other: it hears of claims, and says who fetches and who waits.

`flights` decides; the board, on which most claims stay without a word to the leader, is made here. `fleet` has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from edgecache.processes import messages
from edgecache.processes.flight_board import FlightBoard
from edgecache.processes.flights import Ask, Awaited, FlightTable, Fly
from edgecache.processes.serving_process import ServingProcess

_LEADERS_NUMBER: Final = 0
"""On the board: it fetches nothing."""


class FlightDesk:
    """`members`: the serving processes as they are now, in a list that its owner changes."""

    def __init__(self, members: Sequence[ServingProcess]) -> None:
        self._members = members
        self._table: FlightTable[ServingProcess] = FlightTable()
        self._board: FlightBoard | None = None

    def board(self) -> int | None:
        """The descriptor of the board that all share, made when it is first asked for. Raises OSError."""
        if self._board is None:
            self._board = FlightBoard(_LEADERS_NUMBER)
        return self._board.descriptor

    def told(self, teller: ServingProcess, message: messages.ClaimFlight | messages.HeldClaim | messages.Settle) -> None:
        """What a process says of its claims."""
        match message:
            case messages.ClaimFlight(serial=serial, key=key, uri=uri, holder=holder):
                step = self._table.claim(key, uri, (teller, serial), self._numbered(holder))
                self._say(() if step is None else (step,))
            case messages.HeldClaim(key=key, serial=serial):
                self._say(self._table.answered(teller, key, serial))
            case messages.Settle(serial=serial, brought=brought):
                _landed(self._table.settle((teller, serial)), brought)

    def seal(self, uris: Iterable[str] | None = None) -> None:
        """A purge: nobody waits from here on for what is being fetched, or for these URIs."""
        self._table.seal(uris)

    def lose(self, member: ServingProcess) -> None:
        """It has ended: whoever waits for what it was to fetch, or to say, goes on."""
        if self._board is not None:
            self._board.clear(member.number)
        waiting, steps = self._table.lose(member)
        _landed(waiting, None)
        self._say(steps)

    def close(self) -> None:
        """Idempotent."""
        board, self._board = self._board, None
        if board is not None:
            board.close()

    def _numbered(self, number: int) -> ServingProcess | None:
        """Who lives and has this number on the board."""
        return next((member for member in self._members if member.number == number and not member.ended.is_set()), None)

    def _say(self, steps: Sequence[Fly[ServingProcess] | Awaited[ServingProcess] | Ask[ServingProcess]]) -> None:
        for step in steps:
            match step:
                case Fly(claim=(member, serial)):
                    member.send(messages.Claimed(serial, granted=True))
                case Awaited(claim=(member, serial)):
                    member.send(messages.Awaited(serial))
                case Ask(process=member, key=key):
                    member.send(messages.Whose(key))


def _landed(waiting: Iterable[tuple[ServingProcess, int]], brought: messages.BroughtOver | None) -> None:
    for member, serial in waiting:
        member.send(messages.Claimed(serial, granted=False, brought=brought))
