"""Writes one answer to one stream: HEADERS, DATA within the windows, the end. No decisions about content; `stream` calls it."""

from __future__ import annotations

from typing import Protocol

from edgecache.serve.answer import Answer
from edgecache.serve.http2.fields import encoded, response_fields, stored_fields
from edgecache.serve.http2.hpack import Fields, encode
from edgecache.serve.writer import Sent
from edgecache.source import SourceError

_NO_CONTENT = frozenset({204, 304})


class StreamWire(Protocol):
    """The stream as the writer sees it. All raise ConnectionError when the client has gone or has reset it."""

    def send_head(self, fields: Fields, *, end: bool) -> None: ...

    async def send_body(self, data: bytes | memoryview, *, end: bool) -> None:
        """Returns when all of it is on its way: waits for window and for room."""


async def write_answer(wire: StreamWire, answer: Answer, *, method: str) -> Sent:
    """Write all of `answer` and close it. An answer that breaks off is left unfinished, its failure in what is returned."""
    sent = Sent()
    status, body = answer.response.status, answer.body
    try:
        if method == "HEAD" or status in _NO_CONTENT:
            wire.send_head(_fields(answer, answer.length if status not in _NO_CONTENT else None), end=True)
        elif isinstance(body, bytes):
            wire.send_head(_fields(answer, len(body)), end=not body)
            if body:
                await wire.send_body(body, end=True)
            sent.body_bytes = len(body)
        else:
            wire.send_head(_fields(answer, answer.length), end=False)
            try:
                async for chunk in body:
                    sent.body_bytes += len(chunk)
                    await wire.send_body(chunk, end=False)
            except SourceError as error:
                sent.failure = error
            else:
                trailers = encoded(answer.trailers()) if answer.trailers is not None else []
                if trailers:
                    wire.send_head(trailers, end=True)
                else:
                    await wire.send_body(b"", end=True)
    finally:
        await answer.close()
    return sent


def _fields(answer: Answer, length: int | None) -> Fields:
    if answer.head:
        return stored_fields(answer.response.status, answer.head, encode(encoded(answer.extra)))
    return response_fields(answer.response, length=length, extra=answer.extra)
