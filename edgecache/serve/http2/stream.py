"""One stream of a client's connection: a request, the task that answers it, and what that may send (RFC 9113 section 5).

`connection` makes it, tells it of windows and resets, and has the transport. No frame is read or written here.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from edgecache.observe.record import HTTP_2
from edgecache.policy.fields import freeze, without
from edgecache.policy.message import Response
from edgecache.policy.upgrading import by_extended_connect
from edgecache.serve.answer import Answer, Opened
from edgecache.serve.body_pace import BodyPace
from edgecache.serve.exchange import Exchange
from edgecache.serve.guard import Head, Violation
from edgecache.serve.http2.body import StreamBody
from edgecache.serve.http2.fields import response_fields
from edgecache.serve.http2.hpack import Fields
from edgecache.serve.http2.writer import write_answer
from edgecache.serve.interim import InterimWriter
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.settings import ServeSettings
from edgecache.serve.writer import Sent

_NOT_OVER_HTTP_2: Final = frozenset({"sec-websocket-accept"})
_IN_A_ROW_BYTES: Final = 64 << 10
"""What a stream may send before others have a turn, however fast the client reads."""


class Peer(Protocol):
    """The connection, as its streams see it. Sending raises ConnectionError when the client or the stream has gone."""

    def send_headers(self, stream_id: int, fields: Fields, *, end: bool) -> None: ...

    def window(self, stream_id: int) -> int:
        """How many bytes may be sent now."""

    async def send_data(self, stream_id: int, data: memoryview, *, end: bool) -> int:
        """Send what one frame may hold, when it is this stream's turn; how much that was: 0 where the window has shut."""

    def consumed(self, stream_id: int, size: int) -> None:
        """Body bytes are buffered no longer."""


class Stream:
    """From its request's head until both sides have ended it, or one has reset it. A `writer.StreamWire`."""

    def __init__(self, peer: Peer, stream_id: int, said: Head | Violation, settings: ServeSettings, *, ended: bool) -> None:
        """`ended`: the request has no body."""
        self._peer = peer
        self._said = said
        self._edge_id = settings.edge_id
        self.stream_id = stream_id
        self.peer_ended = ended
        self.ended = False
        """The answer is complete."""
        self.gone = False
        """The stream has been reset, or its connection lost."""
        self.begun = False
        """Whoever begins an exchange reports it."""
        self.blocked: asyncio.Future[None] | None = None
        self.blocked_since: float | None = None
        """On the loop's clock: since when the client gives no window."""
        self.taking = BodyPace(settings.write_timeout, settings.write_rate)
        """How long a shut window is waited for."""
        self._unblocked_bytes = 0
        self._in_a_row = 0
        self.task: asyncio.Task[None] | None = None
        self.body: StreamBody | None = None
        self.tunnel: Opened | None = None
        """What the stream is an end of."""
        self._asks_for_tunnel = isinstance(said, Head) and by_extended_connect(said.request)
        self._tunnel_idle_seconds = settings.tunnel_idle_timeout
        if isinstance(said, Head) and not ended:
            self.body = StreamBody(
                said,
                hint=self.hint,
                consumed=partial(peer.consumed, stream_id),
                # What comes through a tunnel has no end; that nothing moves is noticed by whoever joins its sides.
                pace=None if self._asks_for_tunnel else BodyPace(settings.body_timeout, settings.body_rate),
                max_bytes=sys.maxsize if self._asks_for_tunnel else settings.max_body_bytes,
            )

    def exchange(self, pipeline: Pipeline, client: str) -> Exchange:
        """The request, about to be answered or given up."""
        self.begun = True
        return Exchange(pipeline, self._said.request if isinstance(self._said, Head) else None, client, HTTP_2)

    async def serve(self, pipeline: Pipeline, client: str) -> None:
        """Answer the request."""
        exchange = self.exchange(pipeline, client)
        if isinstance(self._said, Violation):
            with suppress(ConnectionError):
                await exchange.refuse(self._said, partial(write_answer, self, method="GET"))
            return
        interim = InterimWriter(self.hint, self._edge_id)
        if self._asks_for_tunnel:
            await exchange.run(None, interim, self._write_or_switch)
            return
        await exchange.run(self.body, interim, partial(write_answer, self, method=self._said.method))

    async def _write_or_switch(self, answer: Answer) -> Sent:
        """RFC 8441 section 5: a tunnel is told by 200, and its key stays with whoever made it."""
        tunnel, body = answer.tunnel, self.body
        if tunnel is None or body is None:
            return await write_answer(self, answer, method="GET")
        self.tunnel = tunnel
        try:
            headers = freeze(without(answer.response.headers, _NOT_OVER_HTTP_2))
            self.send_head(response_fields(Response(200, "", headers), length=None, extra=answer.extra), end=False)
            send = partial(self.send_body, end=False)
            sent, received, failure = await tunnel.join_stream(body, send, self._tunnel_idle_seconds)
            if failure is None:
                await self.send_body(b"", end=True)
        finally:
            await answer.close()
        return Sent(body_bytes=sent, received_bytes=received, failure=failure)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.gone = True
        self.cancel()

    def cancel(self) -> None:
        """Stop answering."""
        if self.task is not None:
            self.task.cancel()

    def on_window(self) -> None:
        """The client's window, for this stream or for all, may have grown."""
        if self.blocked is not None and not self.blocked.done():
            self.blocked.set_result(None)

    # A `writer.StreamWire`.

    def hint(self, response: Response) -> None:
        """Send an interim response."""
        self._check()
        self._peer.send_headers(self.stream_id, response_fields(response, length=None), end=False)

    def send_head(self, fields: Fields, *, end: bool) -> None:
        self._check()
        self._peer.send_headers(self.stream_id, fields, end=end)
        self.ended = end

    async def send_body(self, data: bytes | memoryview, *, end: bool) -> None:
        rest = memoryview(data)
        while rest or end:
            self._check()
            if rest and self._peer.window(self.stream_id) <= 0:
                await self._wait_for_window()
                continue
            size = await self._peer.send_data(self.stream_id, rest, end=end)
            rest = rest[size:]
            self._unblocked_bytes += size
            self._in_a_row += size
            if self._in_a_row >= _IN_A_ROW_BYTES:
                self._in_a_row = 0
                await asyncio.sleep(0)
            if end and not rest:
                self.ended = True
                return

    def _check(self) -> None:
        if self.gone:
            raise ConnectionResetError("the client has reset the stream")

    async def _wait_for_window(self) -> None:
        loop = asyncio.get_running_loop()
        self.blocked, self.blocked_since = loop.create_future(), loop.time()
        try:
            await self.blocked
            # What the windows before have let pass counts now.
            self.taking.waited(loop.time() - self.blocked_since, self._unblocked_bytes)
            self._unblocked_bytes = 0
        finally:
            self.blocked = self.blocked_since = None
