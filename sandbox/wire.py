"""What the monitor, its workers and the zygote say to each other: message values, and length-prefixed frames over Unix streams.

No behaviour lives here. Each message to a worker but Abort and Unload has one answer, so that both sides always know whose turn
it is. What a worker sends is hostile: sizes are bounded before anything is kept, types are checked, descriptors are refused.
"""

from __future__ import annotations

import array
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from sandbox.errors import WorkerLost
from sandbox.jail import JailPolicy, JailReport
from sandbox.limits import KIB, MIB, Limits
from sandbox.outcome import Outcome
from sandbox.program import Program
from sandbox.request import GuestRequest

FROM_WORKER_BYTES = 4 * MIB
"""Largest frame a worker may send: one slice's output, log and edge call."""
TO_WORKER_BYTES = 256 * MIB
"""Largest frame a worker takes: a request's body, or the answer to a `fetch`."""
ZYGOTE_BYTES = 64 * KIB
"""Largest frame on the zygote's channel."""
OUTPUT_PIECE_BYTES = MIB
"""Output of one slice beyond this goes in frames of its own."""
_READ_BYTES = 64 * KIB
_HEAD = struct.Struct("<I")
_MAX_FDS = 4


class WireError(WorkerLost):
    """The peer broke the protocol: for a worker, proof that it is hostile or insane."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


# Monitor to worker.


class Load(_Message, frozen=True):
    """Take a program. With the frame comes a sealed memfd of `size_bytes` holding it, encoded by `encode_program`."""

    program: int
    size_bytes: int
    limits: Limits
    engine: str


class Unload(_Message, frozen=True):
    """Forget a program, its templates and its VMs, also those that hold a request. No answer."""

    program: int


class Boot(_Message, frozen=True):
    """Run the program's initialisation for a slice."""

    program: int
    slice_ns: int


class Start(_Message, frozen=True):
    """Begin a request in a VM, and run its first slice."""

    call: int
    program: int
    request: GuestRequest
    slice_ns: int


class Continue(_Message, frozen=True):
    """Run another slice, after answering the edge call if the last one ended in one."""

    call: int
    slice_ns: int
    answer: int | bytes | None = None


class Abort(_Message, frozen=True):
    """Discard the VM that holds this request. No answer. Harmless when it has ended."""

    call: int


ToWorker = Load | Unload | Boot | Start | Continue | Abort


# Worker to monitor.


class Hello(_Message, frozen=True):
    """The worker is in its jail and waits for work."""

    jail: JailReport


class Refused(_Message, frozen=True):
    """The worker could not become what it must be, and is gone."""

    detail: str


class Loaded(_Message, frozen=True):
    program: int
    needs_boot: bool


class Rejected(_Message, frozen=True):
    program: int
    detail: str


class BootSlice(_Message, frozen=True):
    """The end of a slice of initialisation: not done yet (None), done, or failed."""

    program: int
    outcome: Outcome | None = None
    booted: bool = False


class WantsMore(_Message, frozen=True):
    """The slice was used up, or its output buffer is full: run it again."""


class WantsAnswer(_Message, frozen=True):
    """The guest waits for an edge call: `kind` is an events.HostCallKind."""

    kind: str
    data: bytes
    value: bytes = b""


class Done(_Message, frozen=True):
    outcome: Outcome


class Piece(_Message, frozen=True):
    """Output of a slice that is too long for one frame; its CallSlice follows."""

    call: int
    output: bytes


class CallSlice(_Message, frozen=True):
    """The end of a slice of a request."""

    call: int
    event: WantsMore | WantsAnswer | Done
    output: bytes = b""
    log: bytes = b""


FromWorker = Hello | Refused | Loaded | Rejected | BootSlice | Piece | CallSlice


# Monitor and zygote.


class Spawn(_Message, frozen=True):
    """Fork a worker. The answer, Spawned, brings its channel and a pidfd."""

    serial: int
    policy: JailPolicy


class Spawned(_Message, frozen=True):
    serial: int
    pid: int


class SpawnFailed(_Message, frozen=True):
    serial: int
    detail: str


class Died(_Message, frozen=True):
    """A worker is gone; `status` as `os.waitstatus_to_exitcode` gives it."""

    pid: int
    status: int


ToZygote = Spawn
FromZygote = Spawned | SpawnFailed | Died

T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A strict decoder for a union of messages."""
    return msgspec.msgpack.Decoder(kind)


TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = decoder(ToWorker)
FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = decoder(FromWorker)
TO_ZYGOTE: msgspec.msgpack.Decoder[ToZygote] = decoder(ToZygote)
_PROGRAM = msgspec.msgpack.Decoder(Program)
FROM_ZYGOTE: msgspec.msgpack.Decoder[FromZygote] = decoder(FromZygote)


def encode_program(program: Program) -> bytes:
    """What the memfd beside a `Load` holds."""
    return _ENCODER.encode(program)


def decode_program(data: bytes) -> Program:
    """Raises WireError."""
    try:
        return _PROGRAM.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise WireError(f"not a program: {error}") from error


def frame(message: msgspec.Struct) -> bytearray:
    """The bytes on the wire: 32-bit little-endian length, then MessagePack."""
    buffer = bytearray(_HEAD.size)
    _ENCODER.encode_into(message, buffer, _HEAD.size)
    _HEAD.pack_into(buffer, 0, len(buffer) - _HEAD.size)
    return buffer


class Frames(Generic[T]):
    """Bytes in, messages out. Holds at most one unfinished frame, of at most `limit_bytes`."""

    def __init__(self, messages: msgspec.msgpack.Decoder[T], limit_bytes: int) -> None:
        self._messages = messages
        self._limit = limit_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The messages that are complete now. Raises WireError on a frame that is too long or not a message."""
        held = self._held
        if not held and len(data) >= _HEAD.size and _HEAD.unpack_from(data)[0] == len(data) - _HEAD.size <= self._limit:
            yield self._decode(memoryview(data)[_HEAD.size :])
            return
        held += data
        offset = 0
        try:
            while len(held) - offset >= _HEAD.size:
                (length,) = _HEAD.unpack_from(held, offset)
                if length > self._limit:
                    raise WireError(f"a frame of {length} bytes; at most {self._limit} are allowed")
                end = offset + _HEAD.size + length
                if len(held) < end:
                    break
                with memoryview(held) as view, view[offset + _HEAD.size : end] as payload:
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


_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_FDS * 4)


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

    def __init__(self, sock: socket.socket, messages: msgspec.msgpack.Decoder[T], limit_bytes: int) -> None:
        self._sock = sock
        self._frames = Frames(messages, limit_bytes)
        self._ready: deque[T] = deque()
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
                data, ancillary, flags, _ = self._sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                return None  # unix(7): how a peer's end looks when it left messages of ours unread
            if ancillary or flags & socket.MSG_CTRUNC:
                self.fds.add(ancillary, flags)
            if not data:
                return None
            self._ready.extend(self._frames.feed(data))
        return self._ready.popleft()

    def close(self) -> None:
        self.fds.close()
        self._sock.close()


class Receiver(Generic[T]):
    """Reads messages from a non-blocking socket that is ready; the caller owns the socket and the event loop.

    Without `fds` the kernel drops descriptors that a hostile peer attaches: nothing of ours can be used up.
    """

    def __init__(
        self, sock: socket.socket, messages: msgspec.msgpack.Decoder[T], limit_bytes: int, *, fds: Fds | None = None
    ) -> None:
        self._sock = sock
        self._frames = Frames(messages, limit_bytes)
        self._fds = fds

    def receive(self, on_message: Callable[[T], None]) -> bool:
        """Read once and hand over what is complete; False at the end of the stream. Raises WireError, OSError."""
        try:
            if self._fds is None:
                data = self._sock.recv(_READ_BYTES)
            else:
                data, ancillary, flags, _ = self._sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
                self._fds.add(ancillary, flags)
        except (BlockingIOError, InterruptedError):
            return True
        for message in self._frames.feed(data):
            on_message(message)
        return bool(data)
