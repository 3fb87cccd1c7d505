"""The filter means what its table says: the assembled program is interpreted here and compared with the rows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.confinement import seccomp
from sandbox.confinement.seccomp import (
    ALLOW,
    AUDIT_ARCH_X86_64,
    ERRNO,
    KILL_PROCESS,
    RULES,
    X32_BIT,
    Check,
    Rule,
    Verdict,
    assemble,
    with_kvm,
)
from sandbox.engines.kvm_api import KICK, REQUESTS
from sandbox.errors import JailError

PROGRAM = assemble(RULES)
WORDS = st.integers(0, 2**64 - 1)
EDGES = st.sampled_from(
    [0, 1, 2, 3, 4, 7, 0x20, 0x22, 1033, 1034, seccomp.PAGEMAP_SCAN, 0x1000, 1 << 32, (1 << 32) + 1, 2**64 - 1]
)
ARGS = st.tuples(*[WORDS | EDGES] * 6)


def interpret(program: bytes, number: int, args: tuple[int, ...], arch: int = AUDIT_ARCH_X86_64) -> int:
    """Classic BPF as far as the filter uses it; every jump is checked to stay inside."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *args)
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"operation {operation:#x}")


def meant(rule: Rule, args: tuple[int, ...]) -> int:
    if rule.verdict is Verdict.REFUSE:
        return ERRNO | 1
    if not rule.any_of or any(all(args[t.arg] & t.mask == t.value & t.mask for t in group) for group in rule.any_of):
        return ALLOW
    return ERRNO | 1 if rule.refuse_else else KILL_PROCESS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(args=ARGS)
def test_a_row_means_what_it_says(rule: Rule, args: tuple[int, ...]) -> None:
    assert interpret(PROGRAM, rule.number, args) == meant(rule, args)


@given(number=st.integers(0, 2**32 - 1), args=ARGS)
def test_what_has_no_row_kills(number: int, args: tuple[int, ...]) -> None:
    if number not in {rule.number for rule in RULES}:
        assert interpret(PROGRAM, number, args) == KILL_PROCESS


@given(number=st.sampled_from([rule.number for rule in RULES]), arch=st.integers(0, 2**32 - 1), args=ARGS)
def test_another_architecture_and_x32_kill(number: int, arch: int, args: tuple[int, ...]) -> None:
    assert interpret(PROGRAM, number | X32_BIT, args) == KILL_PROCESS
    if arch != AUDIT_ARCH_X86_64:
        assert interpret(PROGRAM, number, args, arch) == KILL_PROCESS


def test_the_table_is_well_formed() -> None:
    assert len({rule.number for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert all(len(rule.reason) > 8 for rule in RULES)
    assert all(test.value & ~test.mask == 0 for rule in RULES for group in rule.any_of for test in group)
    assert len(PROGRAM) // 8 < 4096


@pytest.mark.parametrize(
    "name", ["open", "socket", "connect", "execve", "execveat", "fork", "vfork", "kill", "tgkill", "ptrace", "bpf", "dup"]
)
def test_what_would_be_a_way_out_has_no_row(name: str) -> None:
    assert name not in {rule.name for rule in RULES}


def test_memory_is_executable_only_when_anonymous() -> None:
    def mmap(prot: int, flags: int) -> int:
        return interpret(PROGRAM, 9, (0, 4096, prot, flags, 3, 0))

    assert mmap(3, 2) == ALLOW  # PROT_READ | PROT_WRITE of a template, MAP_PRIVATE
    assert mmap(7, 0x22) == ALLOW  # the translator's buffer
    assert mmap(5, 2) == KILL_PROCESS
    assert mmap(4, 1) == KILL_PROCESS


def test_a_filter_that_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(JailError, match="seccomp"):
        seccomp.install(assemble([Rule("nonsense", 1, "a program that ends in no return")])[:8])


KVM_RULES = with_kvm(RULES, requests=REQUESTS, kick=KICK, pid=1234)


@given(
    row=st.sampled_from([rule for rule in KVM_RULES if rule.name in ("ioctl", "tgkill")]),
    args=st.tuples(WORDS | st.just(1234), WORDS | EDGES | st.sampled_from(REQUESTS), WORDS | st.just(int(KICK)), *[WORDS] * 3),
)
def test_a_kvm_workers_rows_mean_what_they_say(row: Rule, args: tuple[int, ...]) -> None:
    assert interpret(assemble(KVM_RULES), row.number, args) == meant(row, args)


def test_a_kvm_worker_signals_itself_alone_and_has_no_other_request() -> None:
    program = assemble(KVM_RULES)
    assert interpret(program, 234, (1234, 5, KICK, 0, 0, 0)) == ALLOW
    assert interpret(program, 234, (1235, 5, KICK, 0, 0, 0)) == KILL_PROCESS
    assert interpret(program, 234, (1234, 5, 9, 0, 0, 0)) == KILL_PROCESS
    for request in (0xAE60, 0x4090AE82, 0x5401):  # KVM_CREATE_IRQCHIP, KVM_SET_REGS, TCGETS
        assert interpret(program, 16, (3, request, 0, 0, 0, 0)) == KILL_PROCESS
    assert interpret(PROGRAM, 16, (3, REQUESTS[0], 0, 0, 0, 0)) == KILL_PROCESS


def test_both_halves_of_an_argument_count() -> None:
    program = assemble([Rule("one", 1, "for this test", ((Check(0, 5),),))])
    assert interpret(program, 1, (5, 0, 0, 0, 0, 0)) == ALLOW
    assert interpret(program, 1, (5 + (1 << 32), 0, 0, 0, 0, 0)) == KILL_PROCESS
