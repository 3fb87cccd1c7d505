"""One VM: a fork of a template, run slice by slice, reset after each finished request.

Joins memory, vCPU and system calls, and decides how requests end. Blocking and single-threaded: the worker owns a VM, `__main__`
and `bench` use it directly. Knows no engine by name and no I/O beyond the guest's own files.
"""

from __future__ import annotations

import enum
import errno
import time
from dataclasses import replace
from typing import Final, NamedTuple

from sandbox.engines import create, restoring
from sandbox.engines.base import Preempted, SystemCall
from sandbox.events import Booted, Ended, Event, HostCall, OutputFull, Slice
from sandbox.guest.access import CallError
from sandbox.guest.actions import Action, AskMonitor, Exit, HostCallKind, NextRequest
from sandbox.guest.calls import dispatch
from sandbox.guest.exchange import Exchange, RequestEnded
from sandbox.guest.process import Process
from sandbox.guest.stack import initial_stack
from sandbox.limits import DEFAULT_LIMITS, MILLISECOND_NS, Limits
from sandbox.outcome import End, Fault, FaultKind, Outcome, Usage
from sandbox.pages import faults
from sandbox.program import Convention
from sandbox.request import Delivered, cgi_environ, scgi_frame
from sandbox.template import Template, fits, initial_cpu, load

__all__ = ["OUTPUT_PENDING_BYTES", "Template", "Vm", "load"]

OUTPUT_PENDING_BYTES: Final = 64 << 10
"""Output that makes a slice end, so that it can be sent on."""


_NO_EXCHANGE: Final = Exchange(None, DEFAULT_LIMITS)
"""Of a VM that waits: the last request's goes with its reset, and not after the memory that holds it is out of all caches."""


class _Phase(enum.Enum):
    FRESH = enum.auto()
    BOOTING = enum.auto()
    BOOTED = enum.auto()
    RUNNING = enum.auto()
    WAITING = enum.auto()
    FINISHED = enum.auto()
    DEAD = enum.auto()


_FRESH, _BOOTING, _BOOTED, _RUNNING, _WAITING, _FINISHED, _DEAD = _Phase


class _Over(NamedTuple):
    """How the slice that is under way ends its request, or the boot: `run` adds what was used."""

    end: End
    detail: str


class Vm:
    """A guest machine. Methods called in a wrong phase raise RuntimeError; nothing a guest does raises at all."""

    def __init__(self, template: Template, engine: str) -> None:
        """Fork. Raises EngineUnavailable, and OSError when the host has no memory left."""
        self._template = template
        loaded = template.loaded
        self._memory = template.memory.fork()
        try:
            self._vcpu = create(engine, self._memory)
            self._vcpu.load(template.cpu)
        except BaseException:
            self._memory.close()
            raise
        state = template.state()
        if not template.booted:
            state.clock_origin_ns = time.monotonic_ns()
        self._process = Process(
            memory=self._memory,
            registers=self._vcpu,
            space=loaded.space,
            files=loaded.files,
            convention=loaded.convention,
            name=loaded.args[0].decode(errors="replace"),
            state=state,
            exchange=Exchange(None, loaded.limits),
        )
        self._phase = _FRESH
        self._cpu_ns = 0
        self._cpu_limit_ns = loaded.limits.boot_cpu_ns
        self._begun_ns = time.monotonic_ns()
        self._written: list[tuple[int, int]] = []
        self._pages_written = 0
        self._pending: AskMonitor | None = None
        self._asked: NextRequest | None = None
        """Made together with more output than a slice holds: acted on when that has been taken."""
        self._writer = faults.thread()
        """Whose page faults tell what was written; another one is announced by `distrust`."""
        self._stillborn: _Over | None = None
        """The end of a request that could not even be handed over."""

    @property
    def usage(self) -> Usage:
        """Of the current or last request, as of the last slice; of none after a reset."""
        return self._process.exchange.usage(self._cpu_ns, time.monotonic_ns() - self._begun_ns, self._pages_written)

    def begin(self, request: Delivered, limits: Limits) -> None:
        """Hand over a request: at a fork of a booted template, or of a `cgi` program, that is fresh or reset."""
        loaded = self._template.loaded
        if self._phase is not _FRESH or not (self._template.booted or loaded.convention is Convention.CGI):
            raise RuntimeError(f"begin in phase {self._phase.name}")
        self._watch_threads()
        self._memory.begin()
        self._process.exchange = Exchange(request, limits)
        self._phase = _RUNNING
        self._cpu_ns, self._pages_written = 0, 0
        self._cpu_limit_ns = limits.cpu_ns
        self._begun_ns = time.monotonic_ns()
        if loaded.convention is Convention.CGI:
            self._put_environment(request)
        else:
            self._put_frame(request)

    def run(self, slice_ns: int) -> Slice:
        """Run for at most `slice_ns` nanoseconds of this thread's CPU time, or until there is something to say."""
        if self._phase is _FRESH and not self._template.booted and self._template.loaded.convention is Convention.RESIDENT:
            self._phase = _BOOTING
        stillborn, self._stillborn = self._stillborn, None
        if stillborn is None and self._phase not in (_BOOTING, _RUNNING):
            raise RuntimeError(f"run in phase {self._phase.name}")
        self._watch_threads()
        started = time.thread_time_ns()
        event = stillborn or self._run(started, slice_ns)
        output, log = self._process.exchange.take()
        cpu_ns = time.thread_time_ns() - started
        self._cpu_ns += cpu_ns
        if isinstance(event, _Over):
            event = Ended(Outcome(event.end, self.usage, event.detail))
        return Slice(event, output, log, cpu_ns)

    def answer(self, result: int | bytes) -> None:
        """Answer the pending HostCall: a value or -errno, or the bytes asked for.

        The guest gets their number. What does not fit its buffer is -E2BIG for fetch, and cut for kv_get, as the caller can tell.
        """
        ask = self._pending
        if self._phase is not _WAITING or ask is None:
            raise RuntimeError(f"answer in phase {self._phase.name}")
        self._watch_threads()
        self._pending, self._phase = None, _RUNNING
        if isinstance(result, bytes):
            whole = len(result)
            if ask.kind is HostCallKind.KV_GET:
                result = result[: ask.length]
            delivered = self._deliver(result, ask.address, ask.length)
            result = whole if delivered >= 0 else delivered
        self._vcpu.complete(result)

    def interrupt(self) -> None:
        """From another thread: make `run` return Preempted soon. Harmless when it is not running."""
        self._vcpu.interrupt()

    def freeze(self) -> Template:
        """A template of this program as it is now: right after Booted. The VM itself is then of no further use but to close."""
        if self._phase is not _BOOTED:
            raise RuntimeError(f"freeze in phase {self._phase.name}")
        self._phase = _DEAD
        cpu = self._vcpu.save()
        memory = self._memory.freeze(restoring.piece(self._memory.layout, cpu))
        return Template(self._template.loaded, memory, cpu, self._process.state.copy(), booted=True)

    def reset(self) -> None:
        """Undo a FINISHED request: memory, registers and the monitor's state are the template's again."""
        if self._phase is not _FINISHED:
            raise RuntimeError(f"reset in phase {self._phase.name}")
        self._watch_threads()
        if self._memory.reset(self._written):
            self._vcpu.memory_changed()
        self._vcpu.load(self._template.cpu)
        self._process.state = self._template.state()
        if not self._template.booted:
            self._process.state.clock_origin_ns = time.monotonic_ns()
        self._process.exchange = _NO_EXCHANGE
        self._phase = _FRESH

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self._phase = _DEAD
        self._vcpu.close()
        self._memory.close()

    def _put_environment(self, request: Delivered) -> None:
        loaded = self._template.loaded
        stack = initial_stack(loaded.image, loaded.space.stack_top, loaded.args, (*loaded.environ, *cgi_environ(request)))
        if not fits(stack, loaded.space):
            self._stillborn = self._end(End.MEMORY_LIMIT, f"the request's variables take {len(stack)} bytes of stack")
            return
        pointer = loaded.space.stack_top - len(stack)
        self._process.access.write(pointer, stack)
        self._vcpu.load(initial_cpu(loaded.image, pointer))

    def _put_frame(self, request: Delivered) -> None:
        frame = scgi_frame(request)
        buffer = self._process.state.request_buffer
        if buffer is None:
            raise RuntimeError("a booted template without a pending next_request")
        self._process.state.request_buffer = None
        if len(frame) > buffer[1]:
            self._stillborn = self._end(
                End.NO_ANSWER, f"the request's {len(frame)} bytes do not fit next_request's buffer of {buffer[1]}"
            )
            return
        self._vcpu.complete(self._deliver(frame, *buffer))

    def _deliver(self, data: bytes, address: int, length: int) -> int:
        """Put bytes into a guest's buffer: their number, or -errno."""
        if len(data) > length:
            return -errno.E2BIG
        try:
            self._process.access.write(address, data)
        except CallError as error:
            return -error.number
        return len(data)

    def _watch_threads(self) -> None:
        """Whoever writes to memory calls this first: page faults are counted by thread."""
        thread = faults.thread()
        if thread is not self._writer:
            self._writer = thread
            self._memory.distrust()

    def _run(self, started: int, slice_ns: int) -> Event | _Over:
        asked, self._asked = self._asked, None
        if asked is not None:
            return self._act(asked)
        end_ns = min(slice_ns, self._cpu_limit_ns - self._cpu_ns)
        used = 0
        while used < end_ns:
            stop = self._vcpu.run(end_ns - used, started + used)
            if isinstance(stop, SystemCall):
                self._process.cpu_ns = self._cpu_ns + used
                event = self._system_call(stop)
                if event is not None:
                    return event
            elif isinstance(stop, Fault):
                return self._fault(stop)
            elif time.thread_time_ns() - started < end_ns:
                return stop  # interrupted
            used = time.thread_time_ns() - started
        if self._cpu_ns + used >= self._cpu_limit_ns:
            return self._end(End.CPU_LIMIT, f"more than {self._cpu_limit_ns / MILLISECOND_NS:g} ms of CPU time")
        return Preempted()

    def _system_call(self, call: SystemCall) -> Event | _Over | None:
        process, memory = self._process, self._memory
        try:
            answer = dispatch(process, call.number, call.args)
        except RequestEnded as over:
            return self._end(over.end, over.detail)
        if memory.tables_changed:
            memory.tables_changed = False
            self._vcpu.memory_changed()
        if isinstance(answer, NextRequest) and len(process.exchange.output) >= OUTPUT_PENDING_BYTES:
            self._asked = answer
            return OutputFull()
        if not isinstance(answer, int):
            return self._act(answer)
        self._vcpu.complete(answer)
        return OutputFull() if len(process.exchange.output) >= OUTPUT_PENDING_BYTES else None

    def _act(self, action: Action) -> Event | _Over:
        match action:
            case NextRequest(address, length) if self._phase is _BOOTING:
                self._process.state.request_buffer = (address, length)
                self._phase = _BOOTED
                return Booted()
            case NextRequest():
                if self._process.exchange.output_bytes:
                    return self._end(End.FINISHED)
                return self._end(End.NO_ANSWER, "it asked for the next request without having answered this one")
            case AskMonitor(kind, data, value):
                self._pending, self._phase = action, _WAITING
                return HostCall(kind, data, value)
            case Exit(status, signal):
                return self._exit(status, signal)

    def _exit(self, status: int, signal: int) -> _Over:
        if signal:
            return self._end(End.EXIT_STATUS, f"it killed itself with signal {signal}")
        if status:
            return self._end(End.EXIT_STATUS, f"it exited with status {status}")
        if not self._process.exchange.output_bytes:
            return self._end(End.NO_ANSWER, "it exited without having answered")
        if self._template.loaded.convention is Convention.RESIDENT:
            return self._end(End.EXIT_STATUS, "it exited with status 0; a resident program asks for the next request")
        return self._end(End.FINISHED)

    def _fault(self, fault: Fault) -> _Over:
        space = self._template.loaded.space
        if fault.kind is FaultKind.WRITE and space.stack_guard <= fault.address < space.stack:
            fault = replace(fault, kind=FaultKind.STACK)
        return self._end(End.FAULT, str(fault))

    def _end(self, end: End, detail: str = "") -> _Over:
        """The one place where a request or a boot ends."""
        refused = self._process.exchange.refused_bytes
        if refused and end in (End.FAULT, End.EXIT_STATUS, End.NO_ANSWER):
            available = self._memory.layout.window_bytes
            end, detail = End.MEMORY_LIMIT, f"{refused} bytes more were refused within {available}; then: {detail}"
        if self._phase is _BOOTING:
            end, detail = End.BOOT_FAILED, f"{end}: {detail}" if detail else str(end)
        self._written, self._pages_written = self._memory.written(), self._memory.pages_written
        self._phase = _FINISHED if end is End.FINISHED else _DEAD
        return _Over(end, detail)
