"""The access log: one JSON object a line, encoded on the event loop, written by a thread (`log_writer`).

A disk that is slow or full never makes a request wait: lines queue up to a bound, then are dropped and counted. Headers are not
logged at all, so no credential can be. `recorder` writes to it, `processes.path` opens, reopens (SIGHUP) and closes it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import UNSET

from edgecache.observe.log_line import LineEncoder
from edgecache.observe.log_writer import LogWriter
from edgecache.observe.record import Record, Repeated
from edgecache.observe.sampling import Sampler, drawn, threshold
from edgecache.observe.settings import LogSettings

_CLIENTS: Final = 1024
"""Addresses whose quoted form is remembered."""


class AccessLog:
    """Opens its file at once (raises OSError), and writes until `close`. `write` never blocks and never raises."""

    def __init__(self, settings: LogSettings, *, shared: bool = False) -> None:
        """`shared`: other processes write to the same file. What a pipe takes whole is then all that is written at once."""
        if settings.access is None:
            raise ValueError("there is no access log to open")
        self._encoder = LineEncoder(settings)
        self._quoted = lru_cache(_CLIENTS)(self._encoder.quoted)
        self._writer = LogWriter(settings.access, settings.queue, shared=shared)
        self._sample(settings)

    @property
    def dropped(self) -> int:
        """Lines that were not written: the queue was full, or writing failed."""
        return self._writer.dropped

    def write(self, record: Record) -> None:
        """Queue one line, if the sample has it; drop and count it when too many wait."""
        if not self._sampled:
            if self._writer.takes():
                self._writer.put(self._encoder.encode(record))
            return
        chance = self._sampler.chance(record)
        if drawn(record.request_id, threshold(chance)) and self._writer.takes():
            told = UNSET if self._sampler.rate(record.site) >= 1 else chance
            self._writer.put(self._encoder.encode(record, told))

    def repeated(self, record: Record) -> Repeated:
        """Writes the lines of requests that differ from `record` in `Repeated`'s fields only."""
        rate = self._sampler.rate(record.site) if self._sampled else 1.0
        if rate >= 1:
            return RepeatedLine(self, *self._encoder.around(record))
        chance = self._sampler.chance(record)
        line = RepeatedLine(self, *self._encoder.around(record, chance))
        if chance >= 1:
            return line
        slow = RepeatedLine(self, *self._encoder.around(record, 1.0))
        return SampledLine(line, slow, threshold(chance), self._sampler.slow_seconds)

    def write_around(self, between: str, after: str, own: tuple[float, str, str, float]) -> None:
        """As `write`, of a line whose other parts are encoded already. Request IDs are this edge's own: they need no escapes."""
        if self._writer.takes():
            seconds, request_id, client, duration = own
            stamp, address = self._encoder.stamp(seconds), self._quoted(client)
            line = f'{{"time":"{stamp}","id":"{request_id}","client":{address}{between}"duration":{duration:.6f}{after}'
            self._writer.put(line.encode())

    def reopen(self) -> None:
        """Close the file and open the one that now has its name: for log rotation. Lines written before go to the old one."""
        self._writer.reopen()

    def change(self, settings: LogSettings) -> None:
        """Go on with these, in the file that they name. Raises OSError, and nothing is changed; ValueError without a file."""
        if settings.access is None:
            raise ValueError("there is no access log to open")
        self._writer.change(settings.access, settings.queue)
        self._encoder = LineEncoder(settings)
        self._sample(settings)

    def _sample(self, settings: LogSettings) -> None:
        self._sampler = Sampler(settings.sample, settings.sample_sites, settings.slow_seconds)
        self._sampled = settings.sample < 1 or any(rate < 1 for rate in settings.sample_sites.values())

    def close(self, wait_seconds: float = 5.0) -> bool:
        """Write what waits and stop; blocks up to `wait_seconds`. False: the disk did not take it in time. Idempotent."""
        return self._writer.close(wait_seconds)


class RepeatedLine:
    """The lines of requests of one kind: encoded once but for what each has of its own."""

    __slots__ = ("_after", "_between", "_log")

    def __init__(self, log: AccessLog, between: str, after: str) -> None:
        self._log, self._between, self._after = log, between, after

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        self._log.write_around(self._between, self._after, (time, request_id, client, duration))


class SampledLine:
    """As `RepeatedLine`, for the requests that the sample has, and for the slow ones."""

    __slots__ = ("_below", "_line", "_slow", "_slow_seconds")

    def __init__(self, line: RepeatedLine, slow: RepeatedLine, below: int, slow_seconds: float) -> None:
        self._line, self._slow, self._below, self._slow_seconds = line, slow, below, slow_seconds

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        if duration >= self._slow_seconds:
            self._slow.on_request(time, request_id, client, duration)
        elif drawn(request_id, self._below):
            self._line.on_request(time, request_id, client, duration)
