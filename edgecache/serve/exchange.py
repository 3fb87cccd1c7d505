"""One request and its answer, whatever protocol carries them: the pipeline is asked, the answer written, the outcome reported.

Framing, time limits and flow control are the connection's. `connection` and `http2` make one for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgecache.observe.record import Record
from edgecache.policy.message import Request
from edgecache.serve.answer import Answer
from edgecache.serve.client_body import CLIENT_GONE
from edgecache.serve.guard import Violation
from edgecache.serve.interim import InterimWriter
from edgecache.serve.looking import Hit
from edgecache.serve.misses.errand import Errand
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.request_id import next_request_id
from edgecache.serve.respond import CacheOutcome
from edgecache.serve.writer import Sent
from edgecache.source import Body, SourceError

Write = Callable[[Answer], Awaitable[Sent]]
"""Writes all of an answer and closes it. Raises ConnectionError when the client has gone."""


class Exchange:
    """One request and its answer. Made when the request's head has arrived."""

    __slots__ = ("_begun", "_client", "_pipeline", "_protocol", "_request", "_started", "request_id")

    def __init__(
        self, pipeline: Pipeline, request: Request | None, client: str, protocol: str, begun: Errand | None = None
    ) -> None:
        """`request`: None where what arrived is no request; `protocol`: as in `observe.record`; `begun`: the errand that has
        asked for it already."""
        self._pipeline = pipeline
        self._request = request
        self._client = client
        self._protocol = protocol
        self._begun = begun
        self._started = pipeline.clock() if begun is None else begun.asked
        self.request_id = next_request_id() if begun is None else begun.call.request_id

    async def run(self, body: Body | None, interim: InterimWriter, write: Write) -> Sent | None:
        """Have the request answered, and report it. None: the client has gone."""
        request = self._request
        if request is None:
            raise TypeError("there is no request to be answered")
        answer: Answer | None = None
        try:
            if self._begun is None:
                answer = await self._pipeline.handle(request, body, self._client, self.request_id, interim)
            else:
                answer = await self._pipeline.go_on(self._begun, interim)
            interim.close()
            sent = await write(answer)
        except ConnectionError:
            self.report(answer, status=CLIENT_GONE, size=0)
            return None
        except asyncio.CancelledError:
            self.report(answer, status=CLIENT_GONE, size=0)
            raise
        finally:
            interim.close()
        received, failure = sent.received_bytes, sent.failure
        self.report(answer, status=answer.response.status, size=sent.body_bytes, received=received, failure=failure)
        return sent

    async def refuse(self, violation: Violation, write: Write) -> None:
        """Answer what is no acceptable request, and report it. Raises ConnectionError."""
        answer = self._pipeline.respond.problem(
            violation.status, f"{violation.detail}.", self.request_id, outcome=CacheOutcome("none", violation.fault)
        )
        await write(answer)
        self.report(answer, status=violation.status, size=answer.length or 0)

    def report(
        self, answer: Answer | None, *, status: int, size: int, received: int = 0, failure: SourceError | None = None
    ) -> None:
        """Tell the observer what became of the request; `size` in bytes of body, `received` of a tunnel, from the client."""
        request = self._request
        self._pipeline.observer.on_request(
            Record(
                time=self._started,
                request_id=self.request_id,
                client=self._client,
                method=request.method if request else "",
                uri=request.uri if request else "",
                protocol=self._protocol,
                status=status,
                bytes_sent=size,
                bytes_received=received,
                duration=max(0.0, self._pipeline.clock() - self._started),
                cache=answer.cache if answer else "none",
                site=answer.site if answer else "",
                generator=answer.generator if answer else None,
                reason=failure.reason if failure else (answer.reason if answer else ""),
                collapsed=answer.collapsed if answer else False,
                cpu_ns=answer.meter.cpu_ns if answer else 0,
                parent=self._pipeline.parent_of(request) if request else None,
                truncated=failure is not None or status == CLIENT_GONE,
            )
        )


def report_hit(pipeline: Pipeline, hit: Hit, request: Request, *, request_id: str, client: str, protocol: str) -> None:
    """Tell the observer of a stored response that was written whole, without an exchange."""
    entry, generator = hit.entry, hit.route.generator
    pipeline.observer.on_request(
        Record(
            time=hit.now,
            request_id=request_id,
            client=client,
            method=request.method,
            uri=entry.uri,
            protocol=protocol,
            status=entry.timed.response.status,
            bytes_sent=len(entry.body) if request.method == "GET" else 0,
            duration=max(0.0, pipeline.clock() - hit.now),
            cache="hit",
            site=entry.site,
            generator=generator.name if generator else None,
            parent=pipeline.parent_of(request),
        )
    )
