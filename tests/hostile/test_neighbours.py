"""A neighbour waits for no more than its share, whatever a stranger does: told in the scheduler's accounts, not in seconds.

One slot, no express slices, two sites of equal weight: a stranger whose generators are at it all the time, and a neighbour with
short requests.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace

import pytest

from sandbox import DispatchPolicy, Monitor, MonitorPolicy
from sandbox.engines import ENGINES
from sandbox.limits import MIB, MILLISECOND_NS
from sandbox.outcome import End
from sandbox.program import Convention, Program
from sandbox.queueing.sharenode import Node
from sandbox.scheduler import NodePath
from tests.hostile.corpus import loop
from tests.hostile.test_corpus import LIMITS, NEIGHBOUR, PAGE, NoAnswers, available, ended
from tests.unit.sandbox.machine_code import RAX, RCX, RSI, SYSCALL, call, image, mov

STRANGERS = 8
REQUESTS = 20
_BLOCK = 4 * MIB
_FILL = (
    call(9, 0, _BLOCK, 3, 0x22, -1, 0)
    + b"\x48\x89\xc3\x48\x89\xc7"  # mov rbx, rax; mov rdi, rax
    + mov(RCX, _BLOCK)
    + b"\xf3\xaa\x48\x89\xdf"  # rep stosb; mov rdi, rbx
    + mov(RSI, _BLOCK)
    + mov(RAX, 11)
    + SYSCALL
)
KINDS = {
    "cpu": (loop(b""), End.CPU_LIMIT),
    "memory": (loop(_FILL), End.CPU_LIMIT),
    "calls": (loop(call(39)), End.SYSTEM_CALL_LIMIT),
    "faults": (b"\x0f\x0b", End.FAULT),
}
"""What the stranger's programs do, and how they end."""


@dataclass
class Accounts:
    """What has been charged, and to whom, while the neighbour had a request waiting."""

    waiting: bool = False
    charges: dict[str, list[int]] = field(default_factory=lambda: {"neighbour": [], "stranger": []})

    def note(self, path: NodePath, used_ns: int) -> None:
        if self.waiting and path[0] in self.charges:
            self.charges[path[0]].append(used_ns)


def watched(monitor: Monitor) -> Accounts:
    """Accounts that are kept from here on."""
    assert monitor._dispatcher is not None
    shares, accounts = monitor._dispatcher.shares, Accounts()
    charge = shares.charge

    def noted(leaf: Node, used_ns: int, now_ns: int, *, yielded: bool) -> object:
        accounts.note(leaf.path, used_ns)
        return charge(leaf, used_ns, now_ns, yielded=yielded)

    shares.charge = noted  # type: ignore[method-assign]
    return accounts


async def molest(monitor: Monitor, number: int, program: Program, ends: set[End]) -> None:
    """Call again and again. Who is put into quarantine comes back as somebody else."""
    limits = replace(LIMITS, cpu_ns=100 * MILLISECOND_NS, system_calls=500)
    for turn in itertools.count():
        key = f"stranger{number}.{turn}"
        monitor.register(key, program, limits, tenant="stranger")
        while (end := (await ended(monitor, key))[0].end) is not End.QUARANTINED:
            ends.add(end)
            await asyncio.sleep(0)
        monitor.unregister(key)


async def asked(monitor: Monitor) -> Accounts:
    """REQUESTS to the neighbour, one after another, once every stranger is at work."""
    while sum(generator.cpu_ns > 0 for generator in monitor.status().generators) <= STRANGERS:
        await asyncio.sleep(0.01)
    accounts = watched(monitor)
    for _ in range(REQUESTS):
        accounts.waiting = True
        outcome, output = await ended(monitor, "neighbour", NoAnswers())
        accounts.waiting = False
        assert (outcome.end, output) == (End.FINISHED, PAGE)
        await asyncio.sleep(0.005)  # the stranger has the slot when the next request comes
    return accounts


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "auto"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_neighbour_waits_for_no_more_than_its_share(kind: str, engine: str) -> None:
    if not available(engine):
        pytest.skip(f"no {engine} engine here")
    code, end = KINDS[kind]
    policy, program, ends = DispatchPolicy(slots=1, express=0), Program(image(code), Convention.CGI), set[End]()
    async with Monitor(MonitorPolicy(engine=engine, dispatch=policy)) as monitor:
        monitor.register("neighbour", NEIGHBOUR, LIMITS, tenant="neighbour")
        assert (await ended(monitor, "neighbour"))[1] == PAGE  # loaded and booted
        strangers = [asyncio.create_task(molest(monitor, number, program, ends)) for number in range(STRANGERS)]
        try:
            accounts = await asked(monitor)
            while end not in ends:
                await asyncio.sleep(0.01)
        finally:
            for task in strangers:
                task.cancel()
            await asyncio.gather(*strangers, return_exceptions=True)
    got, theirs = sum(accounts.charges["neighbour"]), accounts.charges["stranger"]
    assert theirs, "nobody was in the neighbour's way: the test means nothing"
    # Of each request: the slice that ran when it came, and one more at most; beyond that, what is charged to itself.
    longest = max(*theirs, policy.slice_ns)
    assert sum(theirs) <= got + policy.credit_ns + 2 * REQUESTS * longest
