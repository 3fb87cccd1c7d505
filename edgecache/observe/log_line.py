"""Records to lines of the access log: one JSON object each. No I/O; `access_log` writes them."""

from __future__ import annotations

import time

import msgspec

from edgecache.observe.record import Record
from edgecache.observe.settings import LogSettings


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
    sample: float | msgspec.UnsetType = msgspec.UNSET
    """Only where not all requests of the site are logged: how likely one like this is."""


class LineEncoder:
    """Records to lines. Whatever a record holds, the result is one line of valid UTF-8 JSON."""

    def __init__(self, settings: LogSettings) -> None:
        self._query, self._limit = settings.query, settings.uri_chars
        self._encoder = msgspec.json.Encoder()
        self._second, self._day_and_time = -1, ""

    def encode(self, record: Record, sample: float | msgspec.UnsetType = msgspec.UNSET) -> bytes:
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
            sample=sample,
        )
        try:
            return self._encoder.encode(line) + b"\n"
        except UnicodeEncodeError:
            for name in ("id", "client", "method", "uri", "reason", "site", "generator"):
                if (text := getattr(line, name)) is not None:
                    setattr(line, name, text.encode("utf-8", "backslashreplace").decode())
            return self._encoder.encode(line) + b"\n"

    def around(self, record: Record, sample: float | msgspec.UnsetType = msgspec.UNSET) -> tuple[bytes, bytes]:
        """What stands between the values of client and duration in `record`'s line, and what stands after the duration."""
        line = self.encode(msgspec.structs.replace(record, client="", duration=0.0), sample)
        between, after = line.split(b'"duration":0.0,', 1)
        return between.partition(b'"client":""')[2] + b'"duration":', b"," + after

    def quoted(self, text: str) -> str:
        """`text` as a JSON string."""
        try:
            return self._encoder.encode(text).decode()
        except UnicodeEncodeError:
            return self._encoder.encode(text.encode("utf-8", "backslashreplace").decode()).decode()

    def target(self, uri: str) -> bytes:
        """A record's URI as it stands in its line."""
        try:
            return self._encoder.encode(self._uri(uri))
        except UnicodeEncodeError:
            return self.quoted(self._uri(uri)).encode()

    def likeness(self, record: Record) -> tuple[bytes, bytes, bytes]:
        """What stands in `record`'s line between client and URI, between URI and bytes, and after the duration, where nothing was
        received and no CPU time used."""
        plain = msgspec.structs.replace(record, client="", uri="", bytes_sent=0, bytes_received=0, duration=0.0, cpu_ns=0)
        # A quotation mark within a value is escaped: these are the keys.
        before, _, rest = self.encode(plain).partition(b'"uri":""')
        between, _, after = rest.partition(b'"bytes":0,"received":0,"duration":0.0,')
        return before.partition(b'"client":""')[2] + b'"uri":', between + b'"bytes":', b"," + after

    def stamp(self, seconds: float) -> str:
        """RFC 3339, UTC, with milliseconds."""
        second, millis = divmod(int(seconds * 1000), 1000)
        if second != self._second:
            self._second, self._day_and_time = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._day_and_time}.{millis:03d}Z"

    def _uri(self, uri: str) -> str:
        if not self._query:
            uri = uri.partition("?")[0]
        return uri if len(uri) <= self._limit else uri[: self._limit] + "…"
