"""The monitor with real workers and real guests: answers, limits, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sandbox import (
    DEFAULT_CLUSTER,
    ClusterShare,
    Convention,
    DispatchPolicy,
    EdgeCallRefused,
    End,
    GuestFailed,
    GuestRequest,
    ImageError,
    Isolation,
    Monitor,
    MonitorPolicy,
    Program,
    SandboxError,
    SiteShare,
)
from sandbox.limits import MILLISECOND_NS, SECOND_NS
from tests.integration.monitor_support import (
    BOOT_FAULTS,
    BOOT_SPINS,
    CGI,
    SLOW_BOOT,
    Edge,
    ask,
    begin,
    built,
    ending,
    get,
    limits,
    read,
    resident,
    until,
)


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    async with Monitor() as running:
        running.register("probe", resident(), limits(), tenant="shop")
        yield running


class TestAnswers:
    async def test_a_resident_program_answers_again_and_again_from_the_same_memory(self, monitor: Monitor) -> None:
        assert [await ask(monitor, "/count") for _ in range(5)] == [b"clean"] * 5

    async def test_a_cgi_program_gets_its_environment_and_body(self, monitor: Monitor) -> None:
        monitor.register("cgi", Program(built(CGI), Convention.CGI), limits(), tenant="shop")
        request = GuestRequest(((b"QUERY_STRING", b"a=1"),), b"body")
        for _ in range(3):
            assert await read(monitor.call("cgi", request, edge=Edge(), log=print)) == b"a=1 body"

    async def test_the_outcome_tells_what_was_used(self, monitor: Monitor) -> None:
        outcome = await ending(begin(monitor, "/log"))
        assert outcome.end is End.FINISHED
        assert outcome.usage.cpu_ns > 0
        assert outcome.usage.wall_ns >= outcome.usage.cpu_ns
        assert outcome.usage.log_bytes == len("one line")

    async def test_what_the_guest_logs_is_handed_over(self, monitor: Monitor) -> None:
        lines: list[bytes] = []
        await ending(monitor.call("probe", get("/log"), edge=Edge(), log=lines.append))
        assert b"".join(lines) == b"one line"

    async def test_a_log_receiver_that_fails_harms_nobody(self, monitor: Monitor) -> None:
        def fail(_: bytes) -> None:
            raise ValueError

        call = monitor.call("probe", get("/log"), edge=Edge(), log=fail)
        assert await read(call) == b"logged"

    async def test_a_large_body_reaches_the_guest(self, monitor: Monitor) -> None:
        assert await ask(monitor, "/length", body=bytes(1_000_000)) == b"1000000"

    async def test_an_output_larger_than_a_frame_arrives_whole(self, monitor: Monitor) -> None:
        assert len(b"".join([chunk async for chunk in begin(monitor, "/huge")])) == 3 << 20

    async def test_many_at_once_share_few_vms(self, monitor: Monitor) -> None:
        answers = await asyncio.gather(*(ask(monitor, "/ok") for _ in range(100)))
        assert answers == [b"ok"] * 100
        (status,) = monitor.status().generators
        assert status.ends == {End.FINISHED: 100}
        assert status.calls == 100
        assert 1 <= status.vms <= limits().vms
        assert status.active == status.queued == 0
        assert status.cpu_ns > 0

    async def test_a_boot_longer_than_a_slice_is_cut_into_slices_and_others_run_between(self, monitor: Monitor) -> None:
        monitor.register("slow", resident(SLOW_BOOT), limits(), tenant="shop")
        slow = asyncio.create_task(ask(monitor, "/", key="slow"))
        assert await ask(monitor, "/ok") == b"ok"
        assert await slow == b"booted"


class TestEdgeCalls:
    async def test_fetch_and_kv_are_answered_by_the_edge(self, monitor: Monitor) -> None:
        edge = Edge()
        assert await ask(monitor, "/fetch", edge=edge) == b"fetched"
        assert await ask(monitor, "/kv", edge=edge) == b"get -2 put 0 get 5"
        assert edge.kept == {b"k": b"value"}

    @pytest.mark.parametrize(("error", "number"), [(EdgeCallRefused(111, "refused"), 111), (ValueError("bug"), 5)])
    async def test_a_failure_becomes_an_errno(self, monitor: Monitor, error: Exception, number: int) -> None:
        edge = Edge()
        edge.answer = error
        assert await ask(monitor, "/fetch", edge=edge) == b"errno %d" % number

    async def test_an_edge_call_without_end_times_out_for_the_guest(self) -> None:
        policy = MonitorPolicy(dispatch=DispatchPolicy(edge_call_s=0.05))
        async with Monitor(policy) as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            edge = Edge()
            edge.release.clear()
            assert await ask(monitor, "/fetch", edge=edge) == b"errno 110"

    async def test_others_run_while_one_waits_for_the_edge(self, monitor: Monitor) -> None:
        edge = Edge()
        edge.release.clear()
        waiting = asyncio.create_task(ask(monitor, "/fetch", edge=edge))
        await edge.entered.wait()
        assert await ask(monitor, "/ok") == b"ok"
        edge.release.set()
        assert await waiting == b"fetched"


class TestLimits:
    async def fails(self, path: str, end: End, **changes: int) -> None:
        async with Monitor() as monitor:
            monitor.register("probe", resident(), limits(**changes), tenant="shop")
            assert await ask(monitor, "/ok") == b"ok"
            outcome = await ending(begin(monitor, path))
            assert outcome.end is end, outcome
            assert await ask(monitor, "/ok") == b"ok"
            assert monitor.status().workers_lost == 0

    async def test_cpu(self) -> None:
        await self.fails("/spin", End.CPU_LIMIT, cpu_ns=50 * MILLISECOND_NS)

    async def test_wall_while_running(self) -> None:
        await self.fails("/spin", End.WALL_LIMIT, wall_ns=SECOND_NS)

    async def test_wall_while_waiting_for_the_edge(self, monitor: Monitor) -> None:
        monitor.register("short", resident(), limits(wall_ns=SECOND_NS), tenant="shop")
        edge = Edge()
        edge.release.clear()
        outcome = await ending(begin(monitor, "/fetch", key="short", edge=edge))
        assert outcome.end is End.WALL_LIMIT
        assert outcome.usage.edge_calls == 1

    async def test_output(self) -> None:
        await self.fails("/flood", End.OUTPUT_LIMIT)

    async def test_fault(self) -> None:
        await self.fails("/fault", End.FAULT)

    async def test_no_answer(self) -> None:
        await self.fails("/silent", End.NO_ANSWER)

    async def test_exit(self) -> None:
        await self.fails("/exit", End.EXIT_STATUS)

    async def test_sub_requests(self) -> None:
        await self.fails("/fetch", End.EDGE_CALL_LIMIT, sub_requests=0)

    async def test_a_full_queue_refuses_at_once_and_the_rest_is_served(self, monitor: Monitor) -> None:
        monitor.register("narrow", resident(), limits(vms=1, queue=2), tenant="shop")
        edge = Edge()
        edge.release.clear()
        first = asyncio.create_task(ask(monitor, "/fetch", key="narrow", edge=edge))
        await edge.entered.wait()
        waiting = [asyncio.create_task(ask(monitor, "/ok", key="narrow")) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await ending(begin(monitor, "/ok", key="narrow"))).end is End.QUEUE_FULL
        edge.release.set()
        assert await asyncio.gather(first, *waiting) == [b"fetched", b"ok", b"ok"]

    async def test_a_queued_request_meets_its_deadline_too(self, monitor: Monitor) -> None:
        monitor.register("narrow", resident(), limits(vms=1, wall_ns=SECOND_NS), tenant="shop")
        edge = Edge()
        edge.release.clear()
        ends = await asyncio.gather(*(ending(begin(monitor, "/fetch", key="narrow", edge=edge)) for _ in range(2)))
        assert [outcome.end for outcome in ends] == [End.WALL_LIMIT] * 2

    @pytest.mark.parametrize("source", [BOOT_SPINS, BOOT_FAULTS])
    async def test_a_program_that_does_not_boot_fails_those_who_asked(self, monitor: Monitor, source: str) -> None:
        monitor.register("broken", resident(source), limits(boot_cpu_ns=50 * MILLISECOND_NS), tenant="shop")
        outcome = await ending(begin(monitor, "/", key="broken"))
        assert outcome.end is End.BOOT_FAILED
        assert outcome.detail
        assert await ask(monitor, "/ok") == b"ok"

    async def test_a_program_that_is_none_is_rejected_with_the_reason(self, monitor: Monitor) -> None:
        monitor.register("text", Program(b"#!/bin/sh\n", Convention.CGI), limits(), tenant="shop")
        outcome = await ending(begin(monitor, "/", key="text"))
        assert outcome.end is End.REJECTED
        assert "ELF" in outcome.detail

    async def test_an_unknown_generator_is_told(self, monitor: Monitor) -> None:
        with pytest.raises(GuestFailed) as failed:
            await ask(monitor, "/", key="nobody")
        assert failed.value.outcome.end is End.UNKNOWN_GENERATOR


class TestReaders:
    async def test_a_reader_that_stops_stops_the_guest_and_its_deadline(self) -> None:
        policy = MonitorPolicy(dispatch=DispatchPolicy(undelivered_bytes=100_000))
        async with Monitor(policy) as monitor:
            monitor.register("probe", resident(), limits(wall_ns=2 * SECOND_NS), tenant="shop")
            call = begin(monitor, "/stream")
            await until(lambda: call.state.value == "stalled")
            assert 100_000 < call.output_bytes <= 300_000
            await asyncio.sleep(2.5)  # longer than the deadline, which does not run for those who wait for a reader
            assert await ask(monitor, "/ok") == b"ok"
            received = sum([len(chunk) async for chunk in call])
            assert received == 64 * 65536

    async def test_a_reader_that_never_comes_back_is_given_up(self) -> None:
        policy = MonitorPolicy(dispatch=DispatchPolicy(undelivered_bytes=100_000, reader_s=0.1))
        async with Monitor(policy) as monitor:
            monitor.register("probe", resident(), limits(), tenant="shop")
            call = begin(monitor, "/stream")
            await until(lambda: call.outcome is not None)
            assert call.outcome is not None
            assert call.outcome.end is End.CANCELLED

    async def test_closing_ends_the_request_and_discards_its_vm(self, monitor: Monitor) -> None:
        call = begin(monitor, "/start-then-spin")
        assert await anext(call) == b"head"
        await call.aclose()
        await call.aclose()
        assert call.outcome is not None
        assert call.outcome.end is End.CANCELLED
        with pytest.raises(GuestFailed):
            await anext(call)
        await until(lambda: monitor.status().generators[0].active == 0)
        assert await ask(monitor, "/count") == b"clean"

    @pytest.mark.parametrize("path", ["/spin", "/fetch"])
    async def test_cancelling_the_reader_ends_the_request(self, monitor: Monitor, path: str) -> None:
        edge = Edge()
        edge.release.clear()
        call = begin(monitor, path, edge=edge)
        reader = asyncio.create_task(read(call))
        await until(lambda: monitor.status().generators[0].active == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert call.outcome is not None
        assert call.outcome.end is End.CANCELLED
        await until(lambda: monitor.status().generators[0].active == 0)
        assert await ask(monitor, "/ok") == b"ok"

    async def test_closing_a_request_that_still_waits_takes_it_from_the_queue(self, monitor: Monitor) -> None:
        calls = [begin(monitor, "/ok") for _ in range(3)]
        await calls[1].aclose()
        assert [(await ending(call)).end for call in calls] == [End.FINISHED, End.CANCELLED, End.FINISHED]


class TestVerification:
    async def test_a_good_program_is_verified_in_a_worker_that_is_thrown_away(self, monitor: Monitor) -> None:
        verification = await monitor.verify(resident(), limits(), get("/ok"))
        assert verification.boot.ok
        assert verification.sample.ok
        assert verification.output_head.endswith(b"ok")
        assert monitor.status().workers == ()

    async def test_what_cannot_be_loaded_raises(self, monitor: Monitor) -> None:
        with pytest.raises(ImageError, match="ELF"):
            await monitor.verify(Program(b"MZ", Convention.RESIDENT), limits(), get("/"))

    @pytest.mark.parametrize(
        ("source", "path", "end"),
        [(BOOT_FAULTS, "/", End.BOOT_FAILED), (None, "/fault", End.FAULT), (None, "/silent", End.NO_ANSWER)],
    )
    async def test_what_does_not_work_raises(self, monitor: Monitor, source: str | None, path: str, end: End) -> None:
        program = resident(source) if source else resident()
        with pytest.raises(GuestFailed) as failed:
            await monitor.verify(program, limits(), get(path))
        assert failed.value.outcome.end is end

    async def test_it_reaches_nothing(self, monitor: Monitor) -> None:
        assert (await monitor.verify(resident(), limits(), get("/fetch"))).output_head.endswith(b"errno 101")
        assert (await monitor.verify(resident(), limits(), get("/kv"))).output_head.endswith(b"get -2 put -28 get -2")


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


class TestRegistration:
    async def test_a_generator_that_is_unregistered_finishes_what_runs_and_takes_nothing_new(self, monitor: Monitor) -> None:
        edge = Edge()
        edge.release.clear()
        running = asyncio.create_task(ask(monitor, "/fetch", edge=edge))
        await edge.entered.wait()
        monitor.unregister("probe")
        assert (await ending(begin(monitor, "/ok"))).end is End.UNKNOWN_GENERATOR
        edge.release.set()
        assert await running == b"fetched"
        assert monitor.status().workers == ()
        monitor.unregister("probe")

    async def test_a_key_is_free_again_at_once(self, monitor: Monitor) -> None:
        edge = Edge()
        edge.release.clear()
        old = asyncio.create_task(ask(monitor, "/fetch", edge=edge))
        await edge.entered.wait()
        monitor.unregister("probe")
        monitor.register("probe", resident(SLOW_BOOT), limits(), tenant="shop")
        assert await ask(monitor, "/") == b"booted"
        edge.release.set()
        assert await old == b"fetched"
        (worker,) = monitor.status().workers
        assert worker.generators == 1

    async def test_a_key_in_use_is_refused(self, monitor: Monitor) -> None:
        with pytest.raises(ValueError, match="probe"):
            monitor.register("probe", resident(), limits(), tenant="shop")

    async def test_a_monitor_that_does_not_run_says_so(self) -> None:
        with pytest.raises(SandboxError):
            Monitor().register("probe", resident(), limits(), tenant="shop")

    async def test_with_isolation_by_generator_each_has_a_worker(self) -> None:
        async with Monitor(MonitorPolicy(isolation=Isolation.GENERATOR)) as monitor:
            for key in "ab":
                monitor.register(key, resident(), replace(limits(), vms=1), tenant="shop")
                assert await ask(monitor, "/ok", key=key) == b"ok"
            assert len({worker.pid for worker in monitor.status().workers}) == 2

    async def test_clusters_divide_the_machine_and_a_cap_holds_while_everything_runs(self) -> None:
        async with Monitor(MonitorPolicy(dispatch=DispatchPolicy(slots=1))) as monitor:
            monitor.set_cluster("gold", ClusterShare(3))
            for tenant, cluster in {"light": DEFAULT_CLUSTER, "heavy": "gold"}.items():
                monitor.register(tenant, resident(), limits(), tenant=tenant)
                monitor.set_tenant_share(tenant, SiteShare(1, cluster))
                assert await ask(monitor, "/ok", key=tenant) == b"ok"
            calls = [begin(monitor, "/spin", key=key) for key in ("light", "heavy")]

            def used() -> dict[str, int]:
                return {status.key: status.cpu_ns for status in monitor.status().generators}

            async def gained(cpu_ns: int) -> dict[str, int]:
                before = used()
                await until(lambda: sum(used().values()) - sum(before.values()) > cpu_ns)
                return {key: value - before[key] for key, value in used().items()}

            got = await gained(SECOND_NS)
            assert got["heavy"] == pytest.approx(3 * got["light"], rel=0.3)
            monitor.set_cluster("gold", ClusterShare(3, cap=5))
            started = asyncio.get_running_loop().time()
            got = await gained(SECOND_NS)
            passed_s = asyncio.get_running_loop().time() - started
            assert got["heavy"] <= (0.05 * passed_s + 0.005 + 4 * 0.005) * SECOND_NS
            monitor.remove_cluster("gold")
            got = await gained(SECOND_NS)
            assert got["heavy"] == pytest.approx(got["light"], rel=0.3)
            for call in calls:
                await call.aclose()
