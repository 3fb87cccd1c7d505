"""One client connection of HTTP/2: frames in, requests to the pipeline, answers out, each stream in a task of its own.

`listener` makes them where TLS has agreed on h2. Fresh stored responses are written as soon as their request is read, without a
task. The h2 library keeps the states of streams and windows; what it may see is judged by `frames` and `floods` before. What
leaves goes through `outgoing`.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final, Protocol, cast

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from edgecache.serve.body_pace import BodyPace
from edgecache.serve.client_body import CLIENT_GONE
from edgecache.serve.guard import Violation
from edgecache.serve.http2.fields import FieldReader, Malformed, trailer_fields
from edgecache.serve.http2.floods import FloodGuard
from edgecache.serve.http2.frames import (
    ConnectionFault,
    FrameCutter,
    FrameType,
    request_block,
)
from edgecache.serve.http2.hits import HitWriter
from edgecache.serve.http2.hpack import Fields
from edgecache.serve.http2.outgoing import Outgoing
from edgecache.serve.http2.states import States
from edgecache.serve.http2.stream import Stream
from edgecache.serve.pipeline import Pipeline

_log: Final = logging.getLogger(__name__)


class Members(Protocol):
    """The listener, as its connections see it."""

    def joined(self, connection: Http2Connection, transport: asyncio.Transport) -> None: ...

    def left(self, connection: Http2Connection) -> None: ...


class Http2Connection(asyncio.Protocol):
    """See the module."""

    def __init__(
        self, members: Members, pipeline: Pipeline, heads: FieldReader, loop: asyncio.AbstractEventLoop, client: str = ""
    ) -> None:
        """`client`: its address, where that is not the peer's."""
        self._members = members
        self._pipeline = pipeline
        self._settings = settings = pipeline.settings
        self._heads = heads
        self._loop = loop
        self._client = client
        self._transport: asyncio.Transport | None = None
        now = loop.time()
        self._cutter = FrameCutter(2 * settings.max_head_bytes)
        self._floods = FloodGuard(now)
        self._states = States(settings)
        self._out = Outgoing(self._states, self._floods, BodyPace(settings.write_timeout, settings.write_rate), now)
        self._hits = HitWriter(pipeline, heads, self._states)
        self._streams: dict[int, Stream] = {}
        self._head_since: float | None = now
        self._idle_since = now
        self._closing = False
        self._draining = False

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._out.begin(self._transport)
        if not self._client:
            peer = transport.get_extra_info("peername")
            self._client = peer[0] if isinstance(peer, tuple) else "unix"
        self._members.joined(self, self._transport)
        if self._transport.is_closing():
            return
        self._hits.client = self._client
        self._out.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._transport = None
        self._out.lost()
        for stream in list(self._streams.values()):
            stream.abandon()
        self._members.left(self)

    def pause_writing(self) -> None:
        # Heads and acknowledgements are not held back by windows: who does not read them is not listened to.
        self._out.pause()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._out.resume()
        if self._transport is not None:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        now = self._loop.time()
        try:
            self._read(data, now)
        except ConnectionFault as fault:
            self._end(fault.code)
            return
        except ProtocolError:
            # The library has written its GOAWAY.
            self._end(None)
            return
        if not self._cutter.in_head:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = now
        self._out.flush()
        self._close_if_done()

    # What the client says.

    def _read(self, data: bytes, now: float) -> None:
        """Raises ConnectionFault, ProtocolError."""
        frames = self._cutter.cut(data)
        if not self._floods.frames([frame for frame, _ in frames], now):
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
        passed: list[bytes] = []
        for frame, raw in frames:
            block = request_block(frame, raw) if self._may_write else None
            if block is not None and self._states.fields.known(block) is not None:
                # What came before may be about windows.
                self._pass(passed)
                size = self._hits.past_library(frame.stream_id, block, self._out.unsent)
                if size is not None:
                    self._wrote(size)
                    continue
            if frame.kind == FrameType.GOAWAY:
                self._pass(passed)
                # RFC 9113 section 6.8: what the client has begun, it still wants.
                self._draining = True
            else:
                passed.append(raw)
        self._pass(passed)

    def _pass(self, frames: list[bytes]) -> None:
        """Let the library read whole frames, and act on what they mean. Raises ConnectionFault, ProtocolError."""
        if frames:
            data = b"".join(frames)
            frames.clear()
            for event in self._states.receive_data(data):
                self._on_event(event)

    def _on_event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._on_request(event.stream_id, event.headers, ended=event.stream_ended is not None)
            case DataReceived():
                self._on_data(event.stream_id, event.data, event.flow_controlled_length)
            case StreamEnded():
                self._on_end(event.stream_id)
            case TrailersReceived():
                self._on_trailers(event.stream_id, event.headers)
            case StreamReset():
                self._on_reset(event.stream_id)
            case WindowUpdated():
                self._open_window(event.stream_id or 0)
            case RemoteSettingsChanged():
                self._open_window(0)
            case _:
                pass

    def _on_request(self, stream_id: int, fields: Fields, *, ended: bool) -> None:
        if self._draining or len(self._streams) >= self._settings.http2_streams:
            self._out.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            self._count_reset()
            return
        try:
            head = self._heads.read(fields, ended=ended)
        except Malformed as malformed:
            self._malformed(stream_id, malformed)
            return
        except Violation as violation:
            self._start(Stream(self._out, stream_id, violation, self._settings, ended=ended))
            return
        size = self._hits.at_once(stream_id, head) if ended and self._may_write else None
        if size is None:
            self._start(Stream(self._out, stream_id, head, self._settings, ended=ended))
        else:
            self._wrote(size)

    def _on_data(self, stream_id: int, data: bytes, size: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.body is None:
            self._out.consumed(stream_id, size)
        elif not stream.body.feed(data, size):
            self._malformed(stream_id, Malformed("the body is longer than Content-Length"))

    def _on_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.peer_ended = True
        if stream.body is not None and not stream.body.end():
            self._malformed(stream_id, Malformed("the body is shorter than Content-Length"))

    def _on_trailers(self, stream_id: int, fields: Fields) -> None:
        stream = self._streams.get(stream_id)
        try:
            found = trailer_fields(fields)
        except Malformed as malformed:
            self._malformed(stream_id, malformed)
        else:
            if stream is not None and stream.body is not None:
                stream.body.trail(found)

    def _on_reset(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.abandon()
            self._count_reset()

    def _malformed(self, stream_id: int, malformed: Malformed) -> None:
        """RFC 9113 section 8.1.1."""
        _log.info("stream %d of %s: %s", stream_id, self._client, malformed)
        self._out.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.abandon()
        self._count_reset()

    def _count_reset(self) -> None:
        if not self._floods.reset(self._loop.time()):
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _open_window(self, stream_id: int) -> None:
        streams = self._streams.values() if stream_id == 0 else filter(None, [self._streams.get(stream_id)])
        for stream in streams:
            stream.on_window()

    # Answering.

    def _start(self, stream: Stream) -> None:
        self._streams[stream.stream_id] = stream
        stream.task = self._loop.create_task(stream.serve(self._pipeline, self._client))
        stream.task.add_done_callback(partial(self._finished, stream))

    @property
    def _may_write(self) -> bool:
        return self._out.ready and not self._draining

    def _wrote(self, size: int) -> None:
        """An answer with a body of so many bytes is complete."""
        self._idle_since = self._loop.time()
        self._out.answered(size)

    def _finished(self, stream: Stream, task: asyncio.Task[None]) -> None:
        self._streams.pop(stream.stream_id, None)
        if not stream.begun:
            stream.exchange(self._pipeline, self._client).report(None, status=CLIENT_GONE, size=0)
        if stream.body is not None:
            stream.body.discard()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("stream %d of %s failed", stream.stream_id, self._client, exc_info=error)
        if not stream.gone:
            if not stream.ended:
                # RFC 8441 section 5: so is told that a tunnel's other end was reset.
                broken = task.cancelled() or stream.tunnel is not None
                code = ErrorCodes.CANCEL if broken else ErrorCodes.INTERNAL_ERROR
                self._out.reset_stream(stream.stream_id, code)
            elif not stream.peer_ended:
                # RFC 9113 section 8.1: the rest of the request is not wanted.
                self._out.reset_stream(stream.stream_id, ErrorCodes.NO_ERROR)
        self._idle_since = self._loop.time()
        self._out.flush()
        self._close_if_done()

    # The end.

    def _end(self, code: ErrorCodes | None) -> None:
        """Close with GOAWAY; None: it is written already."""
        if self._closing:
            return
        self._out.flush()
        self._closing = True
        if code is not None:
            self._out.say_goaway(code)
        self._out.end()
        for stream in list(self._streams.values()):
            stream.abandon()
        if self._transport is not None:
            self._transport.close()

    def _close_if_done(self) -> None:
        if self._draining and not self._streams:
            self._end(ErrorCodes.NO_ERROR)

    def watch(self, now: float) -> None:
        """Called every second or so with the loop's time: end what takes too long."""
        transport, settings = self._transport, self._settings
        if transport is None:
            return
        head_late = self._head_since is not None and now - self._head_since > settings.head_timeout
        if head_late or (not self._streams and now - self._idle_since > settings.keepalive_timeout):
            self._end(ErrorCodes.NO_ERROR)
        if self._out.stalled(now):
            transport.abort()
            return
        for stream in list(self._streams.values()):
            if stream.blocked_since is not None and now - stream.blocked_since > stream.taking.left:
                stream.cancel()

    def fade(self) -> None:
        """As `drain`: what the client asks later than that, it asks anew elsewhere (RFC 9113 section 6.8)."""
        self.drain()

    def drain(self) -> None:
        """Take no more requests; close when those under way are answered."""
        if self._closing:
            return
        if self._streams:
            self._out.say_goaway(ErrorCodes.NO_ERROR)
        self._draining = True
        for stream in list(self._streams.values()):
            if stream.tunnel is not None:
                stream.tunnel.close()
        self._close_if_done()

    def reset(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
