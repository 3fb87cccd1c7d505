"""The client's byte stream, cut into whole frames before anything reads them (RFC 9113 section 4). Bytes in, values out; no I/O.

`connection` feeds it, has `floods` judge the frames, and hands them on to the h2 library. That buffers a frame before it looks at
its length, and ends a connection at GOAWAY: so lengths are checked here, and GOAWAY is kept from it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from h2.errors import ErrorCodes

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES: Final = 16384
"""SETTINGS_MAX_FRAME_SIZE's least value, and ours."""
HEAD_BYTES: Final = 9
_MAX_CONTINUATIONS: Final = 16


class FrameType(enum.IntEnum):
    """RFC 9113 section 6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PRIORITY: Final = 0x20
PRIORITY_BYTES: Final = 5


class ConnectionFault(Exception):
    """The connection cannot go on (RFC 9113 section 5.4.1)."""

    def __init__(self, code: ErrorCodes, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Frame:
    """The head of one frame."""

    kind: int
    """A FrameType, or the number of an extension."""
    flags: int
    stream_id: int
    length: int


class FrameCutter:
    """Cuts the bytes of one connection. Holds at most one frame that is not whole."""

    def __init__(self, max_block_bytes: int) -> None:
        """`max_block_bytes`: of one field block, as it is encoded."""
        self._max_block = max_block_bytes
        self._held = b""
        self._preface_left = PREFACE
        self._before = b""
        self._settled = False
        self._block_stream = 0
        self._block_bytes = 0
        self._continuations = 0

    @property
    def in_head(self) -> bool:
        """Whether the preface, the first SETTINGS or a field block has begun and is not complete."""
        if not self._settled or self._block_stream:
            return True
        return len(self._held) > 3 and self._held[3] == FrameType.HEADERS

    def cut(self, data: bytes) -> list[tuple[Frame, bytes]]:
        """The whole frames that came, each with all of its bytes; those of the preface stand before the first frame's.

        Raises ConnectionFault.
        """
        before = b""
        if self._preface_left:
            before, data = self._read_preface(data)
        if self._held:
            data, self._held = self._held + data, b""
        frames: list[tuple[Frame, bytes]] = []
        position = 0
        while len(data) - position >= HEAD_BYTES:
            frame = _head(data, position)
            self._check(frame)
            end = position + HEAD_BYTES + frame.length
            if end > len(data):
                break
            self._follow(frame)
            frames.append((frame, data[position:end]))
            position = end
        self._held = data[position:]
        self._before += before
        if frames and self._before:
            frames[0] = (frames[0][0], self._before + frames[0][1])
            self._before = b""
        return frames

    def _read_preface(self, data: bytes) -> tuple[bytes, bytes]:
        part = data[: len(self._preface_left)]
        if not self._preface_left.startswith(part):
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "the connection preface is not HTTP/2's")
        self._preface_left = self._preface_left[len(part) :]
        return part, data[len(part) :]

    def _check(self, frame: Frame) -> None:
        """What can be said of a frame before it is whole."""
        if frame.length > MAX_FRAME_BYTES:
            raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, f"a frame may have {MAX_FRAME_BYTES} bytes")
        if not self._settled and (frame.kind != FrameType.SETTINGS or frame.flags & ACK):
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "the first frame is SETTINGS")
        if self._block_stream and (frame.kind != FrameType.CONTINUATION or frame.stream_id != self._block_stream):
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "a field block is followed by its CONTINUATION")
        if frame.kind == FrameType.GOAWAY and (frame.stream_id or frame.length < 8):
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "GOAWAY is the connection's, and names a stream and a code")
        if frame.kind == FrameType.PUSH_PROMISE:
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "clients do not push")

    def _follow(self, frame: Frame) -> None:
        """Where in a field block the stream stands after a whole frame."""
        self._settled = True
        if frame.kind == FrameType.HEADERS:
            self._block_bytes, self._continuations = frame.length, 0
        elif frame.kind == FrameType.CONTINUATION:
            self._block_bytes += frame.length
            self._continuations += 1
        else:
            return
        self._block_stream = 0 if frame.flags & END_HEADERS else frame.stream_id
        if self._block_bytes > self._max_block or self._continuations > _MAX_CONTINUATIONS:
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, f"a field block may have {self._max_block} bytes")


def request_block(frame: Frame, raw: bytes) -> bytes | None:
    """The field block of a HEADERS frame that is a whole request; None: it is none, or unusual."""
    if frame.kind != FrameType.HEADERS or frame.flags & ~PRIORITY != END_STREAM | END_HEADERS:
        return None
    if not frame.flags & PRIORITY:
        return raw[HEAD_BYTES:]
    # Priorities are deprecated (RFC 9113 section 5.3.2), but a stream may not depend on itself.
    depends_on = int.from_bytes(raw[HEAD_BYTES : HEAD_BYTES + 4], "big") & 0x7FFFFFFF
    return None if frame.length < PRIORITY_BYTES or depends_on == frame.stream_id else raw[HEAD_BYTES + PRIORITY_BYTES :]


def write_frame(kind: FrameType, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame's bytes."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, stream_id.to_bytes(4, "big"), payload)


def _head(data: bytes, at: int) -> Frame:
    return Frame(
        kind=data[at + 3],
        flags=data[at + 4],
        stream_id=int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF,
        length=int.from_bytes(data[at : at + 3], "big"),
    )
