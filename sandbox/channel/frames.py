"""Length-prefixed frames over Unix streams: messages in and out of bytes, and the descriptors that come with them.

What is said is `wire.py`'s. What a worker sends is hostile: sizes are bounded before anything is kept, descriptors are refused.
Called by both ends: `dispatch/handle.py`, `dispatch/spawner.py`, `worker.py`, `zygote.py`, and the edge's own processes.
"""

from __future__ import annotations

import array
import resource
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from sandbox.channel.polling import Polling
from sandbox.channel.wire import ENCODER, WireError
from sandbox.limits import KIB

_READ_BYTES = 64 * KIB
_HEAD = struct.Struct("<I")
_HEAD_BYTES = 4
_MAX_FDS = 4
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_FDS * 4)
_AT_ONCE = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT

T = TypeVar("T")


def frame(message: msgspec.Struct) -> bytes:
    """The bytes on the wire: 32-bit little-endian length, then MessagePack."""
    payload = ENCODER.encode(message)
    return _HEAD.pack(len(payload)) + payload


class Frames(Generic[T]):
    """Bytes in, messages out. Holds at most one unfinished frame, of at most `limit_bytes`."""

    def __init__(self, messages: msgspec.msgpack.Decoder[T], limit_bytes: int) -> None:
        self._messages = messages
        self._limit = limit_bytes
        self._held = bytearray()

    def whole(self, data: memoryview, size: int) -> T | None:
        """The message, where the first `size` bytes are one frame and nothing is held; else None, and they are to be fed.

        Raises as `feed`.
        """
        payload = size - _HEAD_BYTES
        if self._held or payload < 0 or _HEAD.unpack_from(data)[0] != payload or payload > self._limit:
            return None
        return self._decode(data[_HEAD_BYTES:size])

    def feed(self, data: bytes | memoryview) -> Iterator[T]:
        """The messages that are complete now. Raises WireError on a frame that is too long or not a message."""
        held = self._held
        held += data
        offset = 0
        try:
            while len(held) - offset >= _HEAD_BYTES:
                length: int = _HEAD.unpack_from(held, offset)[0]
                if length > self._limit:
                    raise WireError(f"a frame of {length} bytes; at most {self._limit} are allowed")
                end = offset + _HEAD_BYTES + length
                if len(held) < end:
                    break
                with memoryview(held) as view, view[offset + _HEAD_BYTES : end] as payload:
                    message = self._decode(payload)
                offset = end
                yield message
        finally:
            del held[:offset]

    def _decode(self, payload: memoryview) -> T:
        try:
            return self._messages.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise WireError(f"not a message: {error}") from error


class Fds:
    """Descriptors that came with frames and wait to be claimed; at most a few."""

    def __init__(self) -> None:
        self._fds: deque[int] = deque()

    def add(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        """Raises WireError, with all closed, when there are too many."""
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC or len(self._fds) > _MAX_FDS:
            self.close()
            raise WireError("more descriptors than the protocol knows")

    def claim(self, count: int) -> list[int]:
        """Raises WireError when fewer came."""
        if len(self._fds) < count:
            raise WireError("descriptors missing")
        return [self._fds.popleft() for _ in range(count)]

    def close(self) -> None:
        while self._fds:
            socket.close(self._fds.popleft())


def send_frame(sock: socket.socket, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
    """Send all of it on a blocking socket. Raises OSError."""
    data = frame(message)
    if not fds:
        sock.sendall(data)
        return
    sent = socket.send_fds(sock, [data], list(fds))
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


class BlockingChannel(Generic[T]):
    """The side that has nothing else to do: a worker's and the zygote's. Owns the socket."""

    def __init__(self, sock: socket.socket, messages: msgspec.msgpack.Decoder[T], limit_bytes: int, *, poll_ns: int = 0) -> None:
        """`poll_ns`: for how long a wait may keep the CPU where `polling` finds that it pays."""
        self._sock = sock
        self._frames: Frames[T] = Frames(messages, limit_bytes)
        self._ready: deque[T] = deque()
        self._buffer = bytearray(_READ_BYTES)
        self._buffers = [self._buffer]
        self._view = memoryview(self._buffer)
        self._polling = Polling(poll_ns)
        self.fds = Fds()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether `receive` has a message without reading."""
        return bool(self._ready)

    def send(self, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
        """Raises OSError."""
        send_frame(self._sock, message, fds)

    def receive(self) -> T | None:
        """The next message, or None at the peer's end. Raises OSError, WireError."""
        while not self._ready:
            try:
                size, ancillary, flags = self._wait()
            except ConnectionResetError:
                return None  # unix(7): how a peer's end looks when it left messages of ours unread
            if ancillary or flags & socket.MSG_CTRUNC:
                self.fds.add(ancillary, flags)
            if not size:
                return None
            message = self._frames.whole(self._view, size)
            if message is not None:
                return message
            self._ready.extend(self._frames.feed(self._view[:size]))
        return self._ready.popleft()

    def close(self) -> None:
        self.fds.close()
        self._sock.close()

    def _wait(self) -> tuple[int, list[tuple[int, int, bytes]], int]:
        """For whatever comes: its size, descriptors, flags."""
        polling, receive = self._polling, self._sock.recvmsg_into
        began = time.monotonic_ns()
        if polling.promising and polling.undisturbed(_preemptions()):
            while time.monotonic_ns() - began < polling.limit_ns:
                try:
                    size, ancillary, flags, _ = receive(self._buffers, _ANCILLARY_BYTES, _AT_ONCE)
                except BlockingIOError:
                    continue
                polling.note(0)
                return size, ancillary, flags
        size, ancillary, flags, _ = receive(self._buffers, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        polling.note(time.monotonic_ns() - began)
        return size, ancillary, flags


class Receiver(Generic[T]):
    """Reads messages from a non-blocking socket that is ready; the caller owns the socket and the event loop.

    Without `fds` the kernel drops descriptors that a hostile peer attaches: nothing of ours can be used up.
    """

    def __init__(
        self, sock: socket.socket, messages: msgspec.msgpack.Decoder[T], limit_bytes: int, *, fds: Fds | None = None
    ) -> None:
        self._sock = sock
        self._frames: Frames[T] = Frames(messages, limit_bytes)
        self._fds = fds
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)

    def receive(self, on_message: Callable[[T], None]) -> bool:
        """Read once and hand over what is complete; False at the end of the stream. Raises WireError, OSError."""
        try:
            if self._fds is None:
                size = self._sock.recv_into(self._buffer)
            else:
                size, ancillary, flags, _ = self._sock.recvmsg_into([self._buffer], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
                self._fds.add(ancillary, flags)
        except (BlockingIOError, InterruptedError):
            return True
        message = self._frames.whole(self._view, size)
        if message is not None:
            on_message(message)
            return True
        for message in self._frames.feed(self._view[:size]):
            on_message(message)
        return size > 0


def _preemptions() -> int:
    """How often this thread had to leave its CPU to another."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
