"""Fresh stored responses, written while their request's frame is being read: without a task, and where the fields were seen
before, without the h2 library. `connection` asks when it may write at all.
"""

from __future__ import annotations

from typing import Final

from edgecache.observe.record import HTTP_2
from edgecache.serve.exchange import report_hit
from edgecache.serve.fast_lane import MAX_BODY_BYTES
from edgecache.serve.guard import Head, Violation
from edgecache.serve.http2.fields import FieldReader, Malformed, stored_fields
from edgecache.serve.http2.frames import END_HEADERS, END_STREAM, FrameType, write_frame
from edgecache.serve.http2.hpack import Fields, plain
from edgecache.serve.http2.states import States
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.request_id import next_request_id
from edgecache.serve.shape import is_plain

_MAX_HEAD_BYTES: Final = 8 << 10
"""Of a stored response that is written so: its fields fit into one frame, whatever they are encoded to."""


class HitWriter:
    """Answers hits of one connection."""

    def __init__(self, pipeline: Pipeline, heads: FieldReader, states: States) -> None:
        self._pipeline = pipeline
        self._heads = heads
        self._states = states
        self.client = ""
        """The client's address."""

    def past_library(self, stream_id: int, block: bytes, unsent: list[bytes]) -> int | None:
        """Append the answer to a request of these fields, which changed nothing when they were read before; the body's size.

        The library takes the stream for one that is closed, and its bytes for sent. None: it is to read the request.
        """
        states = self._states
        fields = states.fields.known(block)
        if fields is None or stream_id <= states.highest_inbound_stream_id or not stream_id & 1:
            return None
        try:
            head = self._heads.read(fields, ended=True)
        except (Malformed, Violation):
            return None
        found = self._find(head, min(states.outbound_flow_control_window, states.remote_settings.initial_window_size))
        if found is None:
            return None
        answer, body = found
        said = states.data_to_send()
        if said:
            unsent.append(said)
        states.highest_inbound_stream_id = stream_id
        states.outbound_flow_control_window -= len(body)
        unsent.append(
            write_frame(FrameType.HEADERS, END_HEADERS | (0 if body else END_STREAM), stream_id, states.encoder.encode(answer))
        )
        step = states.max_outbound_frame_size
        for start in range(0, len(body), step):
            flags = END_STREAM if start + step >= len(body) else 0
            unsent.append(write_frame(FrameType.DATA, flags, stream_id, body[start : start + step]))
        return len(body)

    def at_once(self, stream_id: int, head: Head) -> int | None:
        """Have the library write the answer; the body's size. None: the request takes the usual way."""
        states = self._states
        found = self._find(head, states.local_flow_control_window(stream_id))
        if found is None:
            return None
        fields, body = found
        states.send_headers(stream_id, fields, end_stream=not body)
        step = states.max_outbound_frame_size
        for start in range(0, len(body), step):
            states.send_data(stream_id, body[start : start + step], end_stream=start + step >= len(body))
        return len(body)

    def _find(self, head: Head, window: int) -> tuple[Fields, bytes] | None:
        """The answer that the store has and the window lets pass, already reported."""
        request = head.request
        hit = self._pipeline.hit(request) if is_plain(request) else None
        if hit is None or not isinstance(hit.entry.body, bytes):
            return None
        entry = hit.entry
        body = hit.entry.body if request.method == "GET" else b""
        if len(body) > min(MAX_BODY_BYTES, window) or len(entry.head) > _MAX_HEAD_BYTES:
            return None
        request_id = next_request_id()
        extra = b"%b%b%b" % (
            plain(b"age", b"%d" % hit.age),
            plain(b"cache-status", b"%b; ttl=%d" % (self._pipeline.respond.hit_member, hit.lifetime_left)),
            plain(b"x-request-id", request_id.encode()),
        )
        report_hit(self._pipeline, hit, request, request_id=request_id, client=self.client, protocol=HTTP_2)
        return stored_fields(entry.timed.response.status, entry.head, extra), body
