"""Sends spans to an OpenTelemetry collector, as OTLP over HTTP (protobuf), from a thread of its own. Needs the extra `otel`.

The only module that knows OpenTelemetry's packages, and it loads them when the first exporter is made. `processes.path` makes it,
`tracing` fills it. A collector that is slow or gone costs spans, which are counted, and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from edgecache.observe.settings import TraceSettings
from edgecache.observe.tracing import FinishedSpan, SpanKind

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_log: Final = logging.getLogger(__name__)

ADVICE: Final = "traces need OpenTelemetry's packages, which are not installed: pip install 'edgecache[otel]'"
_NEEDED: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_BATCH: Final = 512
_GATHER_SECONDS: Final = 1.0
_WARN_SECONDS: Final = 60.0


class PackagesMissing(Exception):
    """The extra `otel` is not installed."""

    def __init__(self) -> None:
        super().__init__(ADVICE)


def installed() -> bool:
    """Whether the packages of the extra are there."""
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False


class Exporter:
    """Calling it takes a span, and neither waits nor raises. Sends until `close`."""

    def __init__(self, settings: TraceSettings) -> None:
        """Raises PackagesMissing."""
        if not installed():
            raise PackagesMissing
        self._export, self._abandon = _exporter(settings)
        self._limit = settings.queue
        self._spans: deque[FinishedSpan] = deque()
        self._stop, self._full = threading.Event(), threading.Event()
        self.sent = 0
        self._refused = self._lost = 0
        self._warned: float | None = None
        self._endpoint = settings.endpoint
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that were not sent: too many waited, or the collector did not take them."""
        return self._refused + self._lost

    def __call__(self, span: FinishedSpan) -> None:
        if len(self._spans) >= self._limit or self._stop.is_set():
            self._refused += 1
            return
        self._spans.append(span)
        if len(self._spans) >= _BATCH and not self._full.is_set():
            self._full.set()

    def close(self, wait_seconds: float = 5.0) -> bool:
        """Send what waits and stop; blocks up to `wait_seconds`, then gives up. False: spans were lost so. Idempotent."""
        self._stop.set()
        self._full.set()
        self._thread.join(wait_seconds)
        done = not self._thread.is_alive()
        self._abandon()
        return done

    def _run(self) -> None:
        while not self._stop.is_set():
            self._full.wait(_GATHER_SECONDS)
            self._full.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._spans:
            batch = [self._spans.popleft() for _ in range(min(_BATCH, len(self._spans)))]
            if self._export(batch):
                self.sent += len(batch)
            else:
                self._lost += len(batch)
                self._warn()

    def _warn(self) -> None:
        now = time.monotonic()
        if self._warned is None or now - self._warned > _WARN_SECONDS:
            self._warned = now
            _log.warning("the collector %s does not take traces: %d spans lost so far", self._endpoint, self._lost)


def _exporter(settings: TraceSettings) -> tuple[Callable[[Sequence[FinishedSpan]], bool], Callable[[], None]]:
    """What sends a batch, and what makes that give up. Both may be called from any thread."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 (an optional package)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

    # What it would say of every failed attempt is said here, once in a while.
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
    # Credentials for the collector come from OTEL_EXPORTER_OTLP_HEADERS, as everywhere.
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=settings.timeout_seconds)
    resource = Resource({"service.name": settings.service})

    def export(spans: Sequence[FinishedSpan]) -> bool:
        try:
            return exporter.export([_readable(span, resource) for span in spans]) is SpanExportResult.SUCCESS
        except Exception:
            # Whatever it is, it must not end the thread: the next batch may fare better.
            _log.exception("sending traces failed")
            return False

    return export, exporter.shutdown


def _readable(span: FinishedSpan, resource: object) -> ReadableSpan:
    from opentelemetry import trace  # noqa: PLC0415 (an optional package)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    kinds = {
        SpanKind.SERVER: trace.SpanKind.SERVER,
        SpanKind.CLIENT: trace.SpanKind.CLIENT,
        SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
    }

    def context(span_id: int, *, remote: bool) -> trace.SpanContext:
        return trace.SpanContext(span.trace_id, span_id, is_remote=remote, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))

    status = trace.Status(trace.StatusCode.ERROR, span.error) if span.error else trace.Status()
    return ReadableSpan(
        name=span.name,
        context=context(span.span_id, remote=False),
        parent=None if span.parent_id is None else context(span.parent_id, remote=span.parent_remote),
        resource=resource if isinstance(resource, Resource) else None,
        attributes=span.attributes,
        kind=kinds[span.kind],
        status=status,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("edgecache"),
    )
