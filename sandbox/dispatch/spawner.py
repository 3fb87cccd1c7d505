"""The monitor's side of processes: the zygote, and how workers come from it.

Starts and ends processes; knows nothing of generators and requests. Called by `monitor.py` and `worker_pool.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sandbox.channel import wire
from sandbox.channel.frames import Fds, Receiver, frame
from sandbox.dispatch.handle import WorkerHandle
from sandbox.errors import JailError, WorkerLost
from sandbox.jail import JailPolicy, JailReport

__all__ = ["EXIT_TIMEOUT_S", "SPAWN_TIMEOUT_S", "Spawner", "WorkerHandle"]

SPAWN_TIMEOUT_S = 20.0
"""From asking the zygote until a worker's Hello. A healthy machine takes some 20 ms."""
EXIT_TIMEOUT_S = 5.0
"""For a zygote whose channel is closed to kill its workers and go; then it is killed."""
_ROOT = str(Path(__file__).resolve().parent.parent)


class Spawner:
    """Keeps one zygote, and starts another when it dies."""

    def __init__(self, policy: JailPolicy) -> None:
        self._policy = policy
        self._zygote: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._fds = Fds()
        self._receiver: Receiver[wire.FromZygote] | None = None
        self._spawning: dict[int, asyncio.Future[tuple[int, int, int]]] = {}
        self._starting = asyncio.Lock()
        self._serial = 0
        self.statuses: dict[int, int] = {}
        """Exit statuses of the last workers that died, by process id."""

    async def spawn(self) -> WorkerHandle:
        """A worker in its jail, ready for work. Raises JailError, WorkerLost."""
        try:
            async with asyncio.timeout(SPAWN_TIMEOUT_S):
                pid, channel, pidfd = await self._fork()
                handle = WorkerHandle(pid, socket.socket(fileno=channel), pidfd, engine=self._policy.engine)
                try:
                    await self._greet(handle)
                except BaseException:
                    handle.kill()
                    raise
                return handle
        except TimeoutError:
            raise WorkerLost(f"no worker within {SPAWN_TIMEOUT_S:g} s") from None

    def run_on(self, engine: str) -> None:
        """What workers spawned from here on are let run guests on: unicorn or kvm."""
        self._policy = replace(self._policy, engine=engine)

    async def close(self) -> None:
        """End the zygote; it takes every worker with it."""
        self._disconnect("the monitor is closing")
        if self._zygote is not None:
            await _ended(self._zygote)
            self._zygote = None

    async def _fork(self) -> tuple[int, int, int]:
        async with self._starting:
            if self._sock is None:
                await self._start()
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[tuple[int, int, int]] = asyncio.get_running_loop().create_future()
        self._spawning[serial] = future
        try:
            if self._sock is None:
                raise WorkerLost("the zygote is gone")
            self._sock.sendall(frame(wire.Spawn(serial, self._policy)))
            return await future
        except OSError as error:
            raise WorkerLost(f"the zygote is gone: {error}") from error
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                _dispose(*future.result()[1:])
            raise
        finally:
            del self._spawning[serial]

    async def _greet(self, handle: WorkerHandle) -> None:
        greeted: asyncio.Future[JailReport] = asyncio.get_running_loop().create_future()

        def message(hello: wire.FromWorker) -> None:
            match hello:
                case wire.Hello(jail=report) if not greeted.done():
                    greeted.set_result(report)
                case wire.Refused(detail=detail) if not greeted.done():
                    greeted.set_exception(JailError(detail))
                case _:
                    raise wire.WireError(f"{type(hello).__name__} in place of a greeting")

        def lost(why: str) -> None:
            if not greeted.done():
                greeted.set_exception(WorkerLost(f"a worker died before it was ready: {why}"))

        handle.on_message, handle.on_lost = message, lost
        handle.report = await greeted

    async def _start(self) -> None:
        if self._zygote is not None:
            await _ended(self._zygote)
            self._zygote = None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._zygote = subprocess.Popen(  # noqa: ASYNC220, S603  by hand: PDEATHSIG follows the thread that forks
                    [sys.executable, "-s", "-m", "sandbox.zygote", str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env={"PYTHONPATH": _ROOT, "LC_ALL": "C.UTF-8"},
                    # Out of a terminal's reach, but in this session: where sessions share out the CPUs (sched(7), autogroup), the
                    # monitor would wait for a tick at each wake-up, and niceness mean nothing between it and the workers.
                    process_group=0,
                )
            except OSError as error:
                ours.close()
                raise WorkerLost(f"no zygote: {error}") from error
        ours.setblocking(False)
        self._sock = ours
        self._fds = Fds()
        self._receiver = Receiver(ours, wire.FROM_ZYGOTE, wire.ZYGOTE_BYTES, fds=self._fds)
        asyncio.get_running_loop().add_reader(ours, self._readable)

    def _readable(self) -> None:
        if self._receiver is None:
            return
        try:
            if self._receiver.receive(self._message):
                return
            why = "its channel is closed"
        except (OSError, WorkerLost) as error:
            why = str(error)
        self._disconnect(f"the zygote is gone: {why}")

    def _message(self, message: wire.FromZygote) -> None:
        match message:
            case wire.Spawned():
                channel, pidfd = self._fds.claim(2)
                future = self._spawning.get(message.serial)
                if future is not None and not future.done():
                    future.set_result((message.pid, channel, pidfd))
                else:
                    _dispose(channel, pidfd)
            case wire.SpawnFailed():
                future = self._spawning.get(message.serial)
                if future is not None and not future.done():
                    future.set_exception(WorkerLost(f"fork failed: {message.detail}"))
            case wire.Died():
                self.statuses[message.pid] = message.status
                while len(self.statuses) > 64:
                    del self.statuses[next(iter(self.statuses))]

    def _disconnect(self, why: str) -> None:
        if self._sock is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._sock = self._receiver = None
        self._fds.close()
        for future in self._spawning.values():
            if not future.done():
                future.set_exception(WorkerLost(why))


def _dispose(channel: int, pidfd: int) -> None:
    """Nobody waits for this worker any more."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(channel)
    os.close(pidfd)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a zygote whose channel is closed; kill it when it does not go by itself."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, gone.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                await gone.wait()
        if not gone.is_set():
            process.kill()
            await gone.wait()
        process.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
