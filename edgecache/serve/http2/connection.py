"""One client connection of HTTP/2: frames in, requests to the pipeline, answers out, each stream in a task of its own.

`listener` makes them where TLS has agreed on h2. Fresh stored responses are written as soon as their request is read, without a
task. The h2 library keeps the states of streams and windows; what it may see is judged by `frames` and `floods` before.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
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
from h2.exceptions import H2Error, ProtocolError
from hyperframe.frame import GoAwayFrame

from edgecache.serve.body_pace import BodyPace
from edgecache.serve.client_body import CLIENT_GONE
from edgecache.serve.guard import Violation
from edgecache.serve.http2.fields import FieldReader, Malformed, trailer_fields
from edgecache.serve.http2.floods import FloodGuard
from edgecache.serve.http2.frames import (
    MAX_FRAME_BYTES,
    ConnectionFault,
    FrameCutter,
    Kind,
    request_block,
)
from edgecache.serve.http2.hits import HitWriter
from edgecache.serve.http2.hpack import Fields
from edgecache.serve.http2.states import States
from edgecache.serve.http2.stream import Stream
from edgecache.serve.pipeline import Pipeline

_log: Final = logging.getLogger(__name__)
_UNSENT_BYTES: Final = 256 << 10
"""What may be answered at once before it is given to the transport: a read may bring thousands of requests."""
_HEAD_BYTES: Final = 512
"""What a head counts as."""


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
        self._hits = HitWriter(pipeline, heads, self._states)
        self._unsent: list[bytes] = []
        """Answers that the library knows nothing of; it has said what it had to say before them."""
        self._unsent_bytes = 0
        self._streams: dict[int, Stream] = {}
        self._head_since: float | None = now
        self._idle_since = now
        self._paused = False
        self._turn = asyncio.Lock()
        self._queueing = 0
        self._resumed = asyncio.Event()
        self._closing = False
        self._draining = False
        self._written = 0
        self._last_sent = 0
        self._last_look = now
        self._taking = BodyPace(settings.write_timeout, settings.write_rate)

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._client:
            peer = transport.get_extra_info("peername")
            self._client = peer[0] if isinstance(peer, tuple) else "unix"
        self._members.joined(self, self._transport)
        if self._transport.is_closing():
            return
        self._hits.client = self._client
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._transport = None
        self._resumed.set()
        for stream in list(self._streams.values()):
            stream.abandon()
        self._members.left(self)

    def pause_writing(self) -> None:
        # Heads and acknowledgements are not held back by windows: who does not read them is not listened to.
        self._paused = True
        self._resumed.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._resumed.set()
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
        self.flush()
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
                size = self._hits.past_library(frame.stream_id, block, self._unsent)
                if size is not None:
                    self._wrote(size)
                    continue
            if frame.kind == Kind.GOAWAY:
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
            self._reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            self._count_reset()
            return
        try:
            head = self._heads.read(fields, ended=ended)
        except Malformed as malformed:
            self._malformed(stream_id, malformed)
            return
        except Violation as violation:
            self._start(Stream(self, stream_id, violation, self._settings, ended=ended))
            return
        size = self._hits.at_once(stream_id, head) if ended and self._may_write else None
        if size is None:
            self._start(Stream(self, stream_id, head, self._settings, ended=ended))
        else:
            self._wrote(size)

    def _on_data(self, stream_id: int, data: bytes, size: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.body is None:
            self.consumed(stream_id, size)
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
        try:
            trailer_fields(fields)
        except Malformed as malformed:
            self._malformed(stream_id, malformed)

    def _on_reset(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.abandon()
            self._count_reset()

    def _malformed(self, stream_id: int, malformed: Malformed) -> None:
        """RFC 9113 section 8.1.1."""
        _log.info("stream %d of %s: %s", stream_id, self._client, malformed)
        self._reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)
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
        return not (self._paused or self._queueing or self._draining)

    def _wrote(self, size: int) -> None:
        """An answer with a body of so many bytes is complete."""
        self._floods.sent(size)
        self._idle_since = self._loop.time()
        self._unsent_bytes += size + _HEAD_BYTES
        if self._unsent_bytes > _UNSENT_BYTES:
            # The transport says when it is enough.
            self.flush()

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
                code = ErrorCodes.CANCEL if task.cancelled() else ErrorCodes.INTERNAL_ERROR
                self._reset_stream(stream.stream_id, code)
            elif not stream.peer_ended:
                # RFC 9113 section 8.1: the rest of the request is not wanted.
                self._reset_stream(stream.stream_id, ErrorCodes.NO_ERROR)
        self._idle_since = self._loop.time()
        self.flush()
        self._close_if_done()

    # What streams ask of the connection.

    def send_headers(self, stream_id: int, fields: Fields, *, end: bool) -> None:
        """Raises ConnectionError."""
        self._check_open()
        try:
            self._states.send_headers(stream_id, fields, end_stream=end)
        except H2Error as error:
            raise ConnectionResetError("the stream is closed") from error
        self.flush()

    def window(self, stream_id: int) -> int:
        """How many bytes may be sent on a stream now. Raises ConnectionError."""
        self._check_open()
        try:
            return self._states.local_flow_control_window(stream_id)
        except H2Error as error:
            raise ConnectionResetError("the stream is closed") from error

    async def send_data(self, stream_id: int, data: memoryview, *, end: bool) -> int:
        """Send what one frame may hold, when it is this stream's turn; how much that was. Raises ConnectionError."""
        if not self._paused and not self._queueing:
            return self._send_piece(stream_id, data, end=end)
        self._queueing += 1
        try:
            async with self._turn:
                while self._paused and not self._closing:
                    await self._resumed.wait()
                return self._send_piece(stream_id, data, end=end)
        finally:
            self._queueing -= 1

    def _send_piece(self, stream_id: int, data: memoryview, *, end: bool) -> int:
        size = min(len(data), self.window(stream_id), self._states.max_outbound_frame_size, MAX_FRAME_BYTES)
        if size <= 0 and data:
            return 0
        try:
            self._states.send_data(stream_id, data[:size], end_stream=end and size == len(data))
        except H2Error as error:
            raise ConnectionResetError("the stream is closed") from error
        self._floods.sent(size)
        self.flush()
        return size

    def consumed(self, stream_id: int, size: int) -> None:
        """Body bytes are buffered no longer: the client may send as many more."""
        if size and not self._closing:
            with suppress(H2Error):
                self._states.acknowledge_received_data(size, stream_id)
            self.flush()

    def flush(self) -> None:
        """Give the transport what has been said."""
        data = self._states.data_to_send()
        self._unsent_bytes = 0
        if self._unsent:
            data = b"".join((*self._unsent, data))
            self._unsent.clear()
        if data and self._transport is not None and not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def _reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(H2Error):
            self._states.reset_stream(stream_id, code)

    def _check_open(self) -> None:
        if self._closing or self._transport is None:
            raise ConnectionResetError("the client has gone")

    # The end.

    def _end(self, code: ErrorCodes | None) -> None:
        """Close with GOAWAY; None: it is written already."""
        if self._closing:
            return
        self.flush()
        self._closing = True
        if code is not None:
            self._say_goaway(code)
        self._resumed.set()
        for stream in list(self._streams.values()):
            stream.abandon()
        if self._transport is not None:
            self._transport.close()

    def _say_goaway(self, code: ErrorCodes) -> None:
        """The library would take this for the end of all streams."""
        if self._transport is None or self._transport.is_closing():
            return
        frame = GoAwayFrame(0, last_stream_id=self._states.highest_inbound_stream_id, error_code=code)
        data = frame.serialize()
        self._written += len(data)
        self._transport.write(data)

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
        waiting = transport.get_write_buffer_size()
        gone_out = self._written - waiting
        if waiting == 0:
            self._taking.rest()
        elif self._taking.left:
            self._taking.waited(now - self._last_look, gone_out - self._last_sent)
        else:
            transport.abort()
            return
        self._last_sent, self._last_look = gone_out, now
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
            self._say_goaway(ErrorCodes.NO_ERROR)
        self._draining = True
        self._close_if_done()

    def reset(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
