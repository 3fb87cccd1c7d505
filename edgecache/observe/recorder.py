"""Who hears of every finished request: counts it, and writes it to the access log. The one real `Observer`.

`serve` and the generators' bridge call it, on the event loop.
"""

from __future__ import annotations

import msgspec

from edgecache.observe.access_log import AccessLog
from edgecache.observe.figures import Figures
from edgecache.observe.record import Record, Renewal, Repeated
from edgecache.observe.tracing import Tracer
from sandbox.outcome import End, Usage


class Recorder:
    """Neither blocks nor raises."""

    def __init__(self, log: AccessLog | None = None, tracer: Tracer | None = None) -> None:
        self.figures = Figures()
        self.log = log
        self.tracer = tracer

    def on_request(self, record: Record) -> None:
        self.figures.count(record)
        if self.log is not None:
            self.log.write(record)
        if self.tracer is not None:
            self.tracer.finished(record)

    def repeated(self, record: Record) -> Repeated:
        count = self.figures.repeated(record)
        heard = count if self.log is None else _Both(count, self.log.repeated(record))
        return heard if self.tracer is None else _Both(heard, _Traced(self.tracer, record))

    def on_renewal(self, site: str, why: Renewal, *, done: bool) -> None:
        self.figures.count_renewal(site, why, done=done)

    def on_usage(self, key: str, end: End, usage: Usage) -> None:
        """One finished call of the generator's version that the monitor knows as `key`."""
        self.figures.count_call(key, end, usage)

    @property
    def log_lines_dropped(self) -> int:
        return self.log.dropped if self.log is not None else 0


class _Both:
    """Counts and logs requests that are alike: what a hit of the fast lane costs here."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Repeated, second: Repeated) -> None:
        self._first, self._second = first, second

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        self._first.on_request(time, request_id, client, duration)
        self._second.on_request(time, request_id, client, duration)


class _Traced:
    """Makes spans of those of them that are drawn."""

    __slots__ = ("_record", "_tracer")

    def __init__(self, tracer: Tracer, record: Record) -> None:
        self._tracer, self._record = tracer, record

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        if self._tracer.chooses_hit(request_id, time):
            own = msgspec.structs.replace(self._record, time=time, request_id=request_id, client=client, duration=duration)
            self._tracer.finished(own)
