"""A source's answer as a span of the request's trace: from asking to the body's end, with what it has cost. No decisions.

`asking` asks sources through this; where the request is not traced, it is the source alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecache.observe.trace_context import FIELD, STATE_FIELD, parse
from edgecache.observe.tracing import Span, SpanKind
from edgecache.policy.fields import freeze, without
from edgecache.policy.message import Request
from edgecache.serve.answer import Meter
from edgecache.source import Body, Interim, Reply, Source, SourceError

if TYPE_CHECKING:
    from edgecache.serve.call import Call

_CONTEXT = frozenset({FIELD.lower()})
_WHOLE_CONTEXT = frozenset({FIELD.lower(), STATE_FIELD.lower()})


async def fetch_from_origin(source: Source, call: Call, sent: Request, body: Body | None, on_interim: Interim | None) -> Reply:
    """`source.fetch`; the origin is told the span that asks it. Raises SourceError."""
    if call.trace is None:
        return await source.fetch(sent, body, call.request_id, on_interim)
    span = call.trace.begin("origin", SpanKind.CLIENT)
    span.attributes["http.request.method"] = sent.method
    return await _fetched(source, call, told(sent, span), body, span, on_interim=on_interim)


async def fetch_from_generator(source: Source, call: Call, sent: Request, body: Body | None) -> Reply:
    """`source.fetch`; the span ends with the CPU time of the generator's VM. Raises SourceError."""
    if call.trace is None:
        return await source.fetch(sent, body, call.request_id)
    span = call.trace.begin("generator")
    span.attributes["edgecache.generator"] = call.route.generator.name if call.route.generator else ""
    return await _fetched(source, call, sent, body, span, on_interim=None)


def told(sent: Request, span: Span) -> Request:
    """With `span` as the parent of whatever is done for it. What came of a trace that is not continued is left out."""
    continued = parse(sent.headers.getall(FIELD, ())) is not None
    fields = without(sent.headers, _CONTEXT if continued else _WHOLE_CONTEXT)
    return Request(sent.method, sent.scheme, sent.authority, sent.target, freeze([*fields, ("traceparent", span.traceparent)]))


async def _fetched(
    source: Source, call: Call, sent: Request, body: Body | None, span: Span, *, on_interim: Interim | None
) -> Reply:
    try:
        reply = await source.fetch(sent, body, call.request_id, on_interim)
    except SourceError as error:
        _spent(span, call.meter)
        span.end(error.reason)
        raise
    except BaseException:
        span.end("cancelled")
        raise
    span.attributes["http.response.status_code"] = reply.response.status
    if reply.detail:
        span.attributes["edgecache.detail"] = reply.detail
    return replace(reply, body=_TracedBody(reply.body, span, call.meter))


class _TracedBody:
    """A body whose end ends a span."""

    def __init__(self, body: Body, span: Span, meter: Meter) -> None:
        self._body, self._span, self._meter = body, span, meter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in self._body:
                size += len(chunk)
                yield chunk
        except SourceError as error:
            self._end(error.reason)
            raise
        finally:
            self._span.attributes["http.response.body.size"] = size
        self._end()

    async def close(self) -> None:
        await self._body.close()
        self._end()

    def _end(self, error: str = "") -> None:
        _spent(self._span, self._meter)
        self._span.end(error)


def _spent(span: Span, meter: Meter) -> None:
    if meter.cpu_ns:
        span.attributes["edgecache.generator.cpu_ns"] = meter.cpu_ns
