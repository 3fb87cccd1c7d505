"""The first place on a flight that waits to be launched. Nothing is made of it until somebody boards, or it is launched: most
are given up before, because the response has come whole.

`collapse` hands them out and makes their seats, `serve.misses.errand` holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class SeatLike(Protocol):
    """What `collapse.Seat` is to a reservation."""

    @property
    def alone(self) -> bool: ...

    def vacate(self) -> None: ...


S = TypeVar("S", bound=SeatLike)


class Reservation(Generic[S]):
    """Held by one client. Its holder has its `seat` launched, or vacates it before long."""

    __slots__ = ("_occupy", "_open", "_seat", "key")

    def __init__(self, key: Hashable, reserved: dict[Hashable, Reservation[S]], occupy: Callable[[Hashable], S]) -> None:
        """Listed in `reserved`, until it has a seat, which `occupy` makes, on a flight of its own."""
        self.key = key
        self._open = reserved
        self._occupy = occupy
        self._seat: S | None = None
        reserved[key] = self

    @property
    def seat(self) -> S:
        """Its place on the flight, which somebody is going to need."""
        seat = self._seat
        if seat is None:
            del self._open[self.key]
            seat = self._seat = self._occupy(self.key)
        return seat

    @property
    def alone(self) -> bool:
        """Whether nobody else is aboard."""
        seat = self._seat
        return seat is None or seat.alone

    def vacate(self) -> None:
        """Give it up: the flight is over unless others are aboard, for whom it must have been launched."""
        seat = self._seat
        if seat is not None:
            seat.vacate()
        else:
            del self._open[self.key]
