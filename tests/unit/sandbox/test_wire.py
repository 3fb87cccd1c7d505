"""Frames and messages: what is sent arrives, in any pieces; what is malformed, too long or too much is refused."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.channel import frames as framing
from sandbox.channel import wire
from sandbox.jail import JailPolicy, JailReport, Layer, MissingLayer
from sandbox.limits import DEFAULT_LIMITS
from sandbox.outcome import End, Outcome, Usage
from sandbox.program import Convention, Program
from sandbox.request import Delivered

OUTCOME = Outcome(End.CPU_LIMIT, Usage(cpu_ns=5, unknown_calls=(1, 2)), "too long")
TO_WORKER: list[wire.ToWorker] = [
    wire.Load(1, 100, DEFAULT_LIMITS, "auto"),
    wire.Unload(1),
    wire.Boot(1, 5),
    wire.Start(7, 1, Delivered(((b"A", b"\xff"),), b"body"), 5),
    wire.Continue(7, 5),
    wire.Continue(7, 5, b"answer"),
    wire.Continue(7, 5, -2),
    wire.Abort(7),
]
FROM_WORKER: list[wire.FromWorker] = [
    wire.Hello(JailReport((Layer.SECCOMP,), (MissingLayer(Layer.LANDLOCK, "none"),))),
    wire.Refused("no"),
    wire.Loaded(1, True),
    wire.Rejected(1, "not an ELF"),
    wire.BootSlice(1),
    wire.BootSlice(1, OUTCOME, False),
    wire.Piece(7, b"part"),
    wire.CallSlice(7, wire.WantsMore(), b"out", b"log"),
    wire.CallSlice(7, wire.WantsAnswer("kv-put", b"key", b"value")),
    wire.CallSlice(7, wire.Done(OUTCOME)),
]
ZYGOTE: list[msgspec.Struct] = [wire.Spawned(1, 2), wire.SpawnFailed(1, "no"), wire.Died(2, -9)]


def frames(limit_bytes: int = wire.FROM_WORKER_BYTES) -> framing.Frames[wire.FromWorker]:
    return framing.Frames(wire.FROM_WORKER, limit_bytes)


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_what_the_monitor_says_arrives(message: wire.ToWorker) -> None:
    assert list(framing.Frames(wire.TO_WORKER, 1000).feed(bytes(framing.frame(message)))) == [message]


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_what_a_worker_says_arrives(message: wire.FromWorker) -> None:
    assert list(frames().feed(bytes(framing.frame(message)))) == [message]


def test_what_is_said_to_and_by_the_zygote_arrives() -> None:
    spawn = wire.Spawn(3, JailPolicy())
    assert list(framing.Frames(wire.TO_ZYGOTE, 4000).feed(bytes(framing.frame(spawn)))) == [spawn]
    data = b"".join(framing.frame(message) for message in ZYGOTE)
    assert list(framing.Frames(wire.FROM_ZYGOTE, 1000).feed(data)) == ZYGOTE


@given(st.lists(st.sampled_from(FROM_WORKER), max_size=8), st.data())
def test_any_pieces_make_the_same_messages(messages: list[wire.FromWorker], data: st.DataObject) -> None:
    stream = b"".join(framing.frame(message) for message in messages)
    receiver = frames()
    got: list[wire.FromWorker] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += receiver.feed(stream[:size])
        stream = stream[size:]
    assert got == messages


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_break_the_protocol(data: bytes) -> None:
    """Whatever a worker sends is a list of messages or a WireError."""
    with suppress(wire.WireError):
        assert all(isinstance(message, msgspec.Struct) for message in frames().feed(data))


@given(st.binary(max_size=200))
def test_a_frame_that_is_no_message_is_refused_whole(payload: bytes) -> None:
    try:
        (message,) = frames().feed(struct.pack("<I", len(payload)) + payload)
    except wire.WireError:
        return
    assert bytes(framing.frame(message))


def test_a_frame_over_the_bound_is_refused_before_it_is_received() -> None:
    with pytest.raises(wire.WireError, match="at most 10"):
        list(frames(10).feed(struct.pack("<I", 11)))


def test_a_message_meant_for_the_other_side_is_refused() -> None:
    with pytest.raises(wire.WireError):
        list(frames().feed(bytes(framing.frame(wire.Abort(1)))))


def test_deep_nesting_is_refused() -> None:
    payload = b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(wire.WireError):
        list(frames().feed(struct.pack("<I", len(payload)) + payload))


def test_a_program_comes_back_as_it_was() -> None:
    program = Program(b"\x7fELF", Convention.CGI, "p", ("a",), (("K", "V"),), (("f", b"\0"),))
    assert wire.decode_program(wire.encode_program(program)) == program
    with pytest.raises(wire.WireError):
        wire.decode_program(b"\x80")


class TestChannels:
    def test_descriptors_travel_with_their_frame(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            channel = framing.BlockingChannel(theirs, wire.TO_WORKER, 1000)
            fd = os.memfd_create("program")
            os.write(fd, b"text")
            framing.send_frame(ours, wire.Load(1, 4, DEFAULT_LIMITS, "auto"), (fd,))
            os.close(fd)
            framing.send_frame(ours, wire.Abort(9))
            assert isinstance(channel.receive(), wire.Load)
            (received,) = channel.fds.claim(1)
            assert os.pread(received, 10, 0) == b"text"
            assert not os.get_inheritable(received)
            os.close(received)
            assert channel.receive() == wire.Abort(9)
            assert not channel.pending
            with pytest.raises(wire.WireError, match="missing"):
                channel.fds.claim(1)
            ours.shutdown(socket.SHUT_WR)
            assert channel.receive() is None
            assert channel.fileno() > 0
            channel.close()

    def test_a_peer_that_ends_with_messages_unread_has_ended_all_the_same(self) -> None:
        ours, theirs = socket.socketpair()
        channel = framing.BlockingChannel(theirs, wire.TO_WORKER, 1000)
        channel.send(wire.Abort(1))
        ours.close()
        assert channel.receive() is None
        channel.close()

    def test_too_many_descriptors_are_closed_and_refused(self) -> None:
        ours, theirs = socket.socketpair()
        before = len(os.listdir("/proc/self/fd"))
        with ours:
            channel = framing.BlockingChannel(theirs, wire.TO_WORKER, 1000)
            socket.send_fds(ours, [b"x"], [0] * 20)
            with pytest.raises(wire.WireError, match="descriptors"):
                channel.receive()
            assert len(os.listdir("/proc/self/fd")) == before
            channel.close()

    def test_descriptors_that_a_worker_sends_are_never_received(self) -> None:
        ours, theirs = socket.socketpair()
        before = len(os.listdir("/proc/self/fd"))
        with ours, theirs:
            ours.setblocking(False)
            receiver = framing.Receiver(ours, wire.FROM_WORKER, 1000)
            assert receiver.receive(print)
            framing.send_frame(theirs, wire.Refused("hello"), (0, 1, 2))
            got: list[wire.FromWorker] = []
            assert receiver.receive(got.append)
            assert got == [wire.Refused("hello")]
            assert len(os.listdir("/proc/self/fd")) == before
            theirs.close()
            assert not receiver.receive(print)
