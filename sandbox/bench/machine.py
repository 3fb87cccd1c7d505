"""What one VM costs in this process, without workers or jail: the figures are those of the machine itself."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Final

from sandbox.bench.guests import REQUEST
from sandbox.errors import SandboxError
from sandbox.events import Booted, Ended
from sandbox.limits import DEFAULT_LIMITS, SECOND_NS, Limits
from sandbox.outcome import End
from sandbox.pages.footprint import proportional_bytes
from sandbox.program import Program
from sandbox.vm import Template, Vm, load

CALLS: Final = 2000
_LIMITS: Final[Limits] = replace(DEFAULT_LIMITS, cpu_ns=SECOND_NS)
"""A hypervisor that takes the host's CPU away for 50 ms is charged to the thread; it must not end the benchmark."""
BOOTS: Final = 20


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Of one engine. Times are medians unless the name says otherwise."""

    resident_call_us: float
    """One request to a warm `resident` VM, reset included, in microseconds."""
    resident_call_p99_us: float
    fork_us: float
    """A VM made from a booted template, in microseconds."""
    first_call_us: float
    """The first request of a new VM, in microseconds: its code is translated in it."""
    warm_vm_kib: float
    """What each further VM that has served a request adds to this process's proportional set size."""
    create_and_boot_ms: float
    """From the ELF file's bytes to a booted, frozen template, in milliseconds."""
    vms: int
    """How many VMs were warm at once."""
    page_bytes: int


def measure(program: Program, engine: str, vms: int, calls: int = CALLS) -> EngineFigures:
    """Raises EngineUnavailable, or SandboxError where the guest misbehaves."""
    _boot(program, engine).close()  # loads the engine and warms the allocator
    boots = []
    for _ in range(BOOTS):
        started = time.perf_counter()
        _boot(program, engine).close()
        boots.append(time.perf_counter() - started)
    template = _boot(program, engine)
    machines: list[Vm] = []
    try:
        page = _call(template, engine, machines)
        calls_s = sorted(_timed_call(machines[0]) for _ in range(calls))
        before_kib = _proportional_kib()
        forks, firsts = [], []
        for _ in range(vms):
            started = time.perf_counter()
            machines.append(Vm(template, engine))
            forked = time.perf_counter()
            _timed_call(machines[-1])
            forks.append(forked - started)
            firsts.append(time.perf_counter() - forked)
        warm_kib = (_proportional_kib() - before_kib) / vms
    finally:
        for machine in machines:
            machine.close()
        template.close()
    return EngineFigures(
        resident_call_us=round(1e6 * statistics.median(calls_s), 1),
        resident_call_p99_us=round(1e6 * calls_s[int(len(calls_s) * 0.99)], 1),
        fork_us=round(1e6 * statistics.median(forks), 1),
        first_call_us=round(1e6 * statistics.median(firsts), 1),
        warm_vm_kib=round(warm_kib, 1),
        create_and_boot_ms=round(1e3 * statistics.median(boots), 2),
        vms=vms,
        page_bytes=page,
    )


class Warm:
    """One VM of a `resident` program, booted and warm. Raises as `measure`."""

    def __init__(self, program: Program, engine: str) -> None:
        self._template = _boot(program, engine)
        self._vm = Vm(self._template, engine)

    def call(self) -> float:
        """Seconds that one request takes, reset included."""
        return _timed_call(self._vm)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._vm.close()
        self._template.close()


def cgi_calls(program: Program, engine: str, calls: int) -> list[float]:
    """Seconds that each request to one VM of a `cgi` program takes, reset included. Raises as `measure`."""
    template = load(program, _LIMITS)
    vm = Vm(template, engine)
    try:
        return [_timed_call(vm) for _ in range(calls)]
    finally:
        vm.close()
        template.close()


def _boot(program: Program, engine: str) -> Template:
    loaded = load(program, _LIMITS)
    vm = Vm(loaded, engine)
    try:
        event = vm.run(SECOND_NS).event
        if not isinstance(event, Booted):
            raise SandboxError(f"the benchmark's guest did not boot: {event}")
        return vm.freeze()
    finally:
        vm.close()
        loaded.close()


def _call(template: Template, engine: str, machines: list[Vm]) -> int:
    """Make the first machine and check its page. The page's bytes."""
    vm = Vm(template, engine)
    machines.append(vm)
    vm.begin(REQUEST, _LIMITS)
    part = vm.run(SECOND_NS)
    if not isinstance(part.event, Ended) or part.event.outcome.end is not End.FINISHED:
        raise SandboxError(f"the benchmark's guest failed: {part.event}")
    vm.reset()
    return len(part.output)


def _timed_call(vm: Vm) -> float:
    """Seconds that one request and the reset after it take."""
    started = time.perf_counter()
    vm.begin(REQUEST, _LIMITS)
    event = vm.run(SECOND_NS).event
    if not isinstance(event, Ended) or not event.outcome.ok:
        raise SandboxError(f"the benchmark's guest failed: {event}")
    vm.reset()
    return time.perf_counter() - started


def _proportional_kib() -> float:
    found = proportional_bytes("self")
    if found is None:
        raise SandboxError("/proc is needed to measure memory")
    return found / 1024
