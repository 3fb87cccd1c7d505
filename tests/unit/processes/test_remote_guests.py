"""A guest's call over the channel, both ends real, on a real stream: order, credit, cancelling, and the leader's end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edgecache.processes import messages
from edgecache.processes.channel import Channel
from edgecache.processes.guests import GuestHost, GuestPort
from edgecache.processes.remote_guests import CREDIT_BYTES, RemoteCall, RemoteGuests
from edgecache.source import SourceError
from sandbox import EdgeCalls, End, GuestFailed, GuestRequest, Outcome, Usage

REQUEST = GuestRequest(((b"REQUEST_METHOD", b"GET"),), b"body")


class Guest:
    """What runs in place of a VM: says `chunks`, asks for a sub-request where it is to."""

    def __init__(self, chunks: list[bytes], edge: EdgeCalls, fetch: bytes | None, end: End) -> None:
        self.outcome: Outcome | None = None
        self.taken = 0
        self.closed = False
        self._chunks = chunks
        self._edge = edge
        self._fetch = fetch
        self._end = end

    def __aiter__(self) -> Guest:
        return self

    async def __anext__(self) -> bytes:
        if self._fetch is not None:
            data, self._fetch = self._fetch, None
            return await self._edge.fetch(data)
        if self.taken < len(self._chunks):
            self.taken += 1
            return self._chunks[self.taken - 1]
        self.outcome = Outcome(self._end, Usage(cpu_ns=7))
        if self._end is End.FINISHED:
            raise StopAsyncIteration
        raise GuestFailed(self.outcome)

    async def aclose(self) -> None:
        self.closed = True


class Runner:
    """Implements `generate.bridge.GuestRunner`."""

    def __init__(self, chunks: list[bytes], *, fetch: bytes | None = None, end: End = End.FINISHED) -> None:
        self._chunks, self._fetch, self._end = chunks, fetch, end
        self.guests: list[Guest] = []
        self.requests: list[GuestRequest] = []

    def call(self, key: str, request: GuestRequest, *, edge: EdgeCalls, log: Callable[[bytes], None]) -> Guest:
        assert key == "shop/hello@3"
        log(b"a line")
        self.requests.append(request)
        self.guests.append(Guest(self._chunks, edge, self._fetch, self._end))
        return self.guests[-1]


class Logs:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int, str, bytes]] = []

    def of(self, site: str, generator: str) -> Log:
        return Log(self, site, generator)


class Log:
    def __init__(self, logs: Logs, site: str, generator: str) -> None:
        self._logs, self._site, self._generator = logs, site, generator

    def write(self, version: int, request_id: str, data: bytes) -> None:
        self._logs.lines.append((self._site, self._generator, version, request_id, data))


class Edge:
    """The edge calls of one request, in the serving process."""

    async def fetch(self, data: bytes) -> bytes:
        return b"fetched " + data

    async def kv_get(self, key: bytes) -> bytes | None:
        raise AssertionError("the leader keeps values")

    async def kv_put(self, key: bytes, value: bytes) -> bool:
        raise AssertionError("the leader keeps values")


class Values:
    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None:
        return None

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        return True


class Both:
    """Both ends of one channel."""

    def __init__(self, runner: Runner) -> None:
        self.logs = Logs()
        self.leader = Channel(messages.TO_LEADER, messages.TO_LEADER_BYTES, self._to_leader, _nothing)
        self.serving = Channel(messages.TO_SERVING, messages.TO_SERVING_BYTES, self._to_serving, self._lost)
        self.guests = RemoteGuests(self.serving.send)
        self.port = GuestPort(GuestHost(runner, Values(), self.logs, _ready, lambda _: True), self.leader.send)

    def _to_leader(self, message: Any) -> None:
        self.port.receive(message)

    def _to_serving(self, message: Any) -> None:
        self.guests.receive(message)

    def _lost(self) -> None:
        self.guests.lose()

    def call(self) -> RemoteCall:
        return self.guests.begin("shop/hello@3", REQUEST, Edge(), "id-1")


def _nothing() -> None:
    return


async def _ready(key: str) -> None:
    if key != "shop/hello@3":
        raise GuestFailed(Outcome(End.UNKNOWN_GENERATOR, Usage()))


@contextlib.asynccontextmanager
async def joined(runner: Runner) -> AsyncIterator[Both]:
    both = Both(runner)
    ours, theirs = socket.socketpair()
    await both.leader.connected(ours)
    await both.serving.connected(theirs)
    try:
        yield both
    finally:
        await both.port.close()
        both.leader.close()
        both.serving.close()
        await both.leader.ended(5)
        await both.serving.ended(5)
        await both.guests.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_answer_arrives_in_order_and_with_its_outcome() -> None:
    chunks = [bytes([number]) * 50_000 for number in range(40)]
    runner = Runner(chunks)
    async with joined(runner) as both:
        call = both.call()
        assert b"".join([chunk async for chunk in call]) == b"".join(chunks)
        assert call.outcome == Outcome(End.FINISHED, Usage(cpu_ns=7))
        assert runner.requests == [REQUEST]
        assert both.logs.lines == [("shop", "hello", 3, "id-1", b"a line")]
        assert runner.guests[0].closed


async def test_a_reader_that_does_not_read_holds_the_guest_back() -> None:
    runner = Runner([b"x" * 50_000] * 100)
    async with joined(runner) as both:
        call = both.call()
        await until(lambda: bool(runner.guests) and runner.guests[0].taken * 50_000 > CREDIT_BYTES)
        await asyncio.sleep(0.1)
        assert runner.guests[0].taken * 50_000 <= CREDIT_BYTES + 50_000
        assert len(b"".join([chunk async for chunk in call])) == 5_000_000


async def test_the_edges_own_line_reaches_the_log_that_the_leader_keeps() -> None:
    async with joined(Runner([])) as both:
        both.serving.send(messages.Noted("shop/hello@3", "id-1", b"edge: failed\n"))
        await until(lambda: bool(both.logs.lines))
        assert both.logs.lines == [("shop", "hello", 3, "id-1", b"edge: failed\n")]


async def test_a_sub_request_is_answered_by_the_process_that_asked() -> None:
    async with joined(Runner([b"!"], fetch=b"GET /")) as both:
        assert b"".join([chunk async for chunk in both.call()]) == b"fetched GET /!"


async def test_a_guest_that_fails_says_how() -> None:
    async with joined(Runner([b"part"], end=End.CPU_LIMIT)) as both:
        call = both.call()
        assert await anext(call) == b"part"
        with pytest.raises(GuestFailed) as failed:
            await anext(call)
        assert failed.value.outcome.end is End.CPU_LIMIT


async def test_what_is_not_wanted_any_more_ends() -> None:
    runner = Runner([b"x" * 50_000] * 100)
    async with joined(runner) as both:
        call = both.call()
        await anext(call)
        await call.aclose()
        await call.aclose()
        await until(lambda: runner.guests[0].closed)


async def test_without_a_leader_every_call_ends_by_one_name() -> None:
    runner = Runner([b"x" * 50_000] * 100)
    async with joined(runner) as both:
        call = both.call()
        await anext(call)
        both.leader.close()
        with pytest.raises(SourceError) as gone:
            async for _ in call:
                pass
        assert (gone.value.reason, gone.value.status) == ("leader-gone", 503)
        with pytest.raises(SourceError, match="leader-gone"):
            both.call()
