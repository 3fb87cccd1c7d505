"""Waiting with the CPU in hand: only where calls come one upon the other, nobody else wants the CPU, and never for long."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from sandbox.channel import frames, wire
from sandbox.channel.polling import Polling

LIMIT_NS = 50_000
SHORT_NS, LONG_NS = 30_000, 1_000_000


def _after(*waits_ns: int) -> Polling:
    polling = Polling(LIMIT_NS)
    for waited_ns in waits_ns:
        polling.note(waited_ns)
    return polling


def test_one_short_wait_is_no_reason() -> None:
    assert not _after().promising
    assert not _after(SHORT_NS).promising


def test_many_in_a_row_are() -> None:
    assert _after(*[SHORT_NS] * 20).promising
    assert not _after(*[SHORT_NS, LONG_NS] * 20).promising


def test_one_wait_in_vain_ends_it() -> None:
    assert not _after(*[SHORT_NS] * 1000, LONG_NS).promising
    assert not _after(*[SHORT_NS] * 1000, LONG_NS, SHORT_NS).promising


def test_who_shares_the_cpu_sleeps() -> None:
    polling, polled = Polling(LIMIT_NS), 0
    for preemptions in range(1, 1001):  # at each call
        polling.note(SHORT_NS)
        polled += polling.promising and polling.undisturbed(preemptions)
    assert not polled


def test_a_disturbance_now_and_then_does_not_matter() -> None:
    polling, polled = Polling(LIMIT_NS), 0
    for call in range(1000):
        polling.note(SHORT_NS)
        polled += polling.promising and polling.undisturbed(call // 20)
    assert polled > 500


@given(st.lists(st.integers(0, 10 * LONG_NS)))
def test_a_limit_of_nothing_is_never(waits_ns: list[int]) -> None:
    polling = Polling(0)
    for waited_ns in waits_ns:
        polling.note(1 + waited_ns)
    assert not polling.promising


@given(st.lists(st.tuples(st.integers(0, 2 * LIMIT_NS), st.integers(0, 3))))
def test_polled_in_vain_at_most_once_in_many_calls(calls: list[tuple[int, int]]) -> None:
    polling, in_vain, preemptions = Polling(LIMIT_NS), 0, 0
    for waited_ns, disturbed in calls:
        preemptions += disturbed
        in_vain += polling.promising and polling.undisturbed(preemptions) and waited_ns > LIMIT_NS
        polling.note(waited_ns)
    assert in_vain <= len(calls) // 8


def test_a_channel_that_polls_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        channel = frames.BlockingChannel(theirs, wire.TO_WORKER, 1000, poll_ns=10_000_000_000)
        for call in range(100):
            frames.send_frame(ours, wire.Abort(call))
            assert channel.receive() == wire.Abort(call)
        for call in range(100):
            data = frames.frame(wire.Abort(call)) + frames.frame(wire.Abort(1000 + call))
            for at in range(0, len(data), 7):
                ours.sendall(data[at : at + 7])
            assert (channel.receive(), channel.receive()) == (wire.Abort(call), wire.Abort(1000 + call))
        ours.shutdown(socket.SHUT_WR)
        assert channel.receive() is None
        channel.close()
