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
        self._millis, self._stamp = -1, ""

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
            for name in ("id", "client", "method", "uri", "reason", "site"):
                setattr(line, name, getattr(line, name).encode("utf-8", "backslashreplace").decode())
            return self._encoder.encode(line) + b"\n"

    def around(self, record: Record, sample: float | msgspec.UnsetType = msgspec.UNSET) -> tuple[str, str]:
        """What stands between client and duration of `record`'s line, and after the duration."""
        line = self.encode(msgspec.structs.replace(record, client="", duration=0.0), sample).decode()
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
