"""The zygote forks jailed workers, hands over their channel and pidfd, reports deaths, and takes everybody with it."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator

import pytest

from sandbox import jail, zygote
from sandbox.channel import wire
from sandbox.channel.frames import BlockingChannel, send_frame
from sandbox.confinement.cgroup import NO_CGROUP
from sandbox.jail import JailPolicy, Layer
from tests.integration.process_support import alive
from tests.unit.sandbox.forked import run_forked


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    with ours, theirs:
        yield ours, theirs


def conversation() -> list[object]:
    """A zygote in a process of its own talks with a child of that process; what the child saw comes back."""
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        try:
            theirs.close()
            _talk(BlockingChannel(ours, wire.FROM_ZYGOTE, wire.ZYGOTE_BYTES), writing)
        finally:
            os._exit(0)
    os.close(writing)
    ours.close()
    status = zygote.main([str(theirs.detach()), str(os.getppid())])
    os.waitpid(monitor, 0)
    with open(reading) as pipe:
        return [status, pipe.read()]


def _talk(channel: BlockingChannel[wire.FromZygote], report: int) -> None:
    for serial in (1, 2):
        channel.send(wire.Spawn(serial, JailPolicy()))
    said, pids = [], []
    for _ in range(2):
        message = channel.receive()
        assert isinstance(message, wire.Spawned)
        sock, pidfd = channel.fds.claim(2)
        worker = BlockingChannel(socket.socket(fileno=sock), wire.FROM_WORKER, 100_000)
        hello = worker.receive()
        assert isinstance(hello, wire.Hello)
        said.append(f"hello {Layer.SECCOMP in hello.jail.active}")
        pids.append(message.pid)
        if message.serial == 1:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
    died = channel.receive()
    assert isinstance(died, wire.Died)
    said.append(f"died {died.status} {died.pid == pids[0]}")
    channel.close()
    os.write(report, " ".join(said).encode() + b" pid %d" % pids[1])


def test_it_forks_reports_and_takes_its_workers_with_it() -> None:
    status, said = run_forked(conversation)
    words = str(said).split()
    assert (status, words[:6]) == (0, ["hello", "True", "hello", "True", "died", "-9"])
    assert not alive(int(words[-1]))


def test_it_forks_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket]) -> None:
    monkeypatch.setattr(zygote, "MAX_WORKERS", 0)
    ours, theirs = ends
    process = zygote.Zygote(BlockingChannel(theirs, wire.TO_ZYGOTE, wire.ZYGOTE_BYTES), NO_CGROUP)
    send_frame(ours, wire.Spawn(1, JailPolicy()))
    send_frame(ours, wire.Spawn(2, JailPolicy()))
    ours.shutdown(socket.SHUT_WR)
    process.serve()
    channel = BlockingChannel(ours, wire.FROM_ZYGOTE, wire.ZYGOTE_BYTES)
    assert [type(channel.receive()) for _ in range(2)] == [wire.SpawnFailed] * 2
    process.close()


@pytest.mark.parametrize("name", ["socketpair", "fork"])
def test_what_it_cannot_do_it_says(name: str, monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends

    def fail() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(zygote.socket if name == "socketpair" else zygote.os, name, fail)
    process = zygote.Zygote(BlockingChannel(theirs, wire.TO_ZYGOTE, wire.ZYGOTE_BYTES), NO_CGROUP)
    process._spawn(wire.Spawn(1, JailPolicy()))
    message = BlockingChannel(ours, wire.FROM_ZYGOTE, wire.ZYGOTE_BYTES).receive()
    assert isinstance(message, wire.SpawnFailed)
    assert "Too many" in message.detail
    process.close()


def test_it_does_not_outlive_a_parent_that_is_gone_already() -> None:
    def orphan() -> str:
        try:
            jail.die_with(1)
        except jail.JailError as error:
            return str(error)
        return "alive"

    assert run_forked(orphan) == "the parent is gone"
