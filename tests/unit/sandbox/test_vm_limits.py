"""Every limit of a request, reached by a guest; and output that comes in pieces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.events import Ended, OutputFull, Preempted
from sandbox.limits import MILLISECOND_NS, SECOND_NS
from tests.unit.sandbox.machine_code import (
    DATA,
    FETCH,
    GET,
    LIMITS,
    LOG,
    LOOP,
    RAX,
    SYSCALL,
    call,
    exit_,
    finish,
    loaded,
    mov,
    put,
    run,
)


def test_a_loop_ends_at_the_cpu_limit(engine: str) -> None:
    limits = replace(LIMITS, cpu_ns=30 * MILLISECOND_NS)
    with loaded(LOOP, limits, engine=engine) as vm:
        vm.begin(GET, limits)
        first = vm.run(5 * MILLISECOND_NS)
        assert first.event == Preempted()
        assert first.cpu_ns >= 5 * MILLISECOND_NS
        result = finish(vm, 5 * MILLISECOND_NS)
        assert (result.end, result.outcome.detail) == ("cpu-limit", "more than 30 ms of CPU time")
        assert result.outcome.usage.cpu_ns >= 30 * MILLISECOND_NS
        with pytest.raises(RuntimeError):
            vm.run(1)


def test_a_flood_of_system_calls_ends_at_its_limit_or_the_cpus(engine: str) -> None:
    flood = mov(RAX, 39) + SYSCALL + b"\xeb\xf2"
    result = run(flood, limits=replace(LIMITS, system_calls=500), engine=engine)
    assert (result.end, result.outcome.usage.system_calls) == ("system-call-limit", 501)
    assert run(flood, limits=replace(LIMITS, cpu_ns=20 * MILLISECOND_NS), engine=engine).end == "cpu-limit"


def test_output_past_its_limit(engine: str) -> None:
    limits = replace(LIMITS, output_bytes=10)
    result = run(put(b"0123456789") + put(b"x") + exit_(), limits=limits, engine=engine)
    assert (result.end, result.output) == ("output-limit", b"0123456789")
    assert run(call(1, 1, DATA, 1 << 63) + exit_(), limits=limits, engine=engine).end == "output-limit"


def test_much_output_comes_in_pieces(engine: str) -> None:
    code = call(1, 1, DATA, 0x8000) * 5 + exit_()
    with loaded(code, engine=engine) as vm:
        vm.begin(GET, LIMITS)
        pieces = []
        while True:
            part = vm.run(SECOND_NS)
            pieces.append((type(part.event), len(part.output)))
            if isinstance(part.event, Ended):
                break
        assert pieces == [(OutputFull, 0x10000), (OutputFull, 0x10000), (Ended, 0x8000)]


def test_the_log_is_cut_and_counted(engine: str) -> None:
    result = run(
        call(1, 2, DATA, 600) + call(LOG, DATA, 600) + put(b"x") + exit_(), limits=replace(LIMITS, log_bytes=1000), engine=engine
    )
    usage = result.outcome.usage
    assert (len(result.log), usage.log_bytes, usage.log_dropped_bytes, usage.edge_calls) == (1000, 1000, 200, 1)


def test_edge_calls_past_their_limits(engine: str) -> None:
    log = call(LOG, DATA, 1)
    assert run(log * 4, limits=replace(LIMITS, edge_calls=3), engine=engine).end == "edge-call-limit"
    fetch = call(FETCH, DATA, 1, DATA, 8)
    result = run(fetch * 4, limits=replace(LIMITS, sub_requests=2), engine=engine)
    assert (result.end, len(result.asked)) == ("edge-call-limit", 2)
