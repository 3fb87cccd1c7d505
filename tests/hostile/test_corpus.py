"""Every guest of the corpus, through the monitor and jailed workers: each to its named end, and its neighbour notices nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from edgecache.generate import cgi
from sandbox import DispatchPolicy, EngineUnavailable, GuestFailed, GuestRequest, Monitor, MonitorPolicy
from sandbox.engines import ENGINES
from sandbox.limits import DEFAULT_LIMITS, MILLISECOND_NS, SECOND_NS
from sandbox.monitor import NoEdge
from sandbox.outcome import End, Outcome
from sandbox.program import Convention, Program
from sandbox.vm import Vm, load
from tests.hostile.corpus import CORPUS, MEMORY, loop
from tests.unit.sandbox.machine_code import DATA, GET, KV_GET, RCX, RESPOND, call, exit_, image, mov, put, serve

LIMITS = replace(DEFAULT_LIMITS, memory_bytes=MEMORY, cpu_ns=5 * SECOND_NS, boot_cpu_ns=5 * SECOND_NS, wall_ns=60 * SECOND_NS)
NEIGHBOUR = Program(image(serve(call(RESPOND, DATA, 16)), b"neighbour's page"), Convention.RESIDENT)
PAGE = b"neighbour's page"


def available(engine: str) -> bool:
    """Told by running a guest."""
    template = load(Program(image(exit_()), Convention.CGI), LIMITS)
    try:
        Vm(template, engine).close()
    except (EngineUnavailable, OSError):
        return False
    finally:
        template.close()
    return True


@dataclass(frozen=True)
class Fate:
    outcome: Outcome
    output: bytes
    neighbour: bytes


class NoAnswers(NoEdge):
    """Refuses as an edge without a store would."""


async def ended(monitor: Monitor, key: str, edge: NoEdge | None = None) -> tuple[Outcome, bytes]:
    guest, output = monitor.call(key, GET, edge=edge or NoAnswers(), log=lambda _: None), b""
    try:
        async for chunk in guest:
            output += chunk
    except GuestFailed:
        pass
    assert guest.outcome is not None
    return guest.outcome, output


async def fates(engine: str) -> dict[str, Fate]:
    found: dict[str, Fate] = {}
    async with Monitor(MonitorPolicy(engine=engine)) as monitor:
        monitor.register("neighbour", NEIGHBOUR, LIMITS, tenant="neighbour")
        for name, guest in CORPUS.items():
            limits = replace(LIMITS, **guest.limits)
            monitor.register(name, Program(guest.image, guest.convention), limits, tenant="stranger")
            async with asyncio.timeout(60):
                outcome, output = await ended(monitor, name)
                found[name] = Fate(outcome, output, (await ended(monitor, "neighbour"))[1])
            monitor.unregister(name)
    return found


@pytest.fixture(scope="module", params=[engine for engine in ENGINES if engine != "auto"])
def played(request: pytest.FixtureRequest) -> tuple[str, dict[str, Fate]]:
    """Engine, and what became of each guest: the corpus runs once."""
    if not available(request.param):
        pytest.skip(f"no {request.param} engine here")
    return request.param, asyncio.run(fates(request.param))


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_guest_comes_to_its_named_end(played: tuple[str, dict[str, Fate]], name: str) -> None:
    engine, found = played
    guest, fate = CORPUS[name], found[name]
    end, detail = guest.expected(engine)
    assert fate.outcome.end is end, fate.outcome
    assert detail in fate.outcome.detail
    if guest.words is not None:
        assert fate.output == b"".join(word.to_bytes(8, "little", signed=True) for word in guest.words)
    if guest.output is not None:
        assert fate.output == guest.output
    if end in (End.FAULT, End.REJECTED, End.BOOT_FAILED):
        assert b"alive" not in fate.output
    assert fate.neighbour == PAGE


def test_the_corpus_is_large_and_its_kinds_are_many() -> None:
    ends = Counter(guest.end for guest in CORPUS.values())
    assert len(CORPUS) >= 60
    assert set(ends) >= {End.FAULT, End.CPU_LIMIT, End.WALL_LIMIT, End.MEMORY_LIMIT, End.OUTPUT_LIMIT, End.SYSTEM_CALL_LIMIT,
                         End.EDGE_CALL_LIMIT, End.NO_ANSWER, End.EXIT_STATUS, End.BOOT_FAILED, End.REJECTED}  # fmt: skip


class TestHeaders:
    """What a program writes as a head is parsed strictly: no byte of it becomes another header."""

    @pytest.mark.parametrize(
        "head",
        [
            b"Status: 200\r\nX: a\rSet-Cookie: b=c\r\n\r\n",
            b"Status: 200\r\nX: a\0b\r\n\r\n",
            b"Status: 200\r\nX: a\n b: c\r\n\r\n",
            b"Status: 200\r\nX : a\r\n\r\n",
            b"Status: 200 OK\x0b\r\n\r\n",
            b"Status: 200\r\nSet-Cookie\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\r\n\r\n",
            b"Status: 99\r\n\r\n",
            b"Status: 101 Switching\r\n\r\n",
            b"Status: 200\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"Status: 200\r\nContent-Length: +1\r\n\r\n",
            b"\xff\xfe: x\r\n\r\n",
            b": x\r\n\r\n",
            b"Status: 200\r\n" + b"X: a\r\n" * 129 + b"\r\n",
            b"X: " + b"a" * 40_000,
        ],
    )
    async def test_a_forged_head_is_a_bad_answer(self, head: bytes) -> None:
        async with Monitor() as monitor:
            monitor.register("forger", Program(image(put(head) + exit_()), Convention.CGI), LIMITS, tenant="stranger")
            _, output = await ended(monitor, "forger")
        assert output == head
        with pytest.raises(cgi.BadAnswer):
            cgi.parse(output)


class Rendezvous(NoEdge):
    """Holds each look-up until all that are expected have come: their VMs then exist side by side."""

    def __init__(self, expected: int) -> None:
        self._barrier = asyncio.Barrier(expected)

    async def kv_get(self, key: bytes) -> bytes | None:
        await self._barrier.wait()
        return None


async def test_two_machines_of_one_program_share_no_memory() -> None:
    """Each writes its request to the same address, waits until all have, and answers with what stands there."""
    frame = DATA + 0x1000
    work = call(KV_GET, frame, 8, DATA, 8) + call(RESPOND, frame, 256)
    async with Monitor() as monitor:
        monitor.register("race", Program(image(serve(work)), Convention.RESIDENT), replace(LIMITS, vms=4), tenant="stranger")
        for _ in range(3):
            meeting = Rendezvous(4)
            requests = [GuestRequest(((b"PATH_INFO", b"/"),), b"%d" % n * 64) for n in range(4)]
            calls = [monitor.call("race", request, edge=meeting, log=lambda _: None) for request in requests]
            answers = [b"".join([chunk async for chunk in guest]) for guest in calls]
            assert [answer.partition(b",")[2][:64] for answer in answers] == [b"%d" % n * 64 for n in range(4)]


async def test_a_deadline_passes_while_the_edge_does_not_answer() -> None:
    guest = Program(image(call(KV_GET, DATA, 8, DATA, 8) + put(b"x") + exit_()), Convention.CGI)
    async with Monitor() as monitor:
        monitor.register("waiter", guest, replace(LIMITS, wall_ns=200 * MILLISECOND_NS), tenant="stranger")
        outcome, output = await ended(monitor, "waiter", Rendezvous(2))
    assert (outcome.end, output) == (End.WALL_LIMIT, b"")


async def test_twenty_loops_take_no_more_than_their_share_from_a_neighbour() -> None:
    """In CPU time, not in seconds: while the neighbour had work, the strangers together got what it got, and a few slices."""
    work = mov(RCX, 30_000_000) + b"\x48\xff\xc9\x75\xfb" + call(RESPOND, DATA, 16)
    busy = Program(image(serve(work), PAGE), Convention.RESIDENT)
    spinner = Program(image(loop(b"")), Convention.CGI)
    policy = DispatchPolicy(slots=1)
    async with Monitor(MonitorPolicy(engine="unicorn", dispatch=policy)) as monitor:  # slow enough to be sliced everywhere
        monitor.register("neighbour", busy, LIMITS, tenant="neighbour")
        assert (await ended(monitor, "neighbour"))[1] == PAGE  # loaded and booted
        for n in range(20):
            monitor.register(f"loop{n}", spinner, replace(LIMITS, cpu_ns=50 * SECOND_NS), tenant="stranger")

        def used() -> tuple[int, int]:
            by_tenant = Counter[str]()
            for generator in monitor.status().generators:
                by_tenant[generator.tenant] += generator.cpu_ns
            return by_tenant["neighbour"], by_tenant["stranger"]

        loops = [asyncio.create_task(ended(monitor, f"loop{n}")) for n in range(20)]
        while any(generator.cpu_ns == 0 for generator in monitor.status().generators):
            await asyncio.sleep(0.01)
        before = used()
        assert (await ended(monitor, "neighbour"))[1] == PAGE
        neighbour, strangers = (after - was for after, was in zip(used(), before, strict=True))
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
    assert neighbour > 4 * policy.slice_ns, "the work must be longer than a few slices to mean anything"
    assert strangers <= neighbour + policy.credit_ns + 4 * policy.slice_ns
