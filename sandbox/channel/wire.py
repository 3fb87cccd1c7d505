"""What the monitor, its workers and the zygote say to each other: message values, their sizes, and their decoders.

No behaviour lives here. Each message to a worker but Abort and Unload has one answer, so that both sides always know whose turn
it is. What a worker sends is hostile: types and ranges are checked as it is decoded. `frames.py` moves the bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sandbox.errors import WorkerLost
from sandbox.jail import JailPolicy, JailReport
from sandbox.limits import KIB, MIB, Limits
from sandbox.outcome import Outcome
from sandbox.program import Program
from sandbox.request import Delivered

FROM_WORKER_BYTES = 4 * MIB
"""Largest frame a worker may send: one slice's output, log and edge call."""
TO_WORKER_BYTES = 256 * MIB
"""Largest frame a worker takes: a request's body, or the answer to a `fetch`."""
ZYGOTE_BYTES = 64 * KIB
"""Largest frame on the zygote's channel."""
OUTPUT_PIECE_BYTES = MIB
"""Output of one slice beyond this goes in frames of its own."""


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
    request: Delivered
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
    """The answer to a Load."""

    program: int
    needs_boot: bool


class Rejected(_Message, frozen=True):
    """The answer to a Load of what is no program for this machine."""

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
    """The request has ended."""

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
    """A worker was forked."""

    serial: int
    pid: int


class SpawnFailed(_Message, frozen=True):
    """No worker could be forked, and why."""

    serial: int
    detail: str


class Died(_Message, frozen=True):
    """A worker is gone; `status` as `os.waitstatus_to_exitcode` gives it."""

    pid: int
    status: int


ToZygote = Spawn
FromZygote = Spawned | SpawnFailed | Died

ENCODER = msgspec.msgpack.Encoder()


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
    return ENCODER.encode(program)


def decode_program(data: bytes) -> Program:
    """Raises WireError."""
    try:
        return _PROGRAM.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise WireError(f"not a program: {error}") from error
