"""What leaves one client's connection of HTTP/2: what the library has said and what went past it, in order; windows, turns,
back-pressure, and whether the client takes it. A `stream.Peer`. `connection` makes it; what is sent is the streams' matter.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from hyperframe.frame import GoAwayFrame

from edgecache.serve.body_pace import BodyPace
from edgecache.serve.http2.floods import FloodGuard
from edgecache.serve.http2.frames import MAX_FRAME_BYTES
from edgecache.serve.http2.hpack import Fields
from edgecache.serve.http2.states import States

_UNSENT_BYTES: Final = 256 << 10
"""What may be answered at once before it is given to the transport: a read may bring thousands of requests."""
_HEAD_BYTES: Final = 512
"""What a head counts as."""


class Outgoing:
    """Until `begin` nothing leaves, after `end` nobody can send."""

    def __init__(self, states: States, floods: FloodGuard, taking: BodyPace, now: float) -> None:
        """`taking`: how long the client may take nothing, or too little, of what waits. `now`: the loop's time."""
        self._states = states
        self._floods = floods
        self._transport: asyncio.Transport | None = None
        self.unsent: list[bytes] = []
        """Answers that the library knows nothing of; it has said what it had to say before them."""
        self._unsent_bytes = 0
        self._paused = False
        self._turn = asyncio.Lock()
        self._queueing = 0
        self._resumed = asyncio.Event()
        self._ended = False
        self._written = 0
        self._last_sent = 0
        self._last_look = now
        self._taking = taking

    def begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def end(self) -> None:
        """Nothing more is sent by streams. Idempotent."""
        self._ended = True
        self._resumed.set()

    def lost(self) -> None:
        """There is no connection any more."""
        self._transport = None
        self.end()

    def pause(self) -> None:
        """The transport holds enough."""
        self._paused = True
        self._resumed.clear()

    def resume(self) -> None:
        self._paused = False
        self._resumed.set()

    @property
    def ready(self) -> bool:
        """Whether an answer may be written at once: nobody waits for room."""
        return not (self._paused or self._queueing)

    # A `stream.Peer`.

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
                while self._paused and not self._ended:
                    await self._resumed.wait()
                return self._send_piece(stream_id, data, end=end)
        finally:
            self._queueing -= 1

    def consumed(self, stream_id: int, size: int) -> None:
        """Body bytes are buffered no longer: the client may send as many more."""
        if size and not self._ended:
            with suppress(H2Error):
                self._states.acknowledge_received_data(size, stream_id)
            self.flush()

    # For `connection`.

    def answered(self, size: int) -> None:
        """What `unsent` was given is an answer with a body of so many bytes."""
        self._floods.sent(size)
        self._unsent_bytes += size + _HEAD_BYTES
        if self._unsent_bytes > _UNSENT_BYTES:
            # The transport says when it is enough.
            self.flush()

    def flush(self) -> None:
        """Give the transport what has been said."""
        data = self._states.data_to_send()
        self._unsent_bytes = 0
        if self.unsent:
            data = b"".join((*self.unsent, data))
            self.unsent.clear()
        if data:
            self._write(data)

    def reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(H2Error):
            self._states.reset_stream(stream_id, code)

    def say_goaway(self, code: ErrorCodes) -> None:
        """The library would take this for the end of all streams."""
        self._write(GoAwayFrame(0, last_stream_id=self._states.highest_inbound_stream_id, error_code=code).serialize())

    def stalled(self, now: float) -> bool:
        """Whether the client takes too little of what waits; asked every second or so, with the loop's time."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        gone_out = self._written - waiting
        late = False
        if waiting == 0:
            self._taking.rest()
        elif self._taking.left:
            self._taking.waited(now - self._last_look, gone_out - self._last_sent)
        else:
            late = True
        self._last_sent, self._last_look = gone_out, now
        return late

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

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def _check_open(self) -> None:
        if self._ended or self._transport is None:
            raise ConnectionResetError("the client has gone")
