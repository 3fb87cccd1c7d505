"""Writes one answer to one connection: framing, back-pressure, and an abort where the body fails. No decisions about content.

`connection` calls it. An answer that cannot be completed is never made to look complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgecache.serve.answer import Answer, HeldBody
from edgecache.serve.file_body import FileBody, FileSpan, verify
from edgecache.serve.wire import encode_fields, head_block
from edgecache.source import Body, SourceError

_PIECE_BYTES = 256 << 10
"""Stored bodies are written in pieces, so that a slow client holds no copy of a large one."""
_SPAN_BYTES = 4 << 20
"""Of a body in a file: verified, then sent."""
_NO_CONTENT = frozenset({204, 304})


class Wire(Protocol):
    """The connection as the writer sees it."""

    def send(self, *parts: bytes | memoryview) -> None:
        """Queue bytes. ConnectionError when the client has gone."""

    async def room(self) -> None:
        """Wait while the client is slow. ConnectionError when it has gone."""

    @property
    def takes_files(self) -> bool:
        """Whether `send_file` may be called."""

    async def send_file(self, file: int, offset: int, count: int) -> None:
        """Send bytes of a file, after all that was queued. ConnectionError when the client has gone or takes nothing."""


@dataclass(slots=True)
class Sent:
    """What became of an answer."""

    body_bytes: int = 0
    received_bytes: int = 0
    """Of a tunnel, from the client."""
    keep_alive: bool = False
    failure: SourceError | None = None
    """The body broke off: the connection must be reset."""


async def write_answer(wire: Wire, answer: Answer, *, method: str, http10: bool, keep_alive: bool) -> Sent:
    """Write all of `answer` and close it. Raises ConnectionError when the client has gone."""
    sent = Sent(keep_alive=keep_alive)
    try:
        if method == "HEAD" or answer.response.status in _NO_CONTENT:
            length = answer.length if method == "HEAD" and answer.response.status not in _NO_CONTENT else None
            wire.send(head_block(answer, length=length, chunked=False, keep_alive=keep_alive, http10=http10))
        elif isinstance(answer.body, bytes):
            await _write_bytes(wire, answer, answer.body, sent, http10=http10)
        elif isinstance(answer.body, FileBody) and wire.takes_files:
            await _write_file(wire, answer, answer.body, sent, http10=http10)
        else:
            await _write_stream(wire, answer, answer.body, sent, http10=http10)
        await wire.room()
    finally:
        await answer.close()
    return sent


async def _write_bytes(wire: Wire, answer: Answer, body: bytes, sent: Sent, *, http10: bool) -> None:
    block = head_block(answer, length=len(body), chunked=False, keep_alive=sent.keep_alive, http10=http10)
    if len(body) <= _PIECE_BYTES:
        wire.send(block, body)
        sent.body_bytes = len(body)
        return
    wire.send(block)
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        piece = view[start : start + _PIECE_BYTES]
        wire.send(piece)
        sent.body_bytes += len(piece)
        await wire.room()


async def _write_file(wire: Wire, answer: Answer, body: FileBody, sent: Sent, *, http10: bool) -> None:
    """Spans go from the file to the socket, each part verified before."""
    wire.send(head_block(answer, length=body.length, chunked=False, keep_alive=sent.keep_alive, http10=http10))
    for piece in body.pieces:
        if isinstance(piece, bytes):
            wire.send(piece)
            sent.body_bytes += len(piece)
            continue
        extent = piece.body.extent
        for first in range(piece.first, piece.first + piece.count, _SPAN_BYTES):
            count = min(_SPAN_BYTES, piece.first + piece.count - first)
            try:
                await verify(FileSpan(piece.body, first, count))
            except SourceError as error:
                sent.failure = error
                return
            await wire.send_file(extent.file.fd, extent.offset + first, count)
            sent.body_bytes += count


async def _write_stream(wire: Wire, answer: Answer, body: Body, sent: Sent, *, http10: bool) -> None:
    length = answer.length
    chunked = length is None and not http10
    if length is None and http10:
        sent.keep_alive = False
    head = head_block(answer, length=length, chunked=chunked, keep_alive=sent.keep_alive, http10=http10)
    # In one piece with the head where it can be: a miss that its origin has answered at once is one packet.
    first = body.at_hand() if isinstance(body, HeldBody) else b""
    wire.send(head, *_framed(first, chunked=chunked))
    sent.body_bytes += len(first)
    try:
        await wire.room()
        async for chunk in body:
            sent.body_bytes += len(chunk)
            if chunk:
                wire.send(*_framed(chunk, chunked=chunked))
            await wire.room()
    except SourceError as error:
        sent.failure = error
        return
    if chunked:
        trailers = encode_fields(answer.trailers()) if answer.trailers is not None else b""
        wire.send(b"0\r\n" + trailers + b"\r\n")


def _framed(chunk: bytes, *, chunked: bool) -> tuple[bytes, ...]:
    """`chunk` as it is sent; nothing in the place of an empty one, which would end a chunked body."""
    if not chunk:
        return ()
    return (b"%x\r\n" % len(chunk), chunk, b"\r\n") if chunked else (chunk,)
