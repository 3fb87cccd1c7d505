"""The access log: one JSON object a line, encoded on the event loop, written by a thread (`log_writer`).

A disk that is slow or full never makes a request wait: lines queue up to a bound, then are dropped and counted. Headers are not
logged at all, so no credential can be. `recorder` writes to it, `processes.path` opens, reopens (SIGHUP) and closes it.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from edgecache.observe.log_line import LineEncoder
from edgecache.observe.log_writer import LogWriter
from edgecache.observe.record import Record
from edgecache.observe.sampling import ALL, Sampler, drawn, drawn_bytes, threshold
from edgecache.observe.settings import LogSettings

_CLIENTS: Final = 1024
"""Addresses whose quoted form is remembered."""
_SHARED: Final = 1024
"""Kinds of lines that are remembered."""
_PAST_URI: Final = b'","protocol":"'
_TABLED: Final = 1000
_MICROS: Final = [b"0.%06d" % micros for micros in range(_TABLED)]
"""Durations of up to a millisecond, as they stand in lines."""


class AccessLog:
    """Opens its file at once (raises OSError), and writes until `close`. `write` never blocks and never raises."""

    def __init__(self, settings: LogSettings, *, shared: bool = False) -> None:
        """`shared`: other processes write to the same file. What a pipe takes whole is then all that is written at once."""
        if settings.access is None:
            raise ValueError("there is no access log to open")
        self._encoder = LineEncoder(settings)
        self._addresses: dict[str, bytes] = {}
        self._lines: dict[tuple[bytes, bytes, bytes], RepeatedLine] = {}
        self._alike: dict[tuple[str, str, int, str, str, str, str | None, bool, bool], tuple[bytes, bytes, bytes]] = {}
        self._millis, self._opening = -1, b""
        """What a line begins with, up to its request ID, in this millisecond."""
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
                self._writer.put(self._line(record))
            return
        chance = self._sampler.chance(record)
        if drawn(record.request_id, threshold(chance)) and self._writer.takes():
            told = UNSET if self._sampler.rate(record.site) >= 1 else chance
            self._writer.put(self._encoder.encode(record, told))

    def _line(self, record: Record) -> bytes:
        """As the encoder's, from parts of lines before that were like it."""
        request_id = record.request_id
        if record.cpu_ns or record.bytes_received or not (request_id.isascii() and request_id.replace("-", "").isalnum()):
            return self._encoder.encode(record)
        key = (
            record.method,
            record.protocol,
            record.status,
            record.cache,
            record.reason,
            record.site,
            record.generator,
            record.collapsed,
            record.truncated,
        )
        parts = self._alike.get(key)
        if parts is None:
            if len(self._alike) >= _SHARED:
                self._alike.clear()
            parts = self._alike[key] = self._encoder.likeness(record)
        before, between, after = parts
        return b"%b%b%b%b%b%b%d%b%b%b" % (
            self.opening(record.time),
            request_id.encode(),
            self.address(record.client),
            before,
            self._encoder.target(record.uri),
            between,
            record.bytes_sent,
            b',"received":0,"duration":',
            _took(record.duration),
            after,
        )

    def repeated(self, record: Record) -> RepeatedLine:
        """Writes the lines of requests that differ from `record` in `Repeated`'s fields only."""
        rate = self._sampler.rate(record.site) if self._sampled else 1.0
        if rate >= 1:
            between, after = self._encoder.around(record)
            return RepeatedLine(self, between, after)
        chance = self._sampler.chance(record)
        between, after = self._encoder.around(record, chance)
        _, after_slow = self._encoder.around(record, 1.0)
        return RepeatedLine(
            self,
            between,
            after,
            after_slow=after_slow,
            below=threshold(chance),
            slow_seconds=self._sampler.slow_seconds,
        )

    def opening(self, seconds: float) -> bytes:
        """A line's beginning, up to its request ID; `seconds`: when its request began."""
        millis = int(seconds * 1000)
        if millis != self._millis:
            self._millis, self._opening = millis, f'{{"time":"{self._encoder.stamp(seconds)}","id":"'.encode()
        return self._opening

    def address(self, client: str) -> bytes:
        """What follows the request ID, up to the end of the client's address."""
        quoted = self._addresses.get(client)
        if quoted is None:
            if len(self._addresses) >= _CLIENTS:
                self._addresses.clear()
            quoted = self._addresses[client] = b'","client":%b' % self._encoder.quoted(client).encode()
        return quoted

    def put(self, parts: list[bytes]) -> None:
        """As `write`, of a line that is encoded already."""
        if self._writer.takes():
            self._writer.put(b"".join(parts))

    def shared_line(self, before: bytes, past: bytes, after: bytes) -> RepeatedLine:
        """The line with these parts before and past the target: one for all targets, for the processor's cache to keep."""
        key = (before, past, after)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= _SHARED:
                self._lines.clear()
            line = self._lines[key] = RepeatedLine(self, before, after, past_target=past)
        return line

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


def _took(duration: float) -> bytes:
    """Seconds, as they stand in lines."""
    micros = int(duration * 1e6 + 0.5)
    return _MICROS[micros] if 0 <= micros < _TABLED else b"%.6f" % duration


class RepeatedLine:
    """The lines of requests that are alike: encoded once but for what each has of its own."""

    __slots__ = ("_after", "_after_slow", "_below", "_between", "_log", "_past_target", "_slow_seconds")

    def __init__(
        self,
        log: AccessLog,
        between: bytes,
        after: bytes,
        *,
        past_target: bytes = b"",
        after_slow: bytes = b"",
        below: int = ALL,
        slow_seconds: float = 0.0,
    ) -> None:
        """`past_target`: what stands between a target, to be told of each, and the duration.

        Where `below` is not all, those are logged that are drawn, and those of `slow_seconds`, whose lines end in `after_slow`.
        """
        self._log, self._between, self._after, self._after_slow = log, between, after, after_slow
        self._below, self._slow_seconds = below, slow_seconds
        self._past_target = past_target

    def but_for(self, target: bytes) -> RepeatedLine | None:
        """The lines of requests that have other targets as well, to be told at each; `target` is what this one's URI ends in.

        The same object for all that are alike. None: the line does not have its target as it was sent, or is not for all.
        """
        start, found, end = self._between.partition(_PAST_URI)
        if self._below < ALL or not start.endswith(target):
            return None
        return self._log.shared_line(start[: -len(target)], found + end, self._after)

    def write(self, seconds: float, request_id: bytes, client: str, duration: float, target: bytes = b"") -> None:
        """One finished request, if the sample has it. Request IDs are this edge's own: they need no escapes."""
        after = self._after
        if self._below < ALL:
            if duration >= self._slow_seconds:
                after = self._after_slow
            elif not drawn_bytes(request_id, self._below):
                return
        took = _took(duration)
        log = self._log
        log.put([log.opening(seconds), request_id, log.address(client), self._between, target, self._past_target, took, after])

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        """As `write`: implements `Repeated`."""
        self.write(time, request_id.encode(), client, duration)
