"""Resident programs: one boot, then requests by `next_request` and answers by `respond` and `finish`."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sandbox.events import Ended, OutputFull
from sandbox.limits import MIB, SECOND_NS
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest, cgi_environ, scgi_frame
from sandbox.vm import Vm, load
from tests.unit.sandbox.machine_code import (
    DATA,
    DATA_BYTES,
    ECHO,
    FINISH,
    GET,
    LIMITS,
    NEXT_REQUEST,
    RESPOND,
    RODATA,
    RSI,
    TEXT,
    boot,
    booted,
    call,
    exit_,
    finish,
    image,
    mov,
    program,
    serve,
    serve_once,
    store_rax,
)


def test_resident_boots_once_and_answers_every_request_from_the_same_state(engine: str) -> None:
    counter = b"\x48\xff\x04\x25" + struct.pack("<I", DATA) + call(RESPOND, DATA, 8)
    with booted(serve(counter), engine=engine) as vm:
        for _ in range(3):
            result = serve_once(vm)
            assert (result.end, result.output) == ("finished", struct.pack("<Q", 1))


def test_resident_gets_an_scgi_frame(engine: str) -> None:
    request = GuestRequest(((b"REQUEST_METHOD", b"POST"),), b"body")
    with booted(serve(b"\x48\x89\xc2" + mov(RSI, 0) + ECHO.replace(b"\x48\x89\xc6", b"\x48\x89\xd6")), engine=engine) as vm:
        assert serve_once(vm, request).output == scgi_frame(request)


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
    with booted(serve(b"\x90"), engine=engine) as vm:
        result = serve_once(vm)
        assert result.end == "no-answer"
        with pytest.raises(RuntimeError):
            vm.reset()


def test_resident_that_exits_has_failed(engine: str) -> None:
    for work, end in ((exit_(), "no-answer"), (call(RESPOND, DATA, 4) + exit_(), "exit-status"), (exit_(1), "exit-status")):
        with booted(serve(work), engine=engine) as vm:
            assert serve_once(vm).end == end


def test_a_request_larger_than_the_buffer_fails(engine: str) -> None:
    with booted(serve(ECHO, size=32), engine=engine) as vm:
        result = serve_once(vm)
        assert result.end == "no-answer"
        assert "buffer of 32" in result.outcome.detail


def test_a_request_buffer_that_is_not_the_guests_is_efault(engine: str) -> None:
    loop = call(NEXT_REQUEST, 0x10, 4096) + b"\x48\xa3" + struct.pack("<Q", DATA) + call(RESPOND, DATA, 8)
    with booted(loop + b"\xe9" + struct.pack("<i", -len(loop) - 5), engine=engine) as vm:
        assert serve_once(vm).output == struct.pack("<q", -14)


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
    with booted(call(FINISH, DATA, 8, DATA, 8) + store_rax(DATA) + serve(call(RESPOND, DATA, 8)), engine=engine) as vm:
        assert serve_once(vm).words() == (-22,)


def test_a_large_last_piece_ends_the_slice_before_the_request(engine: str) -> None:
    """So that its rate and its reader hold it up as they do for `respond`."""
    work = call(RESPOND, DATA, 0x7FFF) + call(RESPOND, DATA, 0x7FFF) + call(FINISH, DATA, 0x7FFF, 0, 0)
    with booted(serve(work), engine=engine) as vm:
        for _ in range(2):
            vm.begin(GET, LIMITS)
            first, second = vm.run(SECOND_NS), vm.run(SECOND_NS)
            assert (first.event, len(first.output)) == (OutputFull(), 3 * 0x7FFF)
            assert isinstance(second.event, Ended)
            assert (str(second.event.outcome.end), second.output) == ("finished", b"")
            assert second.event.outcome.usage.output_bytes == 3 * 0x7FFF
            vm.reset()


def test_a_residents_stdout_is_log(engine: str) -> None:
    with booted(serve(call(1, 1, DATA, 3) + call(RESPOND, DATA, 4)), engine=engine) as vm:
        result = serve_once(vm)
        assert (result.log, result.output) == (b"\0\0\0", b"\0\0\0\0")
