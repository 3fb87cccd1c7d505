"""Who hears of every finished request: counts it, and writes it to the access log. The one real `Observer`.

`serve` and the generators' bridge call it, on the event loop.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edgecache.observe.access_log import AccessLog, RepeatedLine
from edgecache.observe.counting import Kind, RepeatedCount
from edgecache.observe.figures import Figures
from edgecache.observe.record import Record, Renewal
from edgecache.observe.tracing import Tracer
from sandbox import End, Usage

_SHARED: Final = 1024
"""Kinds of requests whose reports are remembered."""


class Recorder:
    """Neither blocks nor raises."""

    def __init__(self, log: AccessLog | None = None, tracer: Tracer | None = None) -> None:
        self.figures = Figures()
        self.log = log
        self.tracer = tracer
        self._shared: dict[tuple[Kind, int, RepeatedLine | None], RepeatedReport] = {}

    def on_request(self, record: Record) -> None:
        self.figures.count(record)
        if self.log is not None:
            self.log.write(record)
        if self.tracer is not None:
            self.tracer.finished(record)

    def repeated(self, record: Record) -> RepeatedReport:
        line = None if self.log is None else self.log.repeated(record)
        traced = None if self.tracer is None else _Traced(self.tracer, record)
        return RepeatedReport(self, self.figures.repeated(record), line, traced)

    def shared_report(self, count: RepeatedCount, line: RepeatedLine | None) -> RepeatedReport:
        """The one report for all requests that are counted and logged so."""
        key = (count.kind, count.size, line)
        report = self._shared.get(key)
        if report is None:
            if len(self._shared) >= _SHARED:
                self._shared.clear()
            report = self._shared[key] = RepeatedReport(self, count, line, None)
        return report

    def on_renewal(self, site: str, why: Renewal, *, done: bool) -> None:
        self.figures.count_renewal(site, why, done=done)

    def on_usage(self, key: str, end: End, usage: Usage) -> None:
        """One finished call of the generator's version that the monitor knows as `key`."""
        self.figures.count_call(key, end, usage)

    @property
    def log_lines_dropped(self) -> int:
        return self.log.dropped if self.log is not None else 0


class _Traced:
    """Makes spans of those of the requests that are alike which are drawn."""

    __slots__ = ("_record", "_tracer")

    def __init__(self, tracer: Tracer, record: Record) -> None:
        self._tracer, self._record = tracer, record

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        if self._tracer.chooses_hit(request_id, time):
            own = msgspec.structs.replace(self._record, time=time, request_id=request_id, client=client, duration=duration)
            self._tracer.finished(own)


class RepeatedReport:
    """Counts, logs and traces requests that are alike: what a hit of the fast lane costs here."""

    __slots__ = ("_count", "_line", "_recorder", "_traced")

    def __init__(self, recorder: Recorder, count: RepeatedCount, line: RepeatedLine | None, traced: _Traced | None) -> None:
        self._recorder, self._count, self._line, self._traced = recorder, count, line, traced

    def but_for(self, target: bytes) -> RepeatedReport | None:
        """A report of requests that have other targets as well, to be told at each; `target` is what this one's URI ends in.

        The same object for all that are alike. None: there is none.
        """
        line = None if self._line is None else self._line.but_for(target)
        if self._traced is not None or not self._count.ordinary or (self._line is not None and line is None):
            return None
        return self._recorder.shared_report(self._count, line)

    def hear(self, time: float, request_id: bytes, client: str, duration: float, target: bytes = b"") -> None:
        """One finished request; `target` where this is a report `but_for` it."""
        self._count.add(duration)
        if self._line is not None:
            self._line.write(time, request_id, client, duration, target)
        if self._traced is not None:
            self._traced.on_request(time, request_id.decode(), client, duration)

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        """As `hear`: implements `Repeated`."""
        self.hear(time, request_id.encode(), client, duration)
