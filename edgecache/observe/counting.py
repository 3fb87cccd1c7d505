"""Requests that are alike, counted in a few plain numbers: cheap enough for every hit of the fast lane, and compiled.

`figures` makes them, and takes what they have added up into its tables before it shows those.
"""

from __future__ import annotations

from collections.abc import Callable

Put = Callable[[int, int, float, float], None]
"""Takes requests into the tables: how many, their bytes of body, and, in seconds, the longest and all of them together."""


class Kind:
    """Requests of one site, route, class of status, cache word and protocol. Short ones, as hits are, are added up here."""

    __slots__ = ("_bytes_sent", "_put", "_requests", "_seconds", "_short")

    def __init__(self, put: Put, short: float) -> None:
        """Those that took up to `short` seconds need not be told apart."""
        self._put, self._short = put, short
        self._requests = self._bytes_sent = 0
        self._seconds = 0.0

    def add(self, size: int, duration: float) -> None:
        """One finished request, of `size` bytes of body."""
        if duration <= self._short:
            self._requests += 1
            self._bytes_sent += size
            self._seconds += duration
        else:
            self.settle()
            self._put(1, size, duration, duration)

    def settle(self) -> None:
        """Put into the tables what has been added up."""
        if self._requests:
            self._put(self._requests, self._bytes_sent, self._short, self._seconds)
            self._requests = self._bytes_sent = 0
            self._seconds = 0.0


class RepeatedCount:
    """Where requests that are alike are counted, found once."""

    __slots__ = ("_besides", "kind", "size")

    def __init__(self, kind: Kind, size: int, besides: Callable[[], None] | None) -> None:
        """`besides`: counts what is out of the ordinary with them."""
        self.kind, self.size, self._besides = kind, size, besides

    @property
    def ordinary(self) -> bool:
        """Whether nothing but its kind and size is counted."""
        return self._besides is None

    def add(self, duration: float) -> None:
        """One finished request."""
        self.kind.add(self.size, duration)
        if self._besides is not None:
            self._besides()
