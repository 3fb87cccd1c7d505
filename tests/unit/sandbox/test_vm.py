"""A VM's life: both conventions, every way to end, and nothing left over between requests."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from sandbox.events import Booted, Ended, HostCall, HostCallKind, OutputFull, Preempted
from sandbox.guest.edge_calls import MAX_KEY
from sandbox.limits import MIB, MILLISECOND_NS, SECOND_NS
from sandbox.outcome import End
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest, cgi_environ, scgi_frame
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    DATA_BYTES,
    FETCH,
    FINISH,
    GET,
    KV_GET,
    KV_PUT,
    LIMITS,
    LOG,
    NEXT_REQUEST,
    RAX,
    RBX,
    RDI,
    RDX,
    RESPOND,
    RODATA,
    RSI,
    SYSCALL,
    TEXT,
    boot,
    call,
    call_with_result,
    dump,
    exit_,
    finish,
    image,
    mov,
    program,
    put,
    run,
    serve,
    serve_once,
    store_rax,
)

LOOP = b"\xeb\xfe"
ECHO = b"\x48\x89\xc6" + mov(RDI, DATA + 0x1000) + mov(RAX, RESPOND) + SYSCALL
"""Respond with the request as it came."""


def test_cgi_finishes_with_status_zero_and_output(engine: str) -> None:
    result = run(put(b"Status: 200\n\nhello") + exit_(), engine=engine)
    assert (result.end, result.output) == ("finished", b"Status: 200\n\nhello")
    assert result.outcome.usage.output_bytes == 18
    assert result.outcome.usage.system_calls == 2
    assert result.outcome.usage.pages_written >= 1
    assert result.outcome.usage.cpu_ns > 0


def test_cgi_without_output_is_no_answer(engine: str) -> None:
    assert run(exit_(), engine=engine).end == "no-answer"


def test_cgi_with_a_status_is_a_failure_even_with_output(engine: str) -> None:
    result = run(put(b"half") + exit_(3), engine=engine)
    assert (result.end, result.outcome.detail) == ("exit-status", "it exited with status 3")


def test_cgi_reads_its_environment_from_the_stack_and_its_body_from_stdin(engine: str) -> None:
    request = GuestRequest(((b"REQUEST_METHOD", b"POST"), (b"CONTENT_LENGTH", b"999")), b"name=value")
    # the stack's first words: argc, argv[0], NULL, envp[0], envp[1], …
    code = b"\x48\x8b\x74\x24\x18" + mov(RDI, 1) + mov(RDX, 17) + mov(RAX, 1) + SYSCALL
    code += b"\x48\x8b\x74\x24\x20" + mov(RDI, 1) + mov(RDX, 20) + mov(RAX, 1) + SYSCALL
    code += call(0, 0, DATA, 100) + b"\x48\x89\xc2" + mov(RSI, DATA) + mov(RDI, 1) + mov(RAX, 1) + SYSCALL + exit_()
    result = run(code, request, engine=engine)
    assert result.output == b"CONTENT_LENGTH=10" + b"REQUEST_METHOD=POST\0" + b"name=value"


def test_the_stack_is_as_the_abi_wants_it(engine: str) -> None:
    template = load(program(exit_(), args=("-v",), env=(("LANG", "C"),)), LIMITS)
    vm = Vm(template, engine)
    vm.begin(GET, LIMITS)
    pointer = vm._vcpu.save().gprs[7]
    read = vm._process.access.read
    assert pointer % 16 == 0
    top = template.loaded.space.stack_top
    words = list(struct.unpack(f"<{(top - pointer) // 8}Q", read(pointer, (top - pointer) // 8 * 8)))
    assert words[0] == 2
    assert [read(a, 8).split(b"\0")[0] for a in words[1:3]] == [b"program", b"-v"]
    assert words[3] == 0
    assert words[7] == 0
    assert [vm._process.access.read_path(a) for a in words[4:7]] == [b"LANG=C", b"REQUEST_METHOD=GET", b"PATH_INFO=/"]
    vector = dict(zip(words[8::2], words[9::2], strict=False))
    assert vector[6] == 4096
    assert vector[9] == template.cpu.rip
    assert len(set(read(vector[25], 16))) > 4
    vm.close()
    template.close()


def test_secrets_differ_between_forks(engine: str) -> None:
    """AT_RANDOM (by way of the stack) and getrandom are fresh at every request."""
    code = call(318, DATA, 16, 0) + call(1, 1, DATA, 16) + exit_()
    template = load(program(code), LIMITS)
    seen, random = set(), set()
    for _ in range(5):
        vm = Vm(template, engine)
        vm.begin(GET, LIMITS)
        stack = vm._process.access.read(template.loaded.space.stack_top - 64, 64)
        random.add(stack)
        seen.add(finish(vm).output)
        vm.reset()
        vm.begin(GET, LIMITS)
        seen.add(finish(vm).output)
        vm.close()
    template.close()
    assert len(seen) == 10
    assert len(random) == 5


def test_variables_that_do_not_fit_the_stack_end_the_request(engine: str) -> None:
    big = GuestRequest(((b"HTTP_COOKIE", b"x" * MIB),))
    assert run(exit_(), big, engine=engine).end == "memory-limit"


def test_resident_boots_once_and_answers_every_request_from_the_same_state(engine: str) -> None:
    counter = b"\x48\xff\x04\x25" + struct.pack("<I", DATA) + call(RESPOND, DATA, 8)
    template = boot(serve(counter), engine=engine)
    vm = Vm(template, engine)
    for _ in range(3):
        result = serve_once(vm)
        assert (result.end, result.output) == ("finished", struct.pack("<Q", 1))
    vm.close()
    template.close()


def test_resident_gets_an_scgi_frame(engine: str) -> None:
    request = GuestRequest(((b"REQUEST_METHOD", b"POST"),), b"body")
    template = boot(serve(b"\x48\x89\xc2" + mov(RSI, 0) + ECHO.replace(b"\x48\x89\xc6", b"\x48\x89\xd6")), engine=engine)
    vm = Vm(template, engine)
    assert serve_once(vm, request).output == scgi_frame(request)
    vm.close()
    template.close()


def test_scgi_frame_and_cgi_environ(engine: str) -> None:
    request = GuestRequest(((b"A", b"1"), (b"CONTENT_LENGTH", b"7")), b"xy")
    assert scgi_frame(request) == b"28:CONTENT_LENGTH\x002\0SCGI\x001\0A\x001\0,xy"
    assert scgi_frame(GuestRequest(((b"SCGI", b"1"),))) == b"24:CONTENT_LENGTH\x000\0SCGI\x001\0,"
    assert cgi_environ(request) == ((b"CONTENT_LENGTH", b"2"), (b"A", b"1"))
    assert cgi_environ(GuestRequest(((b"CONTENT_LENGTH", b"7"),))) == ()
    for pair in ((b"", b"x"), (b"a=b", b"x"), (b"a\0", b"x"), (b"a", b"x\0")):
        with pytest.raises(ValueError, match="environment"):
            GuestRequest((pair,))


def test_resident_that_does_not_answer(engine: str) -> None:
    template = boot(serve(b"\x90"), engine=engine)
    vm = Vm(template, engine)
    result = serve_once(vm)
    assert result.end == "no-answer"
    with pytest.raises(RuntimeError):
        vm.reset()
    vm.close()
    template.close()


def test_resident_that_exits_has_failed(engine: str) -> None:
    for work, end in ((exit_(), "no-answer"), (call(RESPOND, DATA, 4) + exit_(), "exit-status"), (exit_(1), "exit-status")):
        template = boot(serve(work), engine=engine)
        vm = Vm(template, engine)
        assert serve_once(vm).end == end
        vm.close()
        template.close()


def test_a_request_larger_than_the_buffer_fails(engine: str) -> None:
    template = boot(serve(ECHO, size=32), engine=engine)
    vm = Vm(template, engine)
    result = serve_once(vm)
    assert result.end == "no-answer"
    assert "buffer of 32" in result.outcome.detail
    vm.close()
    template.close()


def test_a_request_buffer_that_is_not_the_guests_is_efault(engine: str) -> None:
    loop = call(NEXT_REQUEST, 0x10, 4096) + b"\x48\xa3" + struct.pack("<Q", DATA) + call(RESPOND, DATA, 8)
    template = boot(loop + b"\xe9" + struct.pack("<i", -len(loop) - 5), engine=engine)
    vm = Vm(template, engine)
    assert serve_once(vm).output == struct.pack("<q", -14)
    vm.close()
    template.close()


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        (exit_(), "no-answer"),
        (exit_(2), "exit-status: it exited with status 2"),
        (b"\x0f\x0b", "fault: invalid-instruction"),
        (LOOP, "cpu-limit: more than 20 ms"),
        (call(RESPOND, DATA, 4) + exit_(7), "status 7"),
        (call(FETCH, DATA, 4, DATA, 4) + exit_(8), "status 8"),
    ],
)
def test_an_end_before_the_first_request_is_boot_failed(code: bytes, detail: str, engine: str) -> None:
    limits = replace(LIMITS, boot_cpu_ns=20 * MILLISECOND_NS)
    template = load(program(code, Convention.RESIDENT), limits)
    vm = Vm(template, engine)
    result = finish(vm)
    assert result.end == "boot-failed"
    assert detail in result.outcome.detail
    vm.close()
    template.close()


def test_a_loop_ends_at_the_cpu_limit(engine: str) -> None:
    limits = replace(LIMITS, cpu_ns=30 * MILLISECOND_NS)
    template = load(program(LOOP), limits)
    vm = Vm(template, engine)
    vm.begin(GET, limits)
    first = vm.run(5 * MILLISECOND_NS)
    assert first.event == Preempted()
    assert first.cpu_ns >= 5 * MILLISECOND_NS
    result = finish(vm, 5 * MILLISECOND_NS)
    assert (result.end, result.outcome.detail) == ("cpu-limit", "more than 30 ms of CPU time")
    assert result.outcome.usage.cpu_ns >= 30 * MILLISECOND_NS
    with pytest.raises(RuntimeError):
        vm.run(1)
    vm.close()
    template.close()


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
    template = load(program(code), LIMITS)
    vm = Vm(template, engine)
    vm.begin(GET, LIMITS)
    pieces = []
    while True:
        part = vm.run(SECOND_NS)
        pieces.append((type(part.event), len(part.output)))
        if isinstance(part.event, Ended):
            break
    assert pieces == [(OutputFull, 0x10000), (OutputFull, 0x10000), (Ended, 0x8000)]
    vm.close()
    template.close()


def test_an_answer_finished_in_one_stop_is_the_same_as_in_two(engine: str) -> None:
    """Ends, output and counts; but for the one system call less."""
    two = serve(call(RESPOND, DATA, 6) + call(RESPOND, DATA + 6, 10))
    one = serve(call(RESPOND, DATA, 6) + call(FINISH, DATA + 6, 10, DATA + 0x1000, 4096) + b"\x0f\x0b")
    results = []
    for code in (two, one):
        template = boot(Program(image(code, b"0123456789abcdef"), Convention.RESIDENT), engine=engine)
        vm = Vm(template, engine)
        results.append([serve_once(vm) for _ in range(3)])
        vm.close()
        template.close()
    for before, after in zip(*results, strict=True):
        assert (after.end, after.output) == ("finished", b"0123456789abcdef") == (before.end, before.output)
        assert after.outcome.usage.system_calls == before.outcome.usage.system_calls - 1 == 2
        assert after.outcome.usage.output_bytes == before.outcome.usage.output_bytes


HOSTILE_PIECES = (
    *((address, 8) for address in (0, 8, TEXT, RODATA, DATA, DATA + DATA_BYTES - 4, TEXT + 8 * MIB - 4, 1 << 47, 1 << 63, -8)),
    *((DATA, length) for length in (0, 1, DATA_BYTES, DATA_BYTES + 1, 100_001, 1 << 31, 1 << 63, -1)),
)


@pytest.mark.parametrize("resident", [True, False])
def test_hostile_pieces_come_to_the_same_end_in_one_stop_as_in_two(resident: bool, engine: str) -> None:
    """What is refused gives its errno, and the request goes on: to an answer that shows it."""
    limits = replace(LIMITS, output_bytes=100_000)
    show = store_rax(DATA + 0x2000) + (call(RESPOND, DATA + 0x2000, 8) if resident else call(1, 1, DATA + 0x2000, 8))
    last = call(NEXT_REQUEST, DATA + 0x1000, 4096) if resident else exit_()
    negative = b"\x48\x85\xc0\x78"  # test rax, rax; js
    for address, length in HOSTILE_PIECES:
        ends = []
        piece = call(RESPOND, address, length)
        skip = call(NEXT_REQUEST, 0x10, 1 << 63)
        two = piece + negative + bytes((len(skip),)) + skip + show + last
        one = call(FINISH, address, length, 0x10, 1 << 63) + show + last
        for code in (two, one):
            template = boot(serve(code), limits, engine=engine) if resident else load(program(code), limits)
            vm = Vm(template, engine)
            vm.begin(GET, limits)
            result = finish(vm)
            ends.append((result.outcome.end, result.outcome.detail, result.output, result.outcome.usage.output_bytes))
            vm.close()
            template.close()
        assert ends[0] == ends[1], (address, length)


def test_to_finish_before_the_first_request_is_refused(engine: str) -> None:
    template = boot(call(FINISH, DATA, 8, DATA, 8) + store_rax(DATA) + serve(call(RESPOND, DATA, 8)), engine=engine)
    vm = Vm(template, engine)
    assert serve_once(vm).words() == (-22,)
    vm.close()
    template.close()


def test_a_large_last_piece_ends_the_slice_before_the_request(engine: str) -> None:
    """So that its rate and its reader hold it up as they do for `respond`."""
    work = call(RESPOND, DATA, 0x7FFF) + call(RESPOND, DATA, 0x7FFF) + call(FINISH, DATA, 0x7FFF, 0, 0)
    template = boot(serve(work), engine=engine)
    vm = Vm(template, engine)
    for _ in range(2):
        vm.begin(GET, LIMITS)
        first, second = vm.run(SECOND_NS), vm.run(SECOND_NS)
        assert (first.event, len(first.output)) == (OutputFull(), 3 * 0x7FFF)
        assert isinstance(second.event, Ended)
        assert (str(second.event.outcome.end), second.output) == ("finished", b"")
        assert second.event.outcome.usage.output_bytes == 3 * 0x7FFF
        vm.reset()
    vm.close()
    template.close()


def test_the_log_is_cut_and_counted(engine: str) -> None:
    result = run(
        call(1, 2, DATA, 600) + call(LOG, DATA, 600) + put(b"x") + exit_(), limits=replace(LIMITS, log_bytes=1000), engine=engine
    )
    usage = result.outcome.usage
    assert (len(result.log), usage.log_bytes, usage.log_dropped_bytes, usage.edge_calls) == (1000, 1000, 200, 1)


def test_a_residents_stdout_is_log(engine: str) -> None:
    template = boot(serve(call(1, 1, DATA, 3) + call(RESPOND, DATA, 4)), engine=engine)
    vm = Vm(template, engine)
    result = serve_once(vm)
    assert (result.log, result.output) == (b"\0\0\0", b"\0\0\0\0")
    vm.close()
    template.close()


def test_unknown_calls_are_counted_once_each(engine: str) -> None:
    calls = b"".join(call(500 + i % 20) for i in range(60))
    result = run(calls + put(b"x") + exit_(), engine=engine)
    assert result.outcome.usage.unknown_calls == tuple(range(500, 516))


def test_host_calls_are_asked_and_answered(engine: str) -> None:
    data = b"GET /api\n\nkeyvalue"
    code = (
        call_with_result(FETCH, DATA, 10, DATA + 0x100, 64, into=0x200)
        + call_with_result(KV_GET, DATA + 10, 3, DATA + 0x180, 4, into=0x208)
        + call_with_result(KV_PUT, DATA + 10, 3, DATA + 13, 5, into=0x210)
        + call_with_result(FETCH, DATA, 10, DATA + 0x100, 2, into=0x218)
        + call_with_result(KV_GET, DATA + 10, 3, DATA + 0x180, 4, into=0x220)
        + dump(0x128, DATA + 0x100)
    )
    template = load(replace(program(code), image=program(code).image), LIMITS)
    from tests.unit.sandbox.machine_code import image

    template.close()
    template = load(replace(program(code), image=image(code, data)), LIMITS)
    vm = Vm(template, engine)
    vm.begin(GET, LIMITS)
    with pytest.raises(RuntimeError):
        vm.answer(0)
    result = finish(vm, answers=[b"Status: 200\n\nok", b"longer", 0, b"does not fit", -2])
    assert result.asked == [
        HostCall(HostCallKind.FETCH, b"GET /api\n\n"),
        HostCall(HostCallKind.KV_GET, b"key"),
        HostCall(HostCallKind.KV_PUT, b"key", b"value"),
        HostCall(HostCallKind.FETCH, b"GET /api\n\n"),
        HostCall(HostCallKind.KV_GET, b"key"),
    ]
    assert result.output[:15] == b"Status: 200\n\nok"
    assert result.output[0x80:0x85] == b"long\0"
    assert struct.unpack_from("<5q", result.output, 0x100) == (15, 6, 0, -7, -2)
    assert (result.outcome.usage.edge_calls, result.outcome.usage.sub_requests) == (5, 2)
    vm.close()
    template.close()


def test_edge_calls_past_their_limits(engine: str) -> None:
    log = call(LOG, DATA, 1)
    assert run(log * 4, limits=replace(LIMITS, edge_calls=3), engine=engine).end == "edge-call-limit"
    fetch = call(FETCH, DATA, 1, DATA, 8)
    result = run(fetch * 4, limits=replace(LIMITS, sub_requests=2), engine=engine)
    assert (result.end, len(result.asked)) == ("edge-call-limit", 2)


def test_edge_calls_with_bad_arguments(engine: str) -> None:
    code = (
        call_with_result(KV_GET, DATA, MAX_KEY + 1, DATA, 8, into=0x100)
        + call_with_result(KV_GET, 0, 8, DATA, 8, into=0x108)
        + call_with_result(FETCH, DATA, 8, 0x10, 8, into=0x110)
        + call_with_result(NEXT_REQUEST, DATA, 8, into=0x118)
        + call_with_result(RESPOND, DATA, 8, into=0x120)
        + dump(0x28, DATA + 0x100)
    )
    assert run(code, engine=engine).words() == (-7, -14, -14, -38, -38)


def test_memory_that_runs_out_is_named(engine: str) -> None:
    """A program that crashes after a refusal ends as memory-limit, with both halves of the story."""
    hungry = call(9, 0, 64 * MIB, 3, 0x22, (1 << 64) - 1, 0) + b"\x88\x00"
    result = run(hungry, engine=engine)
    assert result.end == "memory-limit"
    assert "write" in result.outcome.detail


def test_methods_in_the_wrong_phase_are_refused(engine: str) -> None:
    template = load(program(serve(ECHO), Convention.RESIDENT), LIMITS)
    vm = Vm(template, engine)
    for method in (vm.reset, vm.freeze, lambda: vm.begin(GET, LIMITS), lambda: vm.answer(0)):
        with pytest.raises(RuntimeError):
            method()
    assert vm.run(SECOND_NS).event == Booted()
    with pytest.raises(RuntimeError):
        vm.run(SECOND_NS)
    frozen = vm.freeze()
    with pytest.raises(RuntimeError):
        vm.freeze()
    vm.close()
    vm.close()
    assert frozen.resident_bytes > 0
    frozen.close()
    template.close()


LEAK = b"SECRET-OF-THE-FIRST-REQUEST!!!!!"


def test_nothing_of_a_request_is_left_for_the_next(engine: str) -> None:
    """Memory, stack, heap, mappings, XMM, x87, flags, FS and GS bases, open files and offsets, signals: all as at the freeze."""
    spread = (
        b"\x0f\x28\x04\x25" + struct.pack("<I", DATA)  # movaps xmm0, [DATA]
        + b"\x44\x0f\x28\x3c\x25" + struct.pack("<I", DATA)  # movaps xmm15, [DATA]
        + b"\xdf\x2c\x25" + struct.pack("<I", DATA)  # fild qword [DATA]
        + b"\xff\x34\x25" + struct.pack("<I", DATA)  # push
        + call(158, 0x1002, 0x60_1000) + call(158, 0x1001, 0x60_2000)
        + call(12, DATA + 0x40_000) + mov(RAX, DATA + 0x20_000) + b"\xc6\x00\x53"
        + call(9, 0, 0x4000, 3, 0x22, (1 << 64) - 1, 0) + b"\xc6\x00\x53"
        + call(257, (1 << 64) - 100, DATA + 0x40, 0, 0) + call(8, 3, 5, 0)
        + call(13, 10, DATA + 0x100, 0, 8) + call(14, 2, DATA + 0x100, 0, 8)
        + b"\xf9\xfd"  # stc; std
        + b"\x49\xc7\xc7\x53\x00\x00\x00"  # mov r15, 'S'
        + call(RESPOND, DATA, 32)
    )  # fmt: skip
    template = boot(replace(program(serve(spread), Convention.RESIDENT), files=(("f", b"0123456789"),)), engine=engine)
    pristine = Vm(template, engine)
    vm = Vm(template, engine)
    before = vm._vcpu.save()
    vm._memory.window[DATA - 0x401000 : DATA - 0x401000 + 32] = LEAK
    vm._memory.window[DATA - 0x401000 + 0x40 : DATA - 0x401000 + 0x43] = b"/f\0"
    vm._memory.window[DATA - 0x401000 + 0x100 : DATA - 0x401000 + 0x108] = b"\xff" * 8
    result = serve_once(vm)
    assert (result.end, result.output) == ("finished", LEAK)
    assert (
        vm._memory.block[: vm._memory.layout.supervisor_offset] == pristine._memory.block[: vm._memory.layout.supervisor_offset]
    )
    assert LEAK[:8] not in bytes(vm._memory.block)
    assert vm._vcpu.save() == before
    mine, other = vm._process.state, pristine._process.state
    assert mine.areas.frozen() == other.areas.frozen() == ()
    for field in ("brk", "files", "signal_mask", "signal_actions", "signal_stack", "clock_origin_ns", "request_buffer"):
        assert getattr(mine, field) == getattr(other, field), field
    vm.close()
    pristine.close()
    template.close()


def test_nothing_is_left_by_a_request_that_another_thread_handed_over(engine: str) -> None:
    """Page faults tell what was written, and are counted by thread."""
    template = boot(program(serve(ECHO, 12 << 10), Convention.RESIDENT), engine=engine)
    with ThreadPoolExecutor(1) as other, closing(Vm(template, engine)) as pristine, closing(Vm(template, engine)) as vm:
        for _ in range(3):
            assert serve_once(vm).end == "finished"
        large = GuestRequest(GET.environ, b"S" * (8 << 10))
        other.submit(vm.begin, large, LIMITS).result()
        assert finish(vm).end == "finished"
        vm.reset()
        end = vm._memory.layout.supervisor_offset
        assert vm._memory.block[:end] == pristine._memory.block[:end]
    template.close()


def test_two_hundred_vms_of_one_template_live_at_once(engine: str) -> None:
    template = boot(serve(ECHO), engine=engine)
    vms = [Vm(template, engine) for _ in range(200)]
    try:
        for index, vm in enumerate(vms):
            request = GuestRequest(((b"N", b"%d" % index),))
            assert serve_once(vm, request).output == scgi_frame(request)
    finally:
        for vm in vms:
            vm.close()
        template.close()


def test_closing_gives_the_memory_back(engine: str) -> None:
    template = boot(serve(ECHO), engine=engine)

    def maps() -> int:
        with open("/proc/self/maps") as lines:
            return sum("memfd:guest" in line for line in lines)

    before, files = maps(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        vm = Vm(template, engine)
        serve_once(vm)
        vm.close()
    assert (maps(), len(os.listdir("/proc/self/fd"))) == (before, files)
    template.close()


def test_every_end_of_a_guest_is_an_end_of_the_enumeration(engine: str) -> None:
    assert all(isinstance(end, str) for end in End)


_LOOK_AT_SELECTORS = b"".join(
    bytes((0x8C, modrm)) + b"\x66\xa3" + struct.pack("<Q", DATA + 2 * i) for i, modrm in enumerate((0xD8, 0xC0, 0xE0, 0xE8))
)
_CHANGE_SELECTORS = mov(RAX, 0x2B) + b"\x8e\xd8\x8e\xc0\x8e\xe0\x8e\xe8"


def test_segment_selectors_do_not_survive_a_request(engine: str) -> None:
    template = boot(serve(_LOOK_AT_SELECTORS + _CHANGE_SELECTORS + call(RESPOND, DATA, 8)), engine=engine)
    for _ in range(2):
        with closing(Vm(template, engine)) as vm:
            assert [serve_once(vm).output for _ in range(4)] == [bytes(8)] * 4
    template.close()


def test_segment_selectors_of_a_guest_that_failed_are_not_seen_by_another(engine: str) -> None:
    looking = boot(serve(_LOOK_AT_SELECTORS + call(RESPOND, DATA, 8)), engine=engine)
    failing = load(program(_CHANGE_SELECTORS + b"\x0f\x0b"), LIMITS)
    for _ in range(2):
        with closing(Vm(failing, engine)) as other:
            other.begin(GET, LIMITS)
            assert isinstance(other.run(SECOND_NS).event, Ended)
        with closing(Vm(looking, engine)) as vm:
            assert serve_once(vm).output == bytes(8)
    looking.close()
    failing.close()


def test_segment_selectors_of_a_guest_that_waits_are_not_seen_by_another(engine: str) -> None:
    looking = boot(serve(_LOOK_AT_SELECTORS + call(RESPOND, DATA, 8)), engine=engine)
    spinning = load(program(_CHANGE_SELECTORS + LOOP), LIMITS)
    with closing(Vm(spinning, engine)) as other, closing(Vm(looking, engine)) as vm:
        other.begin(GET, LIMITS)
        for _ in range(3):
            assert isinstance(other.run(2 * MILLISECOND_NS).event, Preempted)
            assert serve_once(vm).output == bytes(8)
    looking.close()
    spinning.close()


def test_clearing_selectors_before_every_run_changes_nothing_else(engine: str) -> None:
    """As on a host where no code can be mapped to look at them: registers, FS base and vector registers stay what they were."""
    if engine != "kvm":
        pytest.skip("Unicorn keeps a guest's selectors to itself")
    work = (
        call(158, 0x1002, DATA + 0x40)  # arch_prctl(ARCH_SET_FS)
        + mov(RBX, 0x1122334455667788)
        + b"\x66\x48\x0f\x6e\xc3"  # movq xmm0, rbx
        + call(39)  # getpid
        + b"\x64\x48\x89\x1c\x25\x00\x00\x00\x00"  # mov fs:[0], rbx
        + b"\x66\x48\x0f\x7e\xc0"  # movq rax, xmm0
        + store_rax(DATA + 0x48)
        + call(RESPOND, DATA + 0x40, 16)
    )
    template = boot(serve(work), engine=engine)
    with closing(Vm(template, engine)) as vm:
        plain = serve_once(vm).output
        assert plain == struct.pack("<QQ", 0x1122334455667788, 0x1122334455667788)
        vm._vcpu._selectors = lambda: 1  # type: ignore[attr-defined]
        assert [serve_once(vm).output for _ in range(3)] == [plain] * 3
    template.close()
