"""One client connection of HTTP/1.1: guarded bytes in, answers out, in order (`turns`). aiohttp's RequestHandler brings the
body's flow control and the keep-alive timer. What aiohttp's parser sees are heads that `guard` has approved.

`listener` makes them; what its requests share with those of other protocols is `exchange`'s. Hits and plain misses need no turn:
the `turnstile` answers them, those of remembered heads before they come here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, RequestPayloadError

from edgecache.observe.record import HTTP_1
from edgecache.policy.message import Response
from edgecache.serve.answer import Answer, Opened
from edgecache.serve.body_pace import BodyPace
from edgecache.serve.client_body import ClientBody
from edgecache.serve.exchange import Exchange
from edgecache.serve.guard import BodyFraming, Head, HeadReader, RequestFault, Violation, find_head
from edgecache.serve.http1.sending import Sending
from edgecache.serve.http1.turns import Turns
from edgecache.serve.http1.turnstile import Turnstile
from edgecache.serve.interim import InterimWriter
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.wire import encode_fields, encode_head
from edgecache.serve.writer import Sent, write_answer

_log = logging.getLogger(__name__)
_CHUNKED = b"POST / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n"
_HELD_LIMIT_BYTES = 64 << 10
"""Pipelined bytes kept while a request is being answered; above that the socket is not read."""


class Connection(Sending, Turns):
    """See the module."""

    __slots__ = (
        "_accepted",
        "_client",
        "_client_settings",
        "_done_reading",
        "_draining",
        "_followed",
        "_framing",
        "_gone",
        "_head_since",
        "_heads",
        "_held",
        "_looked",
        "_noted",
        "_payload",
        "_pipeline",
        "_tunnel",
        "_turn_due",
        "_turnstile",
        "data_received",
        "violation",
    )  # fmt: skip

    def __init__(
        self, server: web.Server, pipeline: Pipeline, heads: HeadReader, *, loop: asyncio.AbstractEventLoop, client: str = ""
    ) -> None:
        """`client`: its address, where that is not the peer's."""
        settings = pipeline.settings
        super().__init__(
            server,
            write_timeout=settings.write_timeout,
            write_rate=settings.write_rate,
            loop=loop,
            keepalive_timeout=settings.keepalive_timeout,
            access_log=None,
            lingering_time=settings.linger_timeout,
            read_bufsize=settings.read_buffer_bytes,
            auto_decompress=False,
        )
        self._pipeline = pipeline
        self._heads = heads
        self._client_settings = settings
        self._client = client
        self._accepted: deque[Head | Violation] = deque()
        self._framing: BodyFraming | None = None
        self._followed: BodyFraming | None = None
        """The framing of the latest body, which knows its trailers once the body is over."""
        self._payload: StreamReader = EMPTY_PAYLOAD
        self._held = b""
        self._looked = 0
        """How much of `_held` has been searched for the end of a head."""
        self._turn_due = False
        """A request has come whose turn, in the connection's own task, has not begun."""
        self._done_reading = False
        self._draining = False
        self._head_since: float | None = None
        self._tunnel: Opened | None = None
        self._gone: asyncio.Future[None] | None = None
        self.violation: Violation | None = None
        lane = pipeline.secure_lane if heads.scheme == "https" else pipeline.fast_lane
        self._turnstile = Turnstile(pipeline, lane, heads, read=self._receive, in_turn=self._accept, done=self._errand_done)
        self._noted = 0
        """The turnstile's `written`, when it was last looked at."""
        self.data_received = self._turnstile.data_received  # type: ignore[method-assign] # transports look it up once

    # What arrives.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._client:
            peer = transport.get_extra_info("peername")
            self._client = peer[0] if isinstance(peer, tuple) else "unix"
        # uvloop's transports are no subclasses of asyncio's.
        self._turnstile.open(cast(asyncio.Transport, transport).write, self._client)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._turnstile.close()
        super().connection_lost(exc)

    def waits(self) -> None:
        """Let the turnstile answer, if what comes next begins a head."""
        held = self._held or self._framing is not None or self._done_reading or self._force_close
        self._turnstile.waiter = self._waiter if self._idle and not held else None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._turnstile.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.waits()

    def _receive(self, data: bytes) -> None:
        """What the turnstile has not answered."""
        if not data:
            super().data_received(data)
            return
        if self._done_reading or self._force_close:
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._read(data)
        self.waits()

    def _read(self, data: bytes) -> None:
        try:
            self._advance(data)
        except Violation as violation:
            self._refuse(violation)

    def _advance(self, data: bytes) -> None:
        """Pass on what the guard approves of `data`; keep what is not yet a whole head, or whose turn has not come."""
        position, looked, self._looked = 0, self._looked, 0
        while position < len(data):
            framing = self._framing
            if framing is not None:
                end = framing.advance(data, position)
                if approved := framing.approved(data, position, end):
                    super().data_received(approved)
                position = end
                if framing.complete:
                    self._framing = None
                continue
            found = None if self._busy else find_head(data, position, self._client_settings, looked)
            if found is None:
                self._hold(data[position:])
                return
            looked = 0
            start, position = found
            raw = data[start:position]
            self._head_since = None
            if self._idle and self._turnstile.answer_known(raw):
                continue
            head = self._turnstile.read_head(raw)
            if head.has_body or not self._take_at_once(head, raw):
                self._accept(head)

    def _hold(self, rest: bytes) -> None:
        self._held = rest
        if self._busy:
            if len(rest) > _HELD_LIMIT_BYTES and not self._buffer_paused:
                self._pause_reading_for_buffer()
            return
        self._looked = len(rest)
        if self._head_since is None:
            self._head_since = self._loop.time()

    def _resume_reading_if_drained(self) -> None:
        if len(self._held) <= _HELD_LIMIT_BYTES:
            self._resume_reading_for_buffer()

    def _accept(self, head: Head) -> None:
        """Queue the request, and let aiohttp's parser frame its body where it has one."""
        self._turn_due = True
        self._accepted.append(head)
        if not head.has_body:
            self._payload = EMPTY_PAYLOAD
            self._enqueue()
            return
        self._framing = self._followed = BodyFraming(head, self._client_settings.max_body_bytes)
        if head.chunked:
            plain = _CHUNKED
        else:
            plain = b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n" % (head.content_length or 0)
        super().data_received(plain)
        self._payload = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD

    def _refuse(self, violation: Violation) -> None:
        """Nothing more is read. A request under way learns it from its body; otherwise an error answer is queued."""
        self._done_reading = True
        self.violation = violation
        self._held = b""
        if self._framing is not None:
            self._framing = None
            self._payload.set_exception(RequestPayloadError(str(violation)))
            return
        self._accepted.append(violation)
        self._enqueue()

    def _enqueue(self) -> None:
        """Have aiohttp handle what was accepted, without a body. Of its message nothing is looked at."""
        self._messages.append((ERROR, EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Answering.

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self._turn_due or self._turnstile.errand is not None

    @property
    def _idle(self) -> bool:
        """Whether the next head can be answered without a task."""
        waiter = self._waiter
        return waiter is not None and not (waiter.done() or self._busy or self._paused or self._draining)

    def _take_at_once(self, head: Head, raw: bytes) -> bool:
        """A request that needs no turn. False: it takes the usual way."""
        return self._idle and self._turnstile.take(head, raw)

    def _errand_done(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            try:
                self._read(held)
            except Exception:
                # Whoever calls is at the end of another connection, an origin's.
                _log.exception("a pipelined request has failed")
                self.force_close()
                return
            if self._buffer_paused:
                self._resume_reading_if_drained()
        self.waits()

    async def take_turn(self, payload: StreamReader) -> bool:
        item = self._accepted.popleft() if self._accepted else Violation(RequestFault.FIELD, "unreadable request")
        if isinstance(item, Violation):
            await self._answer_violation(item)
            return False
        return await self._exchange(item, payload)

    async def _exchange(self, head: Head, payload: StreamReader) -> bool:
        body = self._body_of(head, payload) if head.has_body else None

        def write(answer: Answer) -> Awaitable[Sent]:
            if answer.tunnel is not None:
                return self._switch(answer, answer.tunnel)
            keep_alive = self._may_live_on(head, body)
            return write_answer(self, answer, method=head.method, http10=head.http10, keep_alive=keep_alive)

        errand, self._turnstile.errand = self._turnstile.errand, None
        exchange = Exchange(self._pipeline, head.request, self._client, HTTP_1, errand)
        sent = await exchange.run(body, InterimWriter(self._hint, self._client_settings.edge_id, http10=head.http10), write)
        if sent is None:
            return False
        if sent.failure is not None:
            self.reset()
            return False
        if not sent.keep_alive:
            if self._framing is not None or self._held or self._done_reading:
                await self._linger()
            return False
        self._turn_due = False
        if self._held:
            held, self._held = self._held, b""
            self._read(held)
        return True

    def _body_of(self, head: Head, payload: StreamReader) -> ClientBody:
        settings, framing = self._client_settings, self._followed
        return ClientBody(
            self,
            payload,
            BodyPace(settings.body_timeout, settings.body_rate),
            expects_continue=head.expect_continue,
            trailers=framing.trailers if framing is not None and head.chunked else None,
        )

    async def _switch(self, answer: Answer, tunnel: Opened) -> Sent:
        """Tell the client of its tunnel, and be nothing but one of its ends."""
        transport = self.transport
        self._tunnel = tunnel
        try:
            if transport is None or self._draining or self._done_reading:
                raise ConnectionResetError("the client has gone, or is about to be sent away")
            head = encode_head(answer.response) + encode_fields((*tunnel.fields, *answer.extra))
            self.send(head + b"\r\n")
            held, self._held = self._held, b""
            sent, received = await tunnel.join(transport, self, held, self._client_settings.tunnel_idle_timeout)
        finally:
            await answer.close()
        return Sent(body_bytes=sent, received_bytes=received)

    def _may_live_on(self, head: Head, body: ClientBody | None) -> bool:
        if not head.keep_alive or self._draining or self._done_reading:
            return False
        # An answer that overtakes its request's body: whether and when the rest comes is the client's affair.
        return body is None or self._framing is None

    async def _answer_violation(self, violation: Violation) -> None:
        def write(answer: Answer) -> Awaitable[Sent]:
            return write_answer(self, answer, method="GET", http10=False, keep_alive=False)

        with suppress(ConnectionError):
            await Exchange(self._pipeline, None, self._client, HTTP_1).refuse(violation, write)
            await self._linger()

    async def _linger(self) -> None:
        """Close our half and read on for a while: unread bytes would reset the answer away (RFC 9112 section 9.6)."""
        self._done_reading = True
        self._framing = None
        if not self._payload.is_eof():
            self._payload.feed_eof()
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            # A client that has reset the connection is not connected, which is no ConnectionError.
            with suppress(OSError):
                transport.write_eof()
        self._gone = self._loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._client_settings.linger_timeout):
                await self._gone

    def _hint(self, response: Response) -> None:
        self.send(encode_head(response) + b"\r\n")

    def _process_keepalive(self) -> None:
        now = self._loop.time()
        self._note_hits(now)
        if self._turnstile.errand is not None:
            self._next_keepalive_close_time = now + self._keepalive_timeout
        super()._process_keepalive()

    def _note_hits(self, now: float) -> None:
        """What the turnstile has written keeps the connection alive."""
        written = self._turnstile.written
        if written != self._noted:
            self._written += written - self._noted
            self._noted = written
            self._next_keepalive_close_time = now + self._keepalive_timeout

    def watch(self, now: float) -> None:
        """Called every second or so with the loop's time: end what takes too long."""
        self._note_hits(now)
        if self._head_since is not None and now - self._head_since > self._client_settings.head_timeout:
            self._head_since = None
            self._refuse(Violation(RequestFault.HEAD_TIMEOUT, "the request head did not arrive in time"))
        self.check_progress(now)

    def fade(self) -> None:
        """Answer what is asked next, then close."""
        self._draining = True
        self._turnstile.pause()
        errand = self._turnstile.errand
        if errand is not None:
            errand.in_turn = True

    def drain(self) -> None:
        """Finish what is being answered, then close; close at once where nothing is."""
        self.fade()
        if self._tunnel is not None:
            self._tunnel.close()
        if not self._busy and not self._accepted:
            self.force_close()
