"""Workers come, hang, die and go; whatever happens, the monitor serves on and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import (
    DispatchPolicy,
    End,
    GuestFailed,
    JailError,
    JailPolicy,
    Layer,
    Monitor,
    MonitorPolicy,
    PoolPolicy,
    QuarantinePolicy,
)
from sandbox.limits import MIB, SECOND_NS
from tests.integration.monitor_support import Edge, ask, begin, ending, limits, resident, until
from tests.integration.process_support import alive

ROOT = Path(__file__).resolve().parents[2]


def policy(**changes: object) -> MonitorPolicy:
    return MonitorPolicy(dispatch=DispatchPolicy(**changes))  # type: ignore[arg-type]


def workers(monitor: Monitor) -> list[int]:
    return [worker.pid for worker in monitor.status().workers]


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in found.split()]


async def running(monitor: Monitor) -> None:
    await until(lambda: any(worker.calls for worker in monitor.status().workers))


class TestDeath:
    async def test_the_request_whose_slice_ran_is_blamed_and_the_next_one_served(self) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            call = begin(monitor, "/spin")
            await running(monitor)
            os.kill(workers(monitor)[0], signal.SIGKILL)
            assert (await ending(call)).end is End.WORKER_DIED
            assert await ask(monitor, "/ok") == b"ok"
            status = monitor.status()
            assert (status.workers_started, status.workers_lost) == (2, 1)

    async def test_requests_that_had_sent_nothing_begin_again_elsewhere_once(self) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            edge = Edge()
            edge.release.clear()
            innocent = asyncio.create_task(ask(monitor, "/fetch", edge=edge))
            await edge.entered.wait()
            first = workers(monitor)[0]
            edge.entered.clear()
            os.kill(first, signal.SIGKILL)
            await edge.entered.wait()
            second = workers(monitor)[0]
            assert second != first
            os.kill(second, signal.SIGKILL)
            with pytest.raises(GuestFailed) as failed:
                await innocent
            assert failed.value.outcome.end is End.WORKER_DIED

    async def test_a_request_that_had_sent_something_is_not_repeated(self) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            edge = Edge()
            edge.release.clear()
            call = begin(monitor, "/start-then-spin", edge=edge)
            assert await anext(call) == b"head"
            await edge.entered.wait()
            os.kill(workers(monitor)[0], signal.SIGKILL)
            assert (await ending(call)).end is End.WORKER_DIED
            assert monitor.status().generators[0].ends == {End.WORKER_DIED: 1}

    async def test_another_sites_requests_do_not_notice(self) -> None:
        async with Monitor() as monitor:
            for tenant in ("bad", "good"):
                monitor.register(tenant, resident(), limits(), tenant=tenant)
            edge = Edge()
            edge.release.clear()
            good = asyncio.create_task(ask(monitor, "/fetch", key="good", edge=edge))
            await edge.entered.wait()
            pid = workers(monitor)[0]
            bad = begin(monitor, "/spin", key="bad")
            await until(lambda: sum(worker.calls for worker in monitor.status().workers) == 2)
            os.kill(next(other for other in workers(monitor) if other != pid), signal.SIGKILL)
            assert (await ending(bad)).end is End.WORKER_DIED
            edge.release.set()
            assert await good == b"fetched"

    async def test_a_worker_that_does_not_report_is_killed(self) -> None:
        async with Monitor(policy(hang_wall_s=0.5)) as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            call = begin(monitor, "/spin")
            await running(monitor)
            os.kill(workers(monitor)[0], signal.SIGSTOP)
            outcome = await ending(call)
            assert outcome.end is End.WORKER_DIED
            assert "did not report" in outcome.detail
            assert await ask(monitor, "/ok") == b"ok"

    async def test_when_the_zygote_dies_its_workers_do_and_another_is_started(self) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            assert await ask(monitor, "/ok") == b"ok"
            (zygote,) = children(os.getpid())
            worker = workers(monitor)[0]
            os.kill(zygote, signal.SIGKILL)
            await until(lambda: not alive(worker))
            await until(lambda: workers(monitor) == [])
            assert await ask(monitor, "/ok") == b"ok"


class TestQuarantine:
    async def test_who_keeps_killing_workers_waits_longer_and_longer_and_everybody_else_is_served(self) -> None:
        now = 1000.0
        rules = QuarantinePolicy(threshold=20, first_s=10, longest_s=300)
        async with Monitor(policy(quarantine=rules), clock=lambda: now) as monitor:
            monitor.register("bad", resident(), limits(), tenant="shop")
            monitor.register("good", resident(), limits(), tenant="shop")

            async def kill() -> None:
                call = begin(monitor, "/spin", key="bad")
                await running(monitor)
                os.kill(workers(monitor)[0], signal.SIGKILL)
                assert (await ending(call)).end is End.WORKER_DIED

            await kill()
            assert await ask(monitor, "/ok", key="bad") == b"ok"
            await kill()
            await kill()
            refused = await ending(begin(monitor, "/ok", key="bad"))
            assert refused.end is End.QUARANTINED
            assert await ask(monitor, "/ok", key="good") == b"ok"
            assert {status.key: status.quarantined_s for status in monitor.status().generators} == {"bad": 10, "good": 0}
            now += 10
            await kill()
            assert monitor.status().generators[0].quarantined_s == 20
            now += 20
            assert await ask(monitor, "/ok", key="bad") == b"ok"


class TestPlaces:
    async def test_with_one_place_every_tenant_is_served_in_turn(self) -> None:
        async with Monitor(policy(pool=PoolPolicy(max_workers=1))) as monitor:
            for tenant in "abc":
                monitor.register(tenant, resident(), limits(), tenant=tenant)
            calls = [ask(monitor, "/ok", key=tenant) for tenant in "abcabc"]
            assert await asyncio.gather(*calls) == [b"ok"] * 6
            assert len(workers(monitor)) <= 1

    async def test_a_tenant_that_is_always_busy_must_let_others_have_the_place(self) -> None:
        async with Monitor(policy(pool=PoolPolicy(max_workers=1, turn_s=0.1))) as monitor:
            for tenant in ("busy", "other"):
                monitor.register(tenant, resident(), limits(), tenant=tenant)
            stop = asyncio.Event()

            async def keep_busy() -> None:
                while not stop.is_set():
                    await ask(monitor, "/ok", key="busy")

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(keep_busy())
                await until(lambda: monitor.status().generators[0].ends.get(End.FINISHED, 0) > 8)
                assert await ask(monitor, "/ok", key="other") == b"ok"
                stop.set()

    async def test_an_idle_worker_is_ended_and_comes_back_when_it_is_needed(self) -> None:
        async with Monitor(policy(pool=PoolPolicy(idle_s=0.1))) as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            assert await ask(monitor, "/ok") == b"ok"
            (pid,) = workers(monitor)
            await until(lambda: not workers(monitor))
            await until(lambda: not alive(pid))
            assert await ask(monitor, "/ok") == b"ok"
            assert monitor.status().workers_lost == 0

    async def test_when_the_hot_budget_is_used_up_the_idle_worker_goes_and_everybody_is_served(self) -> None:
        async with Monitor(policy(pool=PoolPolicy(hot_bytes=32 * MIB, site_hot_bytes=32 * MIB))) as monitor:
            for tenant in "abc":
                monitor.register(tenant, resident(), limits(), tenant=tenant)
            for tenant in "abcabc":
                assert await ask(monitor, "/ok", key=tenant) == b"ok"
            assert monitor.status().parked > 0


class TestJail:
    async def test_every_worker_reports_its_jail(self) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            await ask(monitor, "/ok")
            (worker,) = monitor.status().workers
            assert worker.jail == monitor.jail
            assert set(worker.jail.active) | {missing.layer for missing in worker.jail.missing} == set(Layer)
            assert JailPolicy().required <= set(worker.jail.active)

    async def test_a_layer_that_is_required_and_cannot_be_had_stops_the_monitor(self) -> None:
        """Nobody may be user 0 in a worker: asking for that is a layer that cannot be had, for root as for anybody."""
        jail = JailPolicy(open_files=4) if os.geteuid() else JailPolicy(user_id=0)
        monitor = Monitor(MonitorPolicy(jail=jail))
        with pytest.raises(JailError, match="required"):
            await monitor.start()
        await monitor.close()


class TestEnd:
    async def test_closing_leaves_no_process_no_task_and_no_descriptor(self) -> None:
        fds = sorted(os.listdir("/proc/self/fd"))
        monitor = Monitor()
        await monitor.start()
        with pytest.raises(RuntimeError):
            await monitor.start()
        monitor.register("probe", resident(), limits(), tenant="shop")
        edge = Edge()
        edge.release.clear()
        calls = [begin(monitor, path, edge=edge) for path in ("/fetch", "/spin", "/ok", "/ok", "/ok", "/ok")]
        await edge.entered.wait()
        pids = [*workers(monitor), *children(os.getpid())]
        assert len(pids) == 2
        await monitor.close()
        await monitor.close()
        ends = {(await ending(call)).end for call in calls}
        assert ends <= {End.CANCELLED, End.FINISHED}
        assert not any(alive(pid) for pid in pids)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert sorted(os.listdir("/proc/self/fd")) == fds
        assert children(os.getpid()) == []

    async def test_closing_while_workers_start(self) -> None:
        monitor = Monitor()
        await monitor.start()
        for tenant in "abcd":
            monitor.register(tenant, resident(), limits(), tenant=tenant)
        calls = [begin(monitor, "/ok", key=tenant) for tenant in "abcd"]
        await asyncio.sleep(0)
        await monitor.close()
        assert {(await ending(call)).end for call in calls} == {End.CANCELLED}
        assert children(os.getpid()) == []

    async def test_when_the_edge_is_killed_zygote_and_workers_disappear(self) -> None:
        script = """
import asyncio, sys
from sandbox import Monitor
from tests.integration.monitor_support import begin, limits, resident, workers_of
async def main():
    async with Monitor() as monitor:
        for tenant in "ab":
            monitor.register(tenant, resident(), limits(), tenant=tenant)
        calls = [begin(monitor, "/spin", key=tenant) for tenant in "ab"]
        while sum(worker.calls for worker in monitor.status().workers) < 2:
            await asyncio.sleep(0.01)
        print(*(worker.pid for worker in monitor.status().workers), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
""".replace(", workers_of", "")
        resident()  # built before the clock runs
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, text=True) as edge:
            try:
                assert edge.stdout is not None
                line = await asyncio.to_thread(edge.stdout.readline)
                pids = [*map(int, line.split()), *children(edge.pid)]
                assert len(pids) == 3
                assert all(alive(pid) for pid in pids)
            finally:
                edge.kill()
        await until(lambda: not any(alive(pid) for pid in pids))

    async def test_the_zygote_inherits_neither_environment_nor_descriptors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGECACHE_TOKEN", "secret")
        read, write = os.pipe()
        os.set_inheritable(read, True)
        try:
            async with Monitor():
                (zygote,) = children(os.getpid())
                environ = Path(f"/proc/{zygote}/environ").read_bytes()
                assert {pair.split(b"=")[0] for pair in environ.split(b"\0") if pair} == {b"PYTHONPATH", b"LC_ALL"}
                opened = {os.readlink(f"/proc/{zygote}/fd/{fd}") for fd in os.listdir(f"/proc/{zygote}/fd")}
                assert f"pipe:[{os.fstat(read).st_ino}]" not in opened
                assert os.readlink(f"/proc/{zygote}/cwd") == "/"
                assert os.getpgid(zygote) == zygote != os.getpgrp(), "no key of a terminal reaches it"
        finally:
            os.close(read)
            os.close(write)


async def test_workers_step_back_behind_the_monitor_and_compete_in_its_session() -> None:
    """Elsewhere their niceness would be none of the monitor's: sched(7), autogroup."""
    async with Monitor() as monitor:
        monitor.register("probe", resident(), limits(), tenant="shop")
        assert await ask(monitor, "/ok") == b"ok"
        (worker,) = monitor.status().workers
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + JailPolicy().nice)
        assert os.getsid(worker.pid) == os.getsid(0)


async def test_a_thousand_calls_reach_only_a_few_processes() -> None:
    async with Monitor() as monitor:
        monitor.register("probe", resident(), limits(queue=1000, wall_ns=100 * SECOND_NS), tenant="shop")
        answers = await asyncio.gather(*(ask(monitor, "/ok") for _ in range(1000)))
        assert set(answers) == {b"ok"}
        assert monitor.status().workers_started == 1
