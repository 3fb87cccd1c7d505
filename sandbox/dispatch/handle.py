"""The monitor's handle for one worker: its channel, its process, its CPU clock.

Moves frames and ends the process; knows nothing of generators and requests. Made by `spawner.py`, used by `dispatcher.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from sandbox.channel import wire
from sandbox.channel.frames import Receiver, frame
from sandbox.dispatch.cpuclock import CpuClock
from sandbox.errors import WorkerLost
from sandbox.jail import JailReport
from sandbox.limits import Limits
from sandbox.program import Program


class WorkerHandle:
    """One worker: its channel, its process, its CPU clock. `on_message` and `on_lost` are set by whoever uses it."""

    def __init__(self, pid: int, sock: socket.socket, pidfd: int, *, engine: str = "unicorn") -> None:
        self.pid = pid
        self.report = JailReport((), ())
        self.on_message: Callable[[wire.FromWorker], None] = self._unexpected
        self.on_lost: Callable[[str], None] = lambda _: None
        self.lost = False
        self._clock = CpuClock(pid, many_threads=engine == "kvm")
        self._used_ns = 0
        self._sock = sock
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver[wire.FromWorker] = Receiver(sock, wire.FROM_WORKER, wire.FROM_WORKER_BYTES)
        self._unsent: deque[memoryview] = deque()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def cpu_ns(self) -> int:
        """CPU time of the whole process as the kernel counts it; of a lost one, what it was. No word of the worker's is taken."""
        if not self.lost:
            self._used_ns = self._clock.read_ns()
        return self._used_ns

    def send(self, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
        """Send, or keep what does not fit into the socket for later. A lost worker is told by `on_lost`, soon."""
        if self.lost:
            return
        data = frame(message)
        sent = 0
        if not self._unsent:
            try:
                sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._sock, self._writable)
        if fds and not sent:
            self._loop.call_soon(self.lose, "its channel is full")
            return
        self._unsent.append(memoryview(data)[sent:])

    def load(self, number: int, program: Program, limits: Limits, engine: str) -> None:
        """Send a Load, and the program in a memfd beside it. Raises OSError: no memory, no descriptors."""
        data = wire.encode_program(program)
        fd = os.memfd_create("program", os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False, buffering=0) as file:
                view = memoryview(data)
                while view:
                    written = file.write(view)
                    view = view[written:]
            self.send(wire.Load(number, len(data), limits, engine), (fd,))
        finally:
            os.close(fd)

    def lose(self, why: str) -> None:
        """Kill the worker, and tell that it is gone. Idempotent."""
        if self.lost:
            return
        self.kill()
        self.on_lost(why)

    def kill(self) -> None:
        """Kill the worker without telling. Idempotent."""
        if self.lost:
            return
        self.cpu_ns()
        self.lost = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._unsent.clear()
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        self._clock.close()
        self._sock.close()

    def _readable(self) -> None:
        try:
            if self._receiver.receive(self._deliver):
                return
            why = "its channel is closed"
        except (OSError, WorkerLost) as error:
            why = str(error)
        self.lose(why)

    def _deliver(self, message: wire.FromWorker) -> None:
        if not self.lost:
            self.on_message(message)

    def _writable(self) -> None:
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent[0])
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                    return
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(str(error))
            return
        self._loop.remove_writer(self._sock)

    def _unexpected(self, message: wire.FromWorker) -> None:
        raise wire.WireError(f"{type(message).__name__} out of turn")
