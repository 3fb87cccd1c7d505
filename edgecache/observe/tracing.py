"""Spans of the requests that are traced: what begins and ends when, and what each says. `otlp` sends them; nothing here waits.

Which requests: a draw of the request ID, so a server's span is made of its `Record` once that is complete, with the same IDs that
the spans below it have named as their parent while the request was under way. What is not drawn costs the draw, and nothing else.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from urllib.parse import urlsplit

from edgecache.observe.record import Record
from edgecache.observe.sampling import drawn, failed, threshold
from edgecache.observe.settings import TraceSettings
from edgecache.observe.trace_context import TraceParent

Attribute = str | int | float | bool
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_MAX_TEXT: Final = 2048


class SpanKind(enum.StrEnum):
    """As OpenTelemetry names them."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSpan:
    """A span, complete. Times in nanoseconds since the epoch."""

    name: str
    kind: SpanKind
    trace_id: int
    span_id: int
    parent_id: int | None
    parent_remote: bool = False
    """The parent is the client's span."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Attribute]
    error: str = ""
    """Why it failed, in one word; empty where it did not."""


Sink = Callable[[FinishedSpan], None]
"""Takes spans; neither waits nor raises."""


class Parent:
    """What spans can be begun under: a request that is traced, or another span."""

    __slots__ = ("_clock", "_sink", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int, sink: Sink, clock: Callable[[], int]) -> None:
        self.trace_id, self.span_id = trace_id, span_id
        self._sink, self._clock = sink, clock

    @property
    def traceparent(self) -> str:
        """For whoever is asked on behalf of it."""
        return str(TraceParent(self.trace_id, self.span_id, sampled=True))

    def begin(self, name: str, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """A span under this one, from now on. Whoever begins it calls `end`."""
        return Span(self, name, kind, self._sink, self._clock)


class Span(Parent):
    """One step of a request, under way."""

    __slots__ = ("_ended", "_kind", "_name", "_parent_id", "_start_ns", "attributes")

    def __init__(self, parent: Parent, name: str, kind: SpanKind, sink: Sink, clock: Callable[[], int]) -> None:
        super().__init__(parent.trace_id, _span_id(), sink, clock)
        self._parent_id, self._name, self._kind = parent.span_id, name, kind
        self._start_ns = clock()
        self._ended = False
        self.attributes: dict[str, Attribute] = {}

    def end(self, error: str = "") -> None:
        """It is over; `error` in one word. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._sink(
            FinishedSpan(
                name=self._name,
                kind=self._kind,
                trace_id=self.trace_id,
                span_id=self.span_id,
                parent_id=self._parent_id,
                start_ns=self._start_ns,
                end_ns=max(self._start_ns, self._clock()),
                attributes=self.attributes,
                error=error,
            )
        )


class Tracer:
    """One edge's. On the event loop's thread."""

    def __init__(
        self, settings: TraceSettings, sink: Sink, *, query: bool = True, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """`query`: whether spans may tell the query of a URI."""
        self._below = threshold(settings.sample)
        self._follow = settings.follow_clients
        self._hits_per_second = settings.hits_per_second
        self._second = self._hits = 0
        self._query = query
        self._sink = sink
        self._clock = clock

    def begin(self, request_id: str, parent: TraceParent | None) -> Parent | None:
        """What the steps of this request stand under; None: it is not traced. `parent`: what its client said."""
        if not self.chooses(request_id, parent):
            return None
        trace_id, span_id = _ids(request_id)
        return Parent(trace_id if parent is None else parent.trace_id, span_id, self._sink, self._clock)

    def chooses(self, request_id: str, parent: TraceParent | None = None) -> bool:
        """Whether a request is traced: drawn, or its client says so and clients are followed."""
        return drawn(request_id, self._below) or (self._follow and parent is not None and parent.sampled)

    def chooses_hit(self, request_id: str, now: float) -> bool:
        """As `chooses`, for a hit that has no spans but the server's: at most so many a second. `now` in seconds."""
        if not drawn(request_id, self._below):
            return False
        if int(now) != self._second:
            self._second, self._hits = int(now), 0
        self._hits += 1
        return self._hits <= self._hits_per_second

    def finished(self, record: Record) -> None:
        """The server's span of a request that is over, if it is traced."""
        parent = record.parent
        if not self.chooses(record.request_id, parent):
            return
        trace_id, span_id = _ids(record.request_id)
        start_ns = round(record.time * 1e9)
        self._sink(
            FinishedSpan(
                name=record.method if record.method in _METHODS else "HTTP",
                kind=SpanKind.SERVER,
                trace_id=trace_id if parent is None else parent.trace_id,
                span_id=span_id,
                parent_id=None if parent is None else parent.span_id,
                parent_remote=parent is not None,
                start_ns=start_ns,
                end_ns=start_ns + round(record.duration * 1e9),
                attributes=self._attributes(record),
                error=(record.reason or str(record.status)) if failed(record) else "",
            )
        )

    def _attributes(self, record: Record) -> dict[str, Attribute]:
        """OpenTelemetry's names for HTTP servers, and our own words."""
        try:
            parts = urlsplit(record.uri)
            scheme, authority, path, query = parts.scheme, parts.netloc, parts.path, parts.query
        except ValueError:
            scheme, authority, path, query = "", "", record.uri, ""
        found: dict[str, Attribute] = {
            "http.request.method": _text(record.method),
            "http.response.status_code": record.status,
            "http.response.body.size": record.bytes_sent,
            "url.scheme": scheme,
            "server.address": _text(authority),
            "url.path": _text(path),
            "client.address": _text(record.client),
            "edgecache.request_id": record.request_id,
            "edgecache.site": record.site,
            "edgecache.cache": record.cache,
        }
        optional: dict[str, Attribute] = {
            "url.query": _text(query) if self._query else "",
            "edgecache.reason": record.reason,
            "edgecache.generator": record.generator or "",
            "edgecache.generator.cpu_ns": record.cpu_ns,
            "edgecache.collapsed": record.collapsed,
            "edgecache.truncated": record.truncated,
        }
        return found | {name: value for name, value in optional.items() if value}


def _text(text: str) -> str:
    """What protobuf takes: UTF-8, and not too long."""
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()


def _ids(request_id: str) -> tuple[int, int]:
    """Of the trace, where the client has none, and of the server's span: always the same for one request."""
    digest = blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=24).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:]) or 1


def _span_id() -> int:
    return random.getrandbits(64) or 1
