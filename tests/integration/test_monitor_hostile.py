"""A worker whose guest has taken it over says whatever it likes: the monitor believes nothing, kills it, and serves on."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable

import pytest

from sandbox import End, GuestCall, JailPolicy, Monitor, Outcome, Usage, WorkerLost
from sandbox.channel import wire
from sandbox.channel.frames import BlockingChannel, send_frame
from sandbox.dispatch import edge
from sandbox.dispatch.spawner import Spawner, WorkerHandle
from sandbox.errors import JailError
from sandbox.jail import JailReport
from sandbox.limits import MILLISECOND_NS
from tests.integration.monitor_support import Edge, begin, ending, limits, resident, until
from tests.integration.process_support import alive

DONE = wire.Done(Outcome(End.FINISHED, Usage()))


class Impostor:
    """What sits at a worker's end of the channel: a real process to kill, and a test that speaks for it."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(30)
        self.process = subprocess.Popen(["sleep", "60"])
        self.handle = WorkerHandle(self.process.pid, ours, os.pidfd_open(self.process.pid))
        self._channel = BlockingChannel(self.sock, wire.TO_WORKER, wire.TO_WORKER_BYTES)

    def say(self, message: wire.FromWorker) -> None:
        send_frame(self.sock, message)

    async def hear(self) -> wire.ToWorker:
        message = await asyncio.to_thread(self._channel.receive)
        assert message is not None
        return message

    def close(self) -> None:
        self._channel.close()
        self.process.kill()
        self.process.wait()


class Impostors(Spawner):
    """Gives out impostors in place of workers."""

    def __init__(self) -> None:
        super().__init__(JailPolicy())
        self.given: list[Impostor] = []
        self.failure: Exception | None = None

    async def spawn(self) -> WorkerHandle:
        if self.failure is not None:
            raise self.failure
        self.given.append(Impostor())
        return self.given[-1].handle


class Stage:
    """A monitor whose one tenant's worker is an impostor that has loaded the program and got one request."""

    def __init__(self, monitor: Monitor, spawner: Impostors) -> None:
        self.monitor = monitor
        self.spawner = spawner

    @property
    def worker(self) -> Impostor:
        return self.spawner.given[-1]

    async def started(self, calls: Edge | None = None) -> tuple[GuestCall, int]:
        count = len(self.spawner.given)
        call = begin(self.monitor, "/ok", edge=calls)
        await until(lambda: len(self.spawner.given) > count)
        load = await self.worker.hear()
        assert isinstance(load, wire.Load)
        self.worker._channel.fds.close()
        self.worker.say(wire.Loaded(load.program, False))
        start = await self.worker.hear()
        assert isinstance(start, wire.Start)
        return call, start.call


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    monitor, spawner = Monitor(), Impostors()
    monitor._spawner = spawner
    await monitor.start()
    bounds = limits(cpu_ns=50 * MILLISECOND_NS, output_bytes=1000, log_bytes=100, edge_calls=2, sub_requests=1)
    monitor.register("probe", resident(), bounds, tenant="shop")
    yield Stage(monitor, spawner)
    await monitor.close()
    for impostor in spawner.given:
        impostor.close()


async def test_an_impostor_that_behaves_is_believed(stage: Stage) -> None:
    call, number = await stage.started()
    for output in (b"one ", b"two "):
        stage.worker.say(wire.CallSlice(number, wire.WantsMore(), output))
        assert isinstance(await stage.worker.hear(), wire.Continue)
    stage.worker.say(wire.CallSlice(number, DONE, b"three"))
    assert b"".join([chunk async for chunk in call]) == b"one two three"


REPORTS: dict[str, Callable[[int], list[wire.FromWorker]]] = {
    "a report about another request": lambda number: [wire.CallSlice(number + 1, DONE)],
    "output of another request": lambda number: [wire.Piece(number + 1, b"x")],
    "more output than the limit": lambda number: [wire.CallSlice(number, DONE, bytes(1001))],
    "many small pieces": lambda number: [wire.Piece(number, b"x")],
    "endless pieces of nothing": lambda number: [wire.Piece(number, b"")],
    "an end that the monitor decides": lambda number: [wire.CallSlice(number, wire.Done(Outcome(End.QUEUE_FULL, Usage())))],
    "less than nothing used": lambda number: [wire.CallSlice(number, wire.Done(Outcome(End.FINISHED, Usage(cpu_ns=-1))))],
    "more used than can be": lambda number: [
        wire.CallSlice(number, wire.Done(Outcome(End.FINISHED, Usage(pages_written=1 << 62))))
    ],
    "more unknown calls than are kept": lambda number: [
        wire.CallSlice(number, wire.Done(Outcome(End.FINISHED, Usage(unknown_calls=tuple(range(17))))))
    ],
    "more log than the limit": lambda number: [wire.CallSlice(number, DONE, b"", bytes(101))],
    "a greeting": lambda number: [wire.Hello(JailReport((), ()))],
    "a refusal": lambda number: [wire.Refused("no")],
    "a boot nobody asked for": lambda number: [wire.BootSlice(1, None, True)],
    "a load nobody asked for": lambda number: [wire.Loaded(1, False)],
    "a rejection nobody asked for": lambda number: [wire.Rejected(1, "x")],
}


@pytest.mark.parametrize("output", [b"", b"x"], ids=["nothing", "a byte at a time"])
async def test_who_asks_for_slices_without_end_and_uses_none_costs_the_worker_its_life(stage: Stage, output: bytes) -> None:
    call, number = await stage.started()
    asked = 0
    with pytest.raises(AssertionError):  # what it hears at last is its end
        while asked < 1000:
            stage.worker.say(wire.CallSlice(number, wire.WantsMore(), output))
            asked += 1
            assert isinstance(await stage.worker.hear(), wire.Continue)
    assert asked == 1 + (4 * 50 + 100) // 5
    assert (await ending(call)).end is End.WORKER_DIED


@pytest.mark.parametrize("name", REPORTS)
async def test_what_cannot_be_true_costs_the_worker_its_life(stage: Stage, name: str) -> None:
    call, number = await stage.started()
    impostor = stage.worker
    for message in REPORTS[name](number):
        impostor.say(message)
    assert (await ending(call)).end is End.WORKER_DIED
    await until(lambda: not alive(impostor.process.pid))
    again, number = await stage.started()
    stage.worker.say(wire.CallSlice(number, DONE, b"ok"))
    assert (await ending(again)).end is End.FINISHED


async def test_a_workers_words_are_cut_and_stay_on_one_line(stage: Stage) -> None:
    call, number = await stage.started()
    stage.worker.say(wire.CallSlice(number, wire.Done(Outcome(End.FAULT, Usage(), "a\nforged line\x1b[2J" + "x" * 100_000))))
    outcome = await ending(call)
    assert outcome.end is End.FAULT
    assert outcome.detail.startswith("a\\nforged line\\x1b[2J")
    assert len(outcome.detail) == 500


@pytest.mark.parametrize(
    "data", [struct.pack("<I", 1 << 31), b"\x02\0\0\0\xff\xff", bytes(4), b""], ids=["huge", "garbage", "empty", "end"]
)
async def test_what_is_no_message_costs_the_worker_its_life(stage: Stage, data: bytes) -> None:
    call, _ = await stage.started()
    impostor = stage.worker
    if data:
        impostor.sock.sendall(data)
    else:
        impostor.sock.shutdown(socket.SHUT_WR)
    assert (await ending(call)).end is End.WORKER_DIED
    await until(lambda: not alive(impostor.process.pid))


async def test_a_report_that_nobody_asked_for_costs_the_worker_its_life_and_nobody_is_blamed(stage: Stage) -> None:
    call, number = await stage.started()
    stage.worker.say(wire.CallSlice(number, DONE, b"ok"))
    assert (await ending(call)).end is End.FINISHED
    stage.worker.say(wire.CallSlice(number, DONE, b"ok"))
    await until(lambda: stage.monitor.status().workers == ())
    assert stage.monitor.status().workers_lost == 1
    assert stage.monitor.status().generators[0].ends == {End.FINISHED: 1}


async def test_edge_calls_over_the_limit_are_not_made(stage: Stage) -> None:
    calls = Edge()
    call, number = await stage.started(calls)
    for kind in ("fetch", "fetch"):
        stage.worker.say(wire.CallSlice(number, wire.WantsAnswer(kind, b"x")))
        if kind == "fetch" and not calls.entered.is_set():
            answer = await stage.worker.hear()
            assert isinstance(answer, wire.Continue)
            assert answer.answer == b"fetched"
    assert (await ending(call)).end is End.WORKER_DIED


@pytest.mark.parametrize(
    "wanted",
    [
        wire.WantsAnswer("fetch", b"\n" * 65_537),
        wire.WantsAnswer("fetch", b"x", b"x"),
        wire.WantsAnswer("kv-get", bytes(1025)),
        wire.WantsAnswer("kv-put", bytes(1025), b"x"),
        wire.WantsAnswer("kv-put", b"x", bytes((1 << 20) + 1)),
    ],
    ids=["long request", "request with a value", "long key", "long key to put", "long value"],
)
async def test_edge_calls_longer_than_a_machine_lets_pass_are_not_made(stage: Stage, wanted: wire.WantsAnswer) -> None:
    calls = Edge()
    call, number = await stage.started(calls)
    await asyncio.to_thread(stage.worker.say, wire.CallSlice(number, wanted))
    with pytest.raises(AssertionError):  # what it hears is its end
        await stage.worker.hear()
    assert (await ending(call)).end is End.WORKER_DIED
    assert not calls.entered.is_set()


async def test_an_edge_call_of_a_kind_that_does_not_exist_is_enosys(stage: Stage) -> None:
    _, number = await stage.started()
    stage.worker.say(wire.CallSlice(number, wire.WantsAnswer("shutdown", b"x")))
    answer = await stage.worker.hear()
    assert isinstance(answer, wire.Continue)
    assert answer.answer == -38


async def test_an_answer_too_large_for_a_frame_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "MAX_ANSWER_BYTES", 6)
    _, number = await stage.started(Edge())
    stage.worker.say(wire.CallSlice(number, wire.WantsAnswer("fetch", b"x")))
    answer = await stage.worker.hear()
    assert isinstance(answer, wire.Continue)
    assert answer.answer == -90


async def test_a_worker_that_takes_nothing_in_does_not_block_the_monitor(stage: Stage) -> None:
    """A large answer stays in the monitor's memory, in order, until the worker reads."""
    calls = Edge()
    calls.answer = bytes(3_000_000)
    _, number = await stage.started(calls)
    stage.worker.say(wire.CallSlice(number, wire.WantsAnswer("fetch", b"x")))
    await calls.entered.wait()
    answer = await stage.worker.hear()
    assert isinstance(answer, wire.Continue)
    assert answer.answer == calls.answer


async def test_a_worker_that_dies_with_an_answer_half_sent(stage: Stage) -> None:
    calls = Edge()
    calls.answer = bytes(3_000_000)
    call, number = await stage.started(calls)
    stage.worker.say(wire.CallSlice(number, wire.WantsAnswer("fetch", b"x")))
    await calls.entered.wait()
    stage.worker.sock.close()
    assert (await ending(call)).end is End.WORKER_DIED


@pytest.mark.parametrize("failure", [WorkerLost("fork failed"), JailError("no seccomp")])
async def test_when_no_worker_can_be_started_requests_learn_why(stage: Stage, failure: Exception) -> None:
    stage.spawner.failure = failure
    outcome = await ending(begin(stage.monitor, "/ok"))
    assert outcome.end is End.WORKER_DIED
    assert str(failure) in outcome.detail
    stage.spawner.failure = None
    call, number = await stage.started()
    stage.worker.say(wire.CallSlice(number, DONE, b"ok"))
    assert (await ending(call)).end is End.FINISHED


async def test_a_worker_may_die_while_it_loads_and_its_program_is_blamed(stage: Stage) -> None:
    call = begin(stage.monitor, "/ok")
    await until(lambda: len(stage.spawner.given) > 1)
    assert isinstance(await stage.worker.hear(), wire.Load)
    stage.worker._channel.fds.close()
    stage.worker.sock.close()
    assert (await ending(call)).end is End.WORKER_DIED


async def test_usage_that_a_worker_invents_does_not_change_whose_cpu_it_was(stage: Stage) -> None:
    call, number = await stage.started()
    lie = Outcome(End.FINISHED, Usage(cpu_ns=10**14))
    stage.worker.say(wire.CallSlice(number, wire.Done(lie), b"ok"))
    assert (await ending(call)).end is End.FINISHED
    assert stage.monitor.status().generators[0].cpu_ns < 10**9
