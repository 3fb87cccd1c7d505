"""The tasks that check origins: shared, bounded, ended with what they check. Time passes when told to."""

from __future__ import annotations

import asyncio
import logging

import pytest

from edgecache.policy.upstream import HealthRule
from edgecache.upstream.checking import Checks
from edgecache.upstream.endpoint import Endpoint
from tests.integration.proxy_support import Ticks, until

A, B = Endpoint("http://a"), Endpoint("http://b")
RULE = HealthRule(interval=5.0, rise=1, fall=2)


class Probe:
    """Answers as it is told, and remembers whom it was asked to probe."""

    def __init__(self) -> None:
        self.bad: set[Endpoint] = set()
        self.asked: list[tuple[Endpoint, HealthRule]] = []
        self.blocked: asyncio.Event | None = None

    async def __call__(self, endpoint: Endpoint, rule: HealthRule) -> bool:
        self.asked.append((endpoint, rule))
        if self.blocked is not None:
            await self.blocked.wait()
        return endpoint not in self.bad


async def round_of(ticks: Ticks, probe: Probe, tasks: int) -> None:
    """Let every task check once."""
    await until(lambda: ticks.waiting == tasks)
    before = len(probe.asked)
    ticks.advance(RULE.interval * 1.1)
    await until(lambda: len(probe.asked) == before + tasks and ticks.waiting == tasks)


async def test_an_origin_goes_down_and_comes_up_again() -> None:
    probe, ticks = Probe(), Ticks()
    checks = Checks(probe, limit=10, pause=ticks.pause)
    checks.follow([(A, RULE), (B, RULE)])
    probe.bad.add(A)
    await round_of(ticks, probe, 2)
    assert not checks.down(A, RULE)
    await round_of(ticks, probe, 2)
    assert checks.down(A, RULE)
    assert not checks.down(B, RULE)
    probe.bad.clear()
    await round_of(ticks, probe, 2)
    assert not checks.down(A, RULE)
    await checks.close()


async def test_sites_that_want_the_same_share_one_task() -> None:
    probe, ticks = Probe(), Ticks()
    checks = Checks(probe, limit=10, pause=ticks.pause)
    checks.follow([(A, RULE), (A, RULE), (A, HealthRule(path="/other"))])
    assert len(checks) == 2
    await checks.close()


async def test_what_nobody_wants_any_more_is_not_checked_and_its_verdict_is_forgotten() -> None:
    probe, ticks = Probe(), Ticks()
    checks = Checks(probe, limit=10, pause=ticks.pause)
    probe.bad.add(A)
    checks.follow([(A, RULE), (B, RULE)])
    for _ in range(2):
        await round_of(ticks, probe, 2)
    assert checks.down(A, RULE)
    checks.follow([(B, RULE)])
    assert len(checks) == 1
    assert not checks.down(A, RULE)
    await round_of(ticks, probe, 1)
    assert probe.asked[-1] == (B, RULE)
    await checks.close()


async def test_a_probe_under_way_ends_with_its_task() -> None:
    probe, ticks = Probe(), Ticks()
    probe.blocked = asyncio.Event()
    checks = Checks(probe, limit=10, pause=ticks.pause)
    checks.follow([(A, RULE)])
    await until(lambda: ticks.waiting == 1)
    ticks.advance(1.0)
    await until(lambda: bool(probe.asked))
    await checks.close()
    assert len(asyncio.all_tasks()) == 1


async def test_a_probe_that_raises_is_a_failed_check_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Probe):
        async def __call__(self, endpoint: Endpoint, rule: HealthRule) -> bool:
            await super().__call__(endpoint, rule)
            raise RuntimeError("no probe of mine")

    probe, ticks = Broken(), Ticks()
    checks = Checks(probe, limit=10, pause=ticks.pause)
    checks.follow([(A, RULE)])
    for _ in range(RULE.fall):
        await round_of(ticks, probe, 1)
    assert checks.down(A, RULE)
    assert "no probe of mine" in caplog.text
    await checks.close()


async def test_beyond_the_limit_origins_are_not_checked_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    checks = Checks(Probe(), limit=1, pause=Ticks().pause)
    with caplog.at_level(logging.ERROR):
        checks.follow([(A, RULE), (B, RULE)])
    assert len(checks) == 1
    assert "1 origins are not checked" in caplog.text
    await checks.close()
    checks.follow([(A, RULE)])
    assert len(checks) == 0
