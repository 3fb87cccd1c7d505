"""Jailed workers on the kvm engine: served, bounded, and as jailed as any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.dispatch.policies import MonitorPolicy
from sandbox.engines.kvm_probe import obstacle
from sandbox.errors import GuestFailed
from sandbox.jail import JailPolicy
from sandbox.limits import MILLISECOND_NS
from sandbox.monitor import Monitor
from sandbox.program import Convention
from tests.unit.sandbox.machine_code import DATA, GET, LIMITS, LOOP, RESPOND, call, program, serve

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"no kvm engine: {obstacle()}")


class NoEdge:
    """Nothing is asked of it here."""


async def answer(monitor: Monitor, key: str) -> bytes:
    body = b""
    async for piece in monitor.call(key, GET, edge=NoEdge(), log=lambda _: None):  # type: ignore[arg-type]
        body += piece
    return body


async def test_a_jailed_worker_serves_on_kvm_and_a_loop_ends_at_its_limit() -> None:
    limits = replace(LIMITS, cpu_ns=50 * MILLISECOND_NS, wall_ns=60_000 * MILLISECOND_NS)
    async with Monitor(MonitorPolicy(engine="kvm")) as monitor:
        assert JailPolicy().required <= set(monitor.jail.active)
        page = program(serve(call(RESPOND, DATA, 8)), Convention.RESIDENT)
        monitor.register("page", page, limits, tenant="site")
        monitor.register("loop", program(serve(LOOP), Convention.RESIDENT), limits, tenant="site")
        assert [await answer(monitor, "page") for _ in range(3)] == [bytes(8)] * 3
        with pytest.raises(GuestFailed, match="cpu-limit"):
            await answer(monitor, "loop")
        assert await answer(monitor, "page") == bytes(8)
