from __future__ import annotations

import asyncio
from dataclasses import replace

from sandbox.dispatch.lane import Generator, Lane
from sandbox.dispatch.pacer import Pacer
from sandbox.dispatch.pacing import Flow
from sandbox.dispatch.quarantine import QuarantinePolicy, Score
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS
from sandbox.program import Convention, Program

LIMITS = replace(DEFAULT_LIMITS, edge_call_rate=2, rate_burst_ns=SECOND_NS // 2)
"""One edge call every half second, and one at once."""


def generator() -> Generator:
    program, record = Program(b"\x7fELF", Convention.CGI, "page"), Score(QuarantinePolicy())
    return Generator("page", 1, program, LIMITS, path=("site", "page"), weight=100, lane=Lane("site", "site"), record=record)


async def test_a_call_within_the_rate_waits_for_nothing_and_the_next_one_does() -> None:
    pacer, page = Pacer(lambda _: None), generator()
    assert pacer.turn(page, Flow.EDGE_CALLS) is None
    waiting = pacer.turn(page, Flow.EDGE_CALLS)
    assert waiting is not None
    assert not waiting.done()
    assert page.delayed == 1
    async with asyncio.timeout(10):
        await waiting
    pacer.close()


async def test_who_is_cancelled_gives_up_its_place() -> None:
    pacer, page = Pacer(lambda _: None), generator()
    assert pacer.turn(page, Flow.EDGE_CALLS) is None
    first, second = pacer.turn(page, Flow.EDGE_CALLS), pacer.turn(page, Flow.EDGE_CALLS)
    assert first is not None
    assert second is not None
    first.cancel()
    await asyncio.sleep(0)
    _, queue = page.ways[Flow.EDGE_CALLS]
    assert [ticket.amount for ticket in queue.waiting] == [1]
    async with asyncio.timeout(10):
        await second
    assert not queue.waiting
    pacer.close()
