"""The access log: one JSON object a line, encoded on the event loop, written by one thread of its own.

A disk that is slow or full never makes a request wait: lines queue up to a bound, then are dropped and counted. Headers are not
logged at all, so no credential can be. `recorder` writes to it, `edge` opens, reopens (SIGHUP) and closes it.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from edgecache.observe.record import Record
from edgecache.observe.settings import LogSettings

_log = logging.getLogger(__name__)

STANDARD_OUTPUT: Final = Path("-")
_GATHER_SECONDS: Final = 0.02
"""Between two writes, so that many lines share one."""
_BATCH_LINES: Final = 1000
_CLIENTS: Final = 1024
"""Addresses whose quoted form is remembered."""
_WARN_SECONDS: Final = 60.0
_FULL_PIPE_SECONDS: Final = 0.5


class _Line(msgspec.Struct):
    """The keys of a line, in their order: a contract with whoever reads the log."""

    time: str
    id: str
    client: str
    method: str
    uri: str
    protocol: str
    status: int
    bytes: int
    received: int
    duration: float
    cache: str
    reason: str
    site: str
    generator: str | None
    collapsed: bool
    truncated: bool
    cpu_ns: int


class LineEncoder:
    """Records to lines. Whatever a record holds, the result is one line of valid UTF-8 JSON."""

    def __init__(self, settings: LogSettings) -> None:
        self._query, self._limit = settings.query, settings.uri_chars
        self._encoder = msgspec.json.Encoder()
        self._millis, self._stamp = -1, ""

    def encode(self, record: Record) -> bytes:
        line = _Line(
            time=self.stamp(record.time),
            id=record.request_id,
            client=record.client,
            method=record.method,
            uri=self._uri(record.uri),
            protocol=record.protocol,
            status=record.status,
            bytes=record.bytes_sent,
            received=record.bytes_received,
            duration=round(record.duration, 6),
            cache=record.cache,
            reason=record.reason,
            site=record.site,
            generator=record.generator,
            collapsed=record.collapsed,
            truncated=record.truncated,
            cpu_ns=record.cpu_ns,
        )
        try:
            return self._encoder.encode(line) + b"\n"
        except UnicodeEncodeError:
            for name in ("id", "client", "method", "uri", "reason", "site"):
                setattr(line, name, getattr(line, name).encode("utf-8", "backslashreplace").decode())
            return self._encoder.encode(line) + b"\n"

    def around(self, record: Record) -> tuple[str, str]:
        """What stands between client and duration of `record`'s line, and after the duration."""
        line = self.encode(msgspec.structs.replace(record, client="", duration=0.0)).decode()
        between, after = line.split('"duration":0.0,', 1)
        return between.partition('"client":""')[2], f",{after}"

    def quoted(self, text: str) -> str:
        """`text` as a JSON string."""
        try:
            return self._encoder.encode(text).decode()
        except UnicodeEncodeError:
            return self._encoder.encode(text.encode("utf-8", "backslashreplace").decode()).decode()

    def stamp(self, seconds: float) -> str:
        """RFC 3339, UTC, with milliseconds."""
        millis = int(seconds * 1000)
        if millis != self._millis:
            whole, rest = divmod(millis, 1000)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._millis, self._stamp = millis, f"{stamp}.{rest:03d}Z"
        return self._stamp

    def _uri(self, uri: str) -> str:
        if not self._query:
            uri = uri.partition("?")[0]
        return uri if len(uri) <= self._limit else uri[: self._limit] + "…"


class AccessLog:
    """Opens its file at once (raises OSError), and writes until `close`. `write` never blocks and never raises."""

    def __init__(self, settings: LogSettings) -> None:
        if settings.access is None:
            raise ValueError("there is no access log to open")
        self._path = settings.access
        self._encoder = LineEncoder(settings)
        self._limit = settings.queue
        self._quoted = lru_cache(_CLIENTS)(self._encoder.quoted)
        self._lines: deque[bytes] = deque()
        self._wake, self._stop, self._reopen = threading.Event(), threading.Event(), threading.Event()
        self._torn = False
        self._warned = 0.0
        self._refused = self._lost = 0
        self._fd = self._open()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: the queue was full, or writing failed."""
        return self._refused + self._lost

    def write(self, record: Record) -> None:
        """Queue one line; drop and count it when too many wait."""
        if self._takes():
            self._queue(self._encoder.encode(record))

    def repeated(self, record: Record) -> RepeatedLine:
        """Writes the lines of requests that differ from `record` in `Repeated`'s fields only."""
        return RepeatedLine(self, *self._encoder.around(record))

    def write_around(self, between: str, after: str, own: tuple[float, str, str, float]) -> None:
        """As `write`, of a line whose other parts are encoded already. Request IDs are this edge's own: they need no escapes."""
        if self._takes():
            seconds, request_id, client, duration = own
            stamp, address = self._encoder.stamp(seconds), self._quoted(client)
            line = f'{{"time":"{stamp}","id":"{request_id}","client":{address}{between}"duration":{duration:.6f}{after}'
            self._queue(line.encode())

    def reopen(self) -> None:
        """Close the file and open the one that now has its name: for log rotation. Lines written before go to the old one."""
        self._reopen.set()
        self._wake.set()

    def close(self, wait_seconds: float = 5.0) -> bool:
        """Write what waits and stop; blocks up to `wait_seconds`. False: the disk did not take it in time. Idempotent."""
        self._stop.set()
        self._wake.set()
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _takes(self) -> bool:
        if len(self._lines) < self._limit and not self._stop.is_set():
            return True
        self._refused += 1
        return False

    def _queue(self, line: bytes) -> None:
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._switch_file()
            self._flush()
            self._stop.wait(_GATHER_SECONDS)
        self._switch_file()
        self._flush()
        if self._fd > 2:
            os.close(self._fd)

    def _switch_file(self) -> None:
        if not self._reopen.is_set():
            return
        self._reopen.clear()
        self._flush()
        try:
            new = self._open()
        except OSError as error:
            self._warn(error)
            return
        if self._fd > 2:
            os.close(self._fd)
        self._fd, self._torn = new, False

    def _flush(self) -> None:
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(_BATCH_LINES, len(self._lines)))]
            try:
                self._write_all(b"".join(batch))
            except OSError as error:
                self._lost += len(batch)
                self._warn(error)

    def _write_all(self, data: bytes) -> None:
        """Raises OSError; a batch that was written in part is lost as a whole, and the next begins on a line of its own."""
        whole = b"\n" + data if self._torn else data
        rest = memoryview(whole)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError:
            self._torn = self._torn or len(rest) < len(whole)
            raise
        self._torn = False

    def _write_some(self, data: memoryview) -> int:
        """How much was taken; 0 when a pipe that does not block was full for a while. Raises OSError."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            ready = select.select([], [self._fd], [], _FULL_PIPE_SECONDS)[1]
            if not ready and self._stop.is_set():
                raise
            return 0

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return 1
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _warn(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._warned > _WARN_SECONDS or self._warned == 0.0:
            self._warned = now
            _log.warning("the access log %s cannot be written (%s): %d lines lost so far", self._path, error.strerror, self._lost)


class RepeatedLine:
    """The lines of requests of one kind: encoded once but for what each has of its own."""

    __slots__ = ("_after", "_between", "_log")

    def __init__(self, log: AccessLog, between: str, after: str) -> None:
        self._log, self._between, self._after = log, between, after

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        self._log.write_around(self._between, self._after, (time, request_id, client, duration))
