"""A worker: one jailed process with one vCPU thread that runs one slice at a time of whatever the monitor asks for.

`Worker` is the loop, which needs no jail and is tested without; `main` is a forked process's whole life. It decides nothing about
who runs: it loads, boots, runs, resets, and reports. Called by `zygote.py`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import NoReturn, assert_never

from sandbox import events, faults, jail, vm, wire
from sandbox.cgroup import CgroupParent
from sandbox.engines import kvm, kvm_trial
from sandbox.engines.watchdog import watchdog
from sandbox.errors import EngineUnavailable, ImageError, JailError
from sandbox.jail import JailPolicy
from sandbox.limits import SECOND_NS, Limits
from sandbox.outcome import End, Outcome, Usage
from sandbox.pagemap import open_pagemap
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
        self.busy: dict[int, vm.Vm] = {}

    def close(self) -> None:
        for machine in (*self.warm, *self.busy.values()):
            machine.close()
        if self.booting is not None:
            self.booting.close()
        self.template.close()


class Worker:
    """The loop over a channel to the monitor."""

    def __init__(self, channel: wire.BlockingChannel[wire.ToWorker]) -> None:
        self._channel = channel
        self._programs: dict[int, _Resident] = {}
        self._calls: dict[int, _Resident] = {}

    def serve(self) -> None:
        """Serve until the monitor's end. Raises WireError, OSError, KeyError: the monitor's faults, and our end."""
        while (message := self._channel.receive()) is not None:
            self.handle(message)

    def close(self) -> None:
        for resident in self._programs.values():
            resident.close()
        self._programs.clear()
        self._calls.clear()

    def handle(self, message: wire.ToWorker) -> None:
        match message:
            case wire.Start():
                self._start(message)
            case wire.Continue():
                resident = self._calls[message.call]
                machine = resident.busy[message.call]
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
                resident = self._programs.pop(message.program)
                for call in resident.busy:
                    del self._calls[call]
                resident.close()
            case _:
                assert_never(message)

    def _load(self, message: wire.Load) -> None:
        (fd,) = self._channel.fds.claim(1)
        try:
            program = wire.decode_program(_read(fd, message.size_bytes))
        finally:
            os.close(fd)
        try:
            template = vm.load(program, message.limits)
        except (ImageError, MemoryError, OSError) as error:
            self._channel.send(wire.Rejected(message.program, str(error) or "out of memory"))
            return
        self._programs[message.program] = _Resident(template, message.limits, message.engine)
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
        resident.busy[message.call] = machine
        self._calls[message.call] = resident
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
        del resident.busy[call], self._calls[call]
        if len(resident.warm) + len(resident.busy) < resident.limits.vms:
            machine.reset()
            resident.warm.append(machine)
        else:
            machine.close()

    def _discard(self, call: int) -> None:
        resident = self._calls.pop(call, None)
        if resident is not None:
            resident.busy.pop(call).close()


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


def main(sock: socket.socket, policy: JailPolicy, parent: int, cgroup: CgroupParent) -> NoReturn:
    """Enter a control group and the jail and serve; never returns, and runs none of the forking process's exit handlers."""
    status = 70
    try:
        channel = wire.BlockingChannel(sock, wire.TO_WORKER, wire.TO_WORKER_BYTES)
        try:
            report = jail.enter(
                policy,
                parent,
                [sock.fileno()],
                open_files=lambda: _open_files(policy),
                start=lambda: _start(policy),
                cgroup=cgroup,
            )
            channel.send(wire.Hello(report))
            Worker(channel).serve()
            status = 0
        except (JailError, EngineUnavailable) as error:
            channel.send(wire.Refused(str(error)))
    finally:
        os._exit(status)


def _open_files(policy: JailPolicy) -> None:
    """What a jailed process cannot open any more. Raises EngineUnavailable."""
    open_pagemap()
    faults.prepare()
    if policy.engine == "kvm":
        kvm.prepare()


def _start(policy: JailPolicy) -> None:
    """The one thread beside the vCPU's must run before threads are forbidden, and a trial before there are guests."""
    clock = time.pthread_getcpuclockid(threading.get_ident())
    dog = watchdog()
    dog.disarm(dog.arm(clock, time.clock_gettime_ns(clock) + SECOND_NS, lambda: None))
    if policy.engine == "kvm":
        kvm_trial.proven()
