"""A worker's loop: one slice at a time of whatever the monitor asks for, on the one vCPU thread.

It decides nothing about who runs: it loads, boots, runs, resets, and reports. It needs no jail and is tested without; `worker.py`
makes it in one.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import assert_never

from sandbox import events, vm
from sandbox.channel import wire
from sandbox.channel.frames import BlockingChannel
from sandbox.errors import EngineUnavailable, ImageError
from sandbox.limits import Limits
from sandbox.outcome import End, Outcome, Usage
from sandbox.program import Convention


class _Resident:
    """A loaded program: the template that requests fork, and VMs that are reset and wait."""

    __slots__ = ("booting", "busy", "engine", "limits", "template", "warm")

    def __init__(self, template: vm.Template, limits: Limits, engine: str) -> None:
        self.template = template
        self.limits = limits
        self.engine = engine
        self.booting: vm.Vm | None = None
        self.warm: list[vm.Vm] = []
        self.busy = 0
        """VMs that hold a request."""

    def close(self) -> None:
        """Those that hold a request are closed by who knows them."""
        for machine in self.warm:
            machine.close()
        if self.booting is not None:
            self.booting.close()
        self.template.close()


class Worker:
    """The loop over a channel to the monitor."""

    def __init__(self, channel: BlockingChannel[wire.ToWorker]) -> None:
        self._channel = channel
        self._programs: dict[int, _Resident] = {}
        self._calls: dict[int, tuple[_Resident, vm.Vm]] = {}

    def serve(self) -> None:
        """Serve until the monitor's end. Raises WireError, OSError, KeyError: the monitor's faults, and our end."""
        while (message := self._channel.receive()) is not None:
            self.handle(message)

    def close(self) -> None:
        for program in tuple(self._programs):
            self._unload(program)

    def handle(self, message: wire.ToWorker) -> None:
        match message:
            case wire.Start():
                self._start(message)
            case wire.Continue():
                resident, machine = self._calls[message.call]
                if message.answer is not None:
                    machine.answer(message.answer)
                self._run(message.call, resident, machine, message.slice_ns)
            case wire.Abort():
                self._discard(message.call)
            case wire.Boot():
                self._boot(message)
            case wire.Load():
                self._load(message)
            case wire.Unload():
                self._unload(message.program)
            case _:
                assert_never(message)

    def _load(self, message: wire.Load) -> None:
        (fd,) = self._channel.fds.claim(1)
        try:
            program = wire.decode_program(_read(fd, message.size_bytes))
        finally:
            os.close(fd)
        try:
            limits = _shared(message.limits)
            template = vm.load(program, limits)
        except (ImageError, MemoryError, OSError) as error:
            self._channel.send(wire.Rejected(message.program, str(error) or "out of memory"))
            return
        self._programs[message.program] = _Resident(template, limits, message.engine)
        self._channel.send(wire.Loaded(message.program, program.convention is Convention.RESIDENT))

    def _boot(self, message: wire.Boot) -> None:
        resident = self._programs[message.program]
        try:
            if resident.booting is None:
                resident.booting = vm.Vm(resident.template, resident.engine)
            machine = resident.booting
            event = machine.run(message.slice_ns).event
            match event:
                case events.Booted():
                    frozen = machine.freeze()
                    resident.template.close()
                    resident.template = frozen
                    outcome = Outcome(End.FINISHED, machine.usage)
                case events.Ended():
                    outcome = event.outcome
                case events.HostCall():
                    outcome = Outcome(End.BOOT_FAILED, machine.usage, "an edge call before the first next_request")
                case events.Preempted() | events.OutputFull():
                    self._channel.send(wire.BootSlice(message.program))
                    return
                case _:
                    assert_never(event)
        except (EngineUnavailable, MemoryError, OSError) as error:
            event, outcome = None, _engine_failed(End.BOOT_FAILED, error)
        if resident.booting is not None:
            resident.booting.close()
            resident.booting = None
        self._channel.send(wire.BootSlice(message.program, outcome, isinstance(event, events.Booted)))

    def _start(self, message: wire.Start) -> None:
        resident = self._programs[message.program]
        try:
            machine = resident.warm.pop() if resident.warm else vm.Vm(resident.template, resident.engine)
        except (EngineUnavailable, MemoryError, OSError) as error:
            self._channel.send(wire.CallSlice(message.call, wire.Done(_engine_failed(End.FAULT, error))))
            return
        resident.busy += 1
        self._calls[message.call] = resident, machine
        machine.begin(message.request, resident.limits)
        self._run(message.call, resident, machine, message.slice_ns)

    def _run(self, call: int, resident: _Resident, machine: vm.Vm, slice_ns: int) -> None:
        ran = machine.run(slice_ns)
        event, output = ran.event, ran.output
        if len(output) > wire.OUTPUT_PIECE_BYTES:
            output = self._send_pieces(call, output)
        match event:
            case events.Ended():
                self._channel.send(wire.CallSlice(call, wire.Done(event.outcome), output, ran.log))
                if event.outcome.end is End.FINISHED:
                    self._keep(call, resident, machine)
                else:
                    self._discard(call)
                return
            case events.HostCall():
                answer: wire.WantsMore | wire.WantsAnswer = wire.WantsAnswer(event.kind, event.data, event.value)
            case events.Preempted() | events.OutputFull():
                answer = wire.WantsMore()
            case events.Booted():
                raise AssertionError("a VM that holds a request cannot boot")
            case _:
                assert_never(event)
        self._channel.send(wire.CallSlice(call, answer, output, ran.log))

    def _send_pieces(self, call: int, output: bytes) -> bytes:
        """Send all but the last piece of an output too large for one frame; return that."""
        start = 0
        while len(output) - start > wire.OUTPUT_PIECE_BYTES:
            self._channel.send(wire.Piece(call, output[start : start + wire.OUTPUT_PIECE_BYTES]))
            start += wire.OUTPUT_PIECE_BYTES
        return output[start:]

    def _keep(self, call: int, resident: _Resident, machine: vm.Vm) -> None:
        """Reset while the answer is on its way: nobody waits for it."""
        del self._calls[call]
        resident.busy -= 1
        if len(resident.warm) + resident.busy < resident.limits.vms:
            machine.reset()
            resident.warm.append(machine)
        else:
            machine.close()

    def _discard(self, call: int) -> None:
        found = self._calls.pop(call, None)
        if found is not None:
            resident, machine = found
            resident.busy -= 1
            machine.close()

    def _unload(self, program: int) -> None:
        resident = self._programs.pop(program)
        for call in [call for call, (whose, _) in self._calls.items() if whose is resident]:
            self._discard(call)
        resident.close()


@lru_cache(maxsize=64)
def _shared(limits: Limits) -> Limits:
    """The same limits, one object for all programs that have them: it stays in the processor's caches."""
    return limits


def _engine_failed(end: End, error: Exception) -> Outcome:
    return Outcome(end, Usage(), str(error) or "out of memory")


def _read(fd: int, size: int) -> bytes:
    """Raises WireError when the file is shorter or larger than anybody may send."""
    if not 0 < size <= wire.TO_WORKER_BYTES:
        raise wire.WireError(f"a program of {size} bytes")
    data = os.pread(fd, size, 0)
    if len(data) != size:
        raise wire.WireError("a program shorter than announced")
    return data
