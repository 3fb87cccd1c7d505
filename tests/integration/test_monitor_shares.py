"""Weights and caps, as real guests get them."""

from __future__ import annotations

import asyncio
import time

import pytest

from sandbox import (
    DispatchPolicy,
    Monitor,
    MonitorPolicy,
    SiteShare,
)
from sandbox.limits import SECOND_NS
from tests.integration.monitor_support import (
    ask,
    begin,
    limits,
    read,
    resident,
    until,
)


class TestShares:
    async def test_two_busy_sites_share_one_cpu_by_weight(self) -> None:
        async with Monitor(MonitorPolicy(dispatch=DispatchPolicy(slots=1))) as monitor:
            for tenant, weight in {"light": 100, "heavy": 300}.items():
                monitor.register(tenant, resident(), limits(), tenant=tenant)
                monitor.set_tenant_share(tenant, SiteShare(weight))
                assert await ask(monitor, "/ok", key=tenant) == b"ok"
            before = {status.key: status.cpu_ns for status in monitor.status().generators}
            calls = [begin(monitor, "/spin", key=key) for key in before]

            def used(key: str) -> int:
                return next(status.cpu_ns for status in monitor.status().generators if status.key == key) - before[key]

            await until(lambda: used("light") + used("heavy") > SECOND_NS)
            assert used("heavy") == pytest.approx(3 * used("light"), rel=0.3)
            for call in calls:
                await call.aclose()

    async def test_cpu_time_of_many_short_requests_is_charged_to_whose_they_were(self) -> None:
        async with Monitor() as monitor:
            keys = ["one", "other"]
            for key in keys:
                monitor.register(key, resident(), limits(), tenant="shop")
            told = dict.fromkeys(keys, 0)
            for turn in range(100):
                key = keys[turn % 3 == 0]
                call = begin(monitor, "/ok", key=key)
                assert await read(call) == b"ok"
                assert call.outcome is not None
                told[key] += call.outcome.usage.cpu_ns
            status = monitor.status()
            used = {generator.key: generator.cpu_ns for generator in status.generators}
            (worker,) = status.workers
            assert all(used.values())
            assert sum(told.values()) <= sum(used.values()) <= worker.cpu_ns

    async def test_a_generators_own_cap_holds_whatever_is_idle(self) -> None:
        async with Monitor(MonitorPolicy(dispatch=DispatchPolicy(slots=1))) as monitor:
            monitor.register("capped", resident(), limits(cpu_share=10), tenant="shop")
            assert await ask(monitor, "/ok", key="capped") == b"ok"
            (status,) = monitor.status().generators
            assert status.cap == 10
            started, before = time.monotonic(), status.cpu_ns
            call = begin(monitor, "/spin", key="capped")
            await asyncio.sleep(1.5)
            used = monitor.status().generators[0].cpu_ns - before
            burst = SECOND_NS // 100 + DispatchPolicy().slice_ns
            assert 0 < used <= (time.monotonic() - started) * SECOND_NS // 10 + burst + 2 * DispatchPolicy().slice_ns
            await call.aclose()

    async def test_weights_change_while_running(self, monitor: Monitor) -> None:
        monitor.set_weight("probe", 7)
        assert monitor.status().generators[0].weight == 7
        with pytest.raises(ValueError, match="weight"):
            monitor.set_weight("probe", 0)
        with pytest.raises(KeyError):
            monitor.set_weight("nobody", 1)
