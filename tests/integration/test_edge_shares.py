"""Promised and received, as an edge tells them, while VMs loop without end: shares follow weights, also those just changed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandbox.dispatch.policies import DispatchPolicy, MonitorPolicy, PoolPolicy
from sandbox.limits import MIB
from tests.integration.looping_edge import Here, looping_edge

pytestmark = pytest.mark.timeout(600)

NEAR = 0.08


async def settled(here: Here, group: str, expected: dict[str, float]) -> dict[str, Any]:
    """Once what was promised and what was received are both as expected: after a change, once the window has moved on."""
    wanted = {(name, what): part for name, part in expected.items() for what in ("promised", "received")}
    return await found(here, group, lambda rows: all(abs(rows[n][what] - part) <= NEAR for (n, what), part in wanted.items()))


async def found(here: Here, group: str, good: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    nobody = {"promised": 0.0, "received": 0.0}
    async with asyncio.timeout(120):
        while True:
            sandbox = await here.sandbox()
            if good(defaultdict(lambda: nobody, sandbox[group])):
                return sandbox
            await asyncio.sleep(0.2)


async def test_received_follows_promised_and_both_follow_a_live_change(tmp_path: Path) -> None:
    # One slot: two sites, each in a worker of its own, then compete for it whatever the machine has.
    policy = MonitorPolicy(dispatch=DispatchPolicy(slots=1))
    async with looping_edge(tmp_path, policy, {"heavy": {"cluster": 3}, "light": {"cluster": 1}}) as here:
        await _shares_follow(here)


async def _shares_follow(here: Here) -> None:
    loops = [asyncio.create_task(here.loop(name)) for name in ("heavy", "light")]
    try:
        for group, suffix in (("clusters", ""), ("sites", ""), ("generators", "/probe@1")):
            told = await settled(here, group, {f"heavy{suffix}": 0.75, f"light{suffix}": 0.25})
        assert told["clusters"]["heavy"]["weight"] == 3
        assert told["engine"] in {"unicorn", "kvm"}
        metrics = await here.call("GET", "/metrics")
        assert 'edgecache_cluster_cpu_promised_ratio{cluster="heavy"}' in metrics
        assert 'edgecache_site_cpu_received_ratio{site="light"}' in metrics

        await here.call("PATCH", "/v1/clusters/light", json={"weight": 9})
        await settled(here, "sites", {"heavy": 0.25, "light": 0.75})

        await here.call("PATCH", "/v1/clusters/light", json={"cap": 10})
        # Ten percent of one CPU: of what is given out that may be more, on a machine that is busy with other things, too.
        capped = await found(here, "clusters", lambda rows: _held_back(rows["light"]) and rows["heavy"]["promised"] > 0.6)
        assert capped["clusters"]["light"]["cap"] == 10
    finally:
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def _held_back(row: Mapping[str, float]) -> bool:
    return 0 < row["promised"] < 0.4 and abs(row["received"] - row["promised"]) <= NEAR


async def test_who_finds_no_room_in_memory_is_told_so_and_when_to_come_again(tmp_path: Path) -> None:
    pool = PoolPolicy(hot_bytes=4 * MIB, site_hot_bytes=4 * MIB)  # room for one worker, and never for two
    policy = MonitorPolicy(dispatch=DispatchPolicy(pool=pool))
    async with looping_edge(tmp_path, policy, {"busy": {}, "late": {}}, wall="101s") as here:
        await here.call("PATCH", "/v1/sites/late", json={"ceiling": {"cpu": "100ms", "wall": "2s"}})
        loop = asyncio.create_task(here.loop("busy"))
        try:
            async with asyncio.timeout(60):
                while (await here.sandbox())["generators"].get("busy/probe@1", {"active": 0})["active"] == 0:
                    await asyncio.sleep(0.05)
            status, text, headers = await here.get("late", "/g/ok")
            assert (status, headers.get("Retry-After")) == (503, "2"), text
            assert "no-memory" in headers["Cache-Status"]
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)


async def test_a_nul_in_the_path_is_refused_before_any_program_sees_it(tmp_path: Path) -> None:
    async with looping_edge(tmp_path, MonitorPolicy(), {"shop": {}}) as here:
        status, text, headers = await here.get("shop", "/g/ok%00/../secret")
        assert (status, "nul-in-path" in headers["Cache-Status"]) == (400, True), text
        assert (await here.get("shop", "/g/ok?a=%00b"))[:2] == (200, "ok a=%00b")
