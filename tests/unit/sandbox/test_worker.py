"""The worker's loop without a jail, over a real channel: loads, boots, runs, resets and discards as it is told."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TypeVar

import pytest

from sandbox import jail
from sandbox import worker as worker_module
from sandbox.channel import wire
from sandbox.channel.frames import BlockingChannel, send_frame
from sandbox.confinement.cgroup import NO_CGROUP
from sandbox.jail import JailPolicy, Layer
from sandbox.limits import MILLISECOND_NS, SECOND_NS, Limits
from sandbox.outcome import End
from sandbox.program import Convention, Program
from sandbox.worker import Worker
from tests.integration.monitor_support import BOOT_FAULTS, CGI, SLOW_BOOT, built, get, limits, resident
from tests.unit.sandbox.forked import run_forked

T = TypeVar("T")
SLICE_NS = 5 * SECOND_NS


class Peer:
    """The monitor's side of the channel, one question at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel = BlockingChannel(sock, wire.FROM_WORKER, wire.FROM_WORKER_BYTES)

    def ask(self, message: wire.ToWorker, kind: type[T], fd: int | None = None) -> T:
        self.tell(message, fd)
        return self.hear(kind)

    def tell(self, message: wire.ToWorker, fd: int | None = None) -> None:
        self._channel.send(message, () if fd is None else (fd,))

    def hear(self, kind: type[T]) -> T:
        answer = self._channel.receive()
        assert isinstance(answer, kind), answer
        return answer

    def load(self, number: int, program: Program, bounds: Limits, kind: type[T], *, engine: str = "unicorn") -> T:
        data = wire.encode_program(program)
        fd = os.memfd_create("program")
        try:
            os.write(fd, data)
            return self.ask(wire.Load(number, len(data), bounds, engine), kind, fd)
        finally:
            os.close(fd)

    def serve(self, number: int, program: Program, bounds: Limits) -> None:
        if self.load(number, program, bounds, wire.Loaded).needs_boot:
            booted = self.ask(wire.Boot(number, SLICE_NS), wire.BootSlice)
            assert booted.booted, booted

    def start(self, call: int, program: int, path: str, *, slice_ns: int = SLICE_NS, body: bytes = b"") -> wire.CallSlice:
        return self.ask(wire.Start(call, program, get(path, body), slice_ns), wire.CallSlice)

    def end(self, call: int, program: int, path: str) -> tuple[End, bytes]:
        report = self.start(call, program, path)
        assert isinstance(report.event, wire.Done), report
        return report.event.outcome.end, report.output.partition(b"\r\n\r\n")[2]

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Not served by a thread: for what ends a worker."""
    ours, theirs = socket.socketpair()
    worker = Worker(BlockingChannel(theirs, wire.TO_WORKER, wire.TO_WORKER_BYTES))
    with ours, theirs:
        yield worker


@pytest.fixture
def peer() -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    channel = BlockingChannel(theirs, wire.TO_WORKER, wire.TO_WORKER_BYTES)
    worker = Worker(channel)
    thread = threading.Thread(target=worker.serve)
    thread.start()
    peer = Peer(ours)
    try:
        yield peer
    finally:
        peer.close()
        thread.join(60)
        worker.close()
        channel.close()
    assert not thread.is_alive()


def test_a_resident_program_is_loaded_booted_in_slices_and_called(peer: Peer) -> None:
    # Where the machine is busy, what ends a slice may come late, once and again.
    for number in range(1, 100):
        assert peer.load(number, resident(SLOW_BOOT), limits(), wire.Loaded).needs_boot
        slices = 1
        while (report := peer.ask(wire.Boot(number, MILLISECOND_NS), wire.BootSlice)).outcome is None:
            slices += 1
        assert report.booted
        assert report.outcome.ok
        if slices > 2:
            break
    else:
        pytest.fail("no boot was ever cut into slices")
    assert peer.end(1, number, "/") == (End.FINISHED, b"booted")


def test_a_cgi_program_needs_no_boot(peer: Peer) -> None:
    assert not peer.load(1, Program(built(CGI), Convention.CGI), limits(), wire.Loaded).needs_boot
    assert peer.end(10, 1, "/") == (End.FINISHED, b"- ")


def test_a_finished_vm_is_reset_and_serves_again(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    assert [peer.end(call, 1, "/count") for call in range(5)] == [(End.FINISHED, b"clean")] * 5


def test_a_vm_that_ended_otherwise_is_not_used_again(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    assert peer.end(1, 1, "/exit")[0] is End.EXIT_STATUS
    assert peer.end(2, 1, "/count") == (End.FINISHED, b"clean")


def test_no_more_vms_are_kept_than_may_run(peer: Peer) -> None:
    peer.serve(1, resident(), limits(vms=1))
    waiting = peer.start(1, 1, "/fetch")
    assert isinstance(waiting.event, wire.WantsAnswer)
    assert peer.end(2, 1, "/ok")[0] is End.FINISHED
    done = peer.ask(wire.Continue(1, SLICE_NS, b"page"), wire.CallSlice)
    assert done.output.endswith(b"page")


def test_a_slice_ends_and_goes_on(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    report = peer.start(1, 1, "/work", slice_ns=MILLISECOND_NS)
    output, slices = report.output, 0
    while isinstance(report.event, wire.WantsMore):
        report = peer.ask(wire.Continue(1, 5 * MILLISECOND_NS), wire.CallSlice)
        output += report.output
        slices += 1
    assert isinstance(report.event, wire.Done)
    assert output.endswith(b"worked")
    assert slices > 3


def test_edge_calls_are_handed_out_and_their_answers_in(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    report = peer.start(1, 1, "/kv")
    assert report.event == wire.WantsAnswer("kv-get", b"k")
    report = peer.ask(wire.Continue(1, SLICE_NS, -2), wire.CallSlice)
    assert report.event == wire.WantsAnswer("kv-put", b"k", b"value")
    report = peer.ask(wire.Continue(1, SLICE_NS, 0), wire.CallSlice)
    report = peer.ask(wire.Continue(1, SLICE_NS, b"value"), wire.CallSlice)
    assert report.output.endswith(b"get -2 put 0 get 5")


def test_output_too_long_for_a_frame_comes_in_pieces(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    peer.tell(wire.Start(1, 1, get("/huge"), SLICE_NS))
    pieces = [peer.hear(wire.Piece).output for _ in range(2)]
    report = peer.hear(wire.CallSlice)
    assert sum(map(len, pieces)) + len(report.output) == 3 << 20


def test_an_aborted_request_is_forgotten_and_aborting_twice_is_harmless(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    assert isinstance(peer.start(1, 1, "/fetch").event, wire.WantsAnswer)
    peer.tell(wire.Abort(1))
    peer.tell(wire.Abort(1))
    assert peer.end(2, 1, "/count") == (End.FINISHED, b"clean")


def test_an_unloaded_program_takes_its_vms_with_it(peer: Peer) -> None:
    peer.serve(1, resident(), limits())
    peer.serve(2, resident(), limits())
    assert peer.end(1, 1, "/ok") == (End.FINISHED, b"ok")
    assert isinstance(peer.start(2, 1, "/fetch").event, wire.WantsAnswer)
    peer.tell(wire.Unload(1))
    peer.tell(wire.Abort(2))
    assert peer.end(3, 2, "/ok") == (End.FINISHED, b"ok")


def test_what_is_no_program_is_rejected_with_the_reason(peer: Peer) -> None:
    assert "ELF" in peer.load(1, Program(b"text", Convention.CGI), limits(), wire.Rejected).detail


def test_a_boot_that_fails_says_how(peer: Peer) -> None:
    assert peer.load(1, resident(BOOT_FAULTS), limits(), wire.Loaded).needs_boot
    for _ in range(2):
        report = peer.ask(wire.Boot(1, SLICE_NS), wire.BootSlice)
        assert not report.booted
        assert report.outcome is not None
        assert report.outcome.end is End.BOOT_FAILED


def test_an_engine_that_is_not_there_fails_boots_and_requests(peer: Peer) -> None:
    peer.load(1, resident(), limits(), wire.Loaded, engine="abacus")
    outcome = peer.ask(wire.Boot(1, SLICE_NS), wire.BootSlice).outcome
    assert outcome is not None
    assert (outcome.end, "abacus" in outcome.detail) == (End.BOOT_FAILED, True)
    peer.load(2, Program(built(CGI), Convention.CGI), limits(), wire.Loaded, engine="abacus")
    report = peer.start(1, 2, "/")
    assert isinstance(report.event, wire.Done)
    assert report.event.outcome.end is End.FAULT


def test_closing_gives_back_what_still_boots(peer: Peer) -> None:
    peer.load(1, resident(SLOW_BOOT), limits(), wire.Loaded)
    assert peer.ask(wire.Boot(1, MILLISECOND_NS // 10), wire.BootSlice).outcome is None


class TestMain:
    """A forked worker's whole life. Its exit is caught: the process has to tell the test what it did."""

    def life(self, policy: JailPolicy, *messages: wire.ToWorker) -> tuple[object, wire.FromWorker | None]:
        ours, theirs = socket.socketpair()
        for message in messages:
            send_frame(ours, message)
        ours.shutdown(socket.SHUT_WR)
        pid = os.getpid()

        def child() -> int:
            pipe = run_forked.pipe  # type: ignore[attr-defined]
            enter = jail.enter
            worker_module.jail = SimpleNamespace(enter=lambda p, parent, keep, **more: enter(p, parent, [*keep, pipe], **more))  # type: ignore[assignment]
            worker_module.os = SimpleNamespace(_exit=sys.exit, pread=os.pread, close=os.close)  # type: ignore[assignment]
            try:
                worker_module.main(theirs, policy, pid, NO_CGROUP)
            except SystemExit as end:
                return int(end.code or 0)

        with ours:
            with theirs:
                status = run_forked(child)
            return status, BlockingChannel(ours, wire.FROM_WORKER, 100_000).receive()

    def test_it_greets_serves_and_ends_with_the_monitor(self) -> None:
        status, said = self.life(JailPolicy(), wire.Abort(1))
        assert status == 0
        assert isinstance(said, wire.Hello)
        assert said.jail.active

    def test_it_says_why_it_cannot_be_what_it_must(self) -> None:
        status, said = self.life(
            JailPolicy(user_id=0, required=frozenset(Layer)) if os.geteuid() == 0 else JailPolicy(open_files=-5)
        )
        assert status == 70
        assert isinstance(said, wire.Refused)
        assert "required" in said.detail

    def test_nonsense_ends_it(self) -> None:
        status, said = self.life(JailPolicy(), wire.Unload(1))
        assert status == 70
        assert isinstance(said, wire.Hello)


class TestNonsense:
    """The monitor is trusted; still, what it cannot mean ends the worker and not a guest's isolation."""

    def test_a_program_size_out_of_range(self, worker: Worker) -> None:
        fd = os.memfd_create("program")
        worker._channel.fds._fds.append(fd)
        with pytest.raises(wire.WireError, match="bytes"):
            worker.handle(wire.Load(1, wire.TO_WORKER_BYTES + 1, limits(), "auto"))

    def test_a_program_shorter_than_announced(self, worker: Worker) -> None:
        fd = os.memfd_create("program")
        worker._channel.fds._fds.append(fd)
        with pytest.raises(wire.WireError, match="shorter"):
            worker.handle(wire.Load(1, 10, replace(limits()), "auto"))

    @pytest.mark.parametrize("message", [wire.Boot(9, 1), wire.Continue(9, 1), wire.Unload(9), wire.Start(1, 9, get("/"), 1)])
    def test_numbers_that_were_never_given(self, worker: Worker, message: wire.ToWorker) -> None:
        with pytest.raises(KeyError):
            worker.handle(message)
