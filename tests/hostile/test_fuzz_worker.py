"""Invariant: whatever a worker that was taken over sends, its own site's requests end, and other sites' are answered.

Seeded sequences of true reports, reports out of turn, lies, cut frames and noise, from a process that speaks the protocol.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable

import pytest

from sandbox import End, Monitor, MonitorPolicy, Outcome, Usage
from sandbox.channel import wire
from sandbox.channel.frames import frame
from sandbox.dispatch.spawner import Spawner, WorkerHandle
from sandbox.jail import JailReport
from tests.integration.monitor_support import ask, begin, ending, limits, resident
from tests.integration.test_monitor_hostile import Impostor, Impostors

SEEDS = range(12)
LIMITS = limits(output_bytes=10_000, log_bytes=100, edge_calls=20, sub_requests=5)


def outcome(chance: random.Random) -> Outcome:
    usage = Usage(cpu_ns=chance.choice([0, -1, 1 << 62]), unknown_calls=tuple(range(chance.choice([0, 16, 10_000]))))
    return Outcome(chance.choice(list(End)), usage, chance.choice(["", "x" * 100_000, "\x1b[2J\r\nforged: line"]))


def report(chance: random.Random, call: int) -> bytes:
    """One thing that a worker may say; most are frames."""
    number = chance.choice([call, call, call, call + 1, 0, (1 << 63) - 1])
    sayings: list[Callable[[], wire.FromWorker]] = [
        lambda: wire.CallSlice(number, wire.WantsMore(), chance.randbytes(chance.choice([0, 10, 5_000])), chance.randbytes(20)),
        lambda: wire.CallSlice(number, wire.WantsAnswer(chance.choice(["fetch", "kv-get", "kv-put", "", "exit"]), b"k", b"v")),
        lambda: wire.CallSlice(number, wire.Done(outcome(chance))),
        lambda: wire.Piece(number, bytes(chance.choice([0, 1, 4096]))),
        lambda: wire.BootSlice(1, outcome(chance), chance.random() < 0.5),
        lambda: wire.Loaded(1, chance.random() < 0.5),
        lambda: wire.Rejected(1, "\0" * 1000),
        lambda: wire.Hello(JailReport((), ())),
        lambda: wire.Refused("\n" * 1000),
    ]
    data = bytes(frame(chance.choice(sayings)()))
    match chance.randrange(12):
        case 0:
            return data[: chance.randrange(len(data))]
        case 1:
            spoiled = bytearray(data)
            spoiled[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            return bytes(spoiled)
        case 2:
            return struct.pack("<I", chance.getrandbits(32)) + chance.randbytes(50)
        case 3:
            return struct.pack("<I", 4000) + b"\x92" * 4000  # nested without end
        case _:
            return data


class Mixed(Impostors):
    """The first worker that is asked for when `armed` is an impostor; the others are real."""

    armed = False

    async def spawn(self) -> WorkerHandle:
        if self.armed:
            self.armed = False
            return await super().spawn()
        return await Spawner.spawn(self)


async def converse(impostor: Impostor, chance: random.Random) -> None:
    """Behave until there is a request, then say anything; end by closing."""
    load = await impostor.hear()
    assert isinstance(load, wire.Load)
    impostor._channel.fds.close()
    impostor.say(wire.Loaded(load.program, False))
    start = await impostor.hear()
    assert isinstance(start, wire.Start)
    for _ in range(30):
        try:
            await asyncio.to_thread(impostor.sock.sendall, report(chance, start.call))
        except OSError:
            return  # killed, as it should be
        await asyncio.sleep(0)
    impostor.sock.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_worker_that_says_anything_harms_its_own_site_alone(seed: int) -> None:
    chance = random.Random(seed)
    monitor, spawner = Monitor(MonitorPolicy(engine="unicorn")), Mixed()
    monitor._spawner = spawner
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
    await monitor.start()
    try:
        monitor.register("probe", resident(), LIMITS, tenant="taken")
        monitor.register("other", resident(), limits(), tenant="other")
        spawner.armed = True
        call = begin(monitor, "/ok")
        async with asyncio.timeout(30):
            while not spawner.given:
                await asyncio.sleep(0.001)
            talk = asyncio.create_task(converse(spawner.given[0], chance))
            assert await ask(monitor, "/ok", key="other") == b"ok"
            await talk
            ended = await ending(call)
            assert len(ended.detail) <= 500
            assert ended.detail.isprintable()
            assert await ask(monitor, "/ok", key="other") == b"ok"
        generator = next(row for row in monitor.status().generators if row.key == "probe")
        assert generator.cpu_ns >= 0
        assert problems == []
    finally:
        await monitor.close()
        for impostor in spawner.given:
            impostor.close()
