"""Who hears of every finished request: counts it, and writes it to the access log. The one real `Observer`.

`serve` and the generators' bridge call it, on the event loop.
"""

from __future__ import annotations

from edgecache.observe.access_log import AccessLog
from edgecache.observe.figures import Figures, RepeatedCount
from edgecache.observe.record import Record, Repeated
from sandbox.outcome import End, Usage


class Recorder:
    """Neither blocks nor raises."""

    def __init__(self, log: AccessLog | None = None) -> None:
        self.figures = Figures()
        self.log = log

    def on_request(self, record: Record) -> None:
        self.figures.count(record)
        if self.log is not None:
            self.log.write(record)

    def repeated(self, record: Record) -> Repeated:
        count = self.figures.repeated(record)
        return count if self.log is None else _Repeated(count, self.log.repeated(record))

    def on_usage(self, key: str, end: End, usage: Usage) -> None:
        """One finished call of the generator's version that the monitor knows as `key`."""
        self.figures.count_call(key, end, usage)

    @property
    def log_lines_dropped(self) -> int:
        return self.log.dropped if self.log is not None else 0


class _Repeated:
    """Counts and logs requests that are alike: what a hit of the fast lane costs here."""

    __slots__ = ("_count", "_line")

    def __init__(self, count: RepeatedCount, line: Repeated) -> None:
        self._count = count
        self._line = line

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        self._count.on_request(time, request_id, client, duration)
        self._line.on_request(time, request_id, client, duration)
