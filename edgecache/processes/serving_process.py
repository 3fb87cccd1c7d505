"""The leader's handle to one serving process: its start, what is said to it, and its end. `fleet` has one for each that lives.

One that does not do in time what it must is killed: what it was asked is then true of it, for it is no more.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgecache.processes import messages
from edgecache.processes.channel import Channel
from edgecache.processes.guests import GuestHost, GuestPort
from edgecache.processes.messages import Report
from edgecache.serve.purging.purger import not_recorded
from edgecache.source import SourceError

_log: Final = logging.getLogger(__name__)
START_SECONDS: Final = 60.0
"""From its start until it could accept connections. A healthy machine takes less than one."""
ACKNOWLEDGE_SECONDS: Final = 10.0
"""How long a process may take to say that what it was told is done."""
COUNT_SECONDS: Final = 60.0
"""How long it may take to say how many entries a purge concerned, once that is in force."""


class StartFailed(Exception):
    """A serving process did not come up. The message says why."""


class ServingState(enum.StrEnum):
    """How far a serving process is, in the word that status shows."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Asks:
    """What a process may ask of the whole edge, by callbacks that `fleet` gives."""

    purge: Callable[[ServingProcess, messages.AskPurge], Awaitable[int]]
    invalidate: Callable[[ServingProcess, messages.AskInvalidate], Awaitable[int]]
    flight: Callable[[ServingProcess, messages.ClaimFlight | messages.HeldClaim | messages.Settle], None]


class ServingProcess:
    """One serving process in the place `slot`. Everything happens on the loop that made it."""

    def __init__(self, slot: int, number: int, asks: Asks, host: GuestHost) -> None:
        """`number`: on the board of flights, nobody else's."""
        self.slot = slot
        self.number = number
        self.state = ServingState.STARTING
        self.pid = 0
        self.since = time.time()
        """When it was started, in seconds since the epoch."""
        self.report: Report | None = None
        """The last one."""
        self.ended = asyncio.Event()
        self._asks = asks
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._counting: dict[int, asyncio.Future[int]] = {}
        self._reporting: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel = Channel(messages.TO_LEADER, messages.TO_LEADER_BYTES, self._receive, self._lost)
        self._guests = GuestPort(host, self._channel.send)
        self.send = self._channel.send

    def __repr__(self) -> str:
        return f"<serving process {self.slot + 1} (pid {self.pid}): {self.state}>"

    async def start(self, begin: Callable[[], messages.Begin], inherited: Sequence[int]) -> None:
        """Start it; returns when it could accept connections. Raises StartFailed, and it is gone.

        `begin` is asked when its channel is open: what is sent before is lost, what is sent after is news.
        """
        try:
            ours = self._launch(inherited)
        except OSError as error:
            self._gone()
            raise StartFailed(f"a serving process cannot be started: {error}") from error
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)
        try:
            await self._channel.connected(ours)
            self.send(begin())
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(self._ready)
        except (TimeoutError, OSError, StartFailed) as error:
            await self.kill()
            raise StartFailed(str(error) or f"a serving process was not ready within {START_SECONDS:g} s") from error
        except BaseException:
            await self.kill()
            raise

    def _launch(self, inherited: Sequence[int]) -> socket.socket:
        """Our end of the channel to a new process. Raises OSError, and there is no process."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module; exec is soon
                    [sys.executable, "-m", "edgecache.processes", str(theirs.fileno())],
                    pass_fds=[theirs.fileno(), *inherited],
                    stdin=subprocess.DEVNULL,
                )
            try:
                self._pidfd = os.pidfd_open(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
        except OSError:
            ours.close()
            raise
        self._process, self.pid = process, process.pid
        return ours

    @property
    def how_it_ended(self) -> str:
        """In the kernel's words. SIGBUS: a file that it maps, as the index of a disk tier, was cut off, or cannot be read."""
        status = None if self._process is None else self._process.returncode
        if status is None:
            return "no status"
        try:
            return f"status {status}" if status >= 0 else signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"

    def serve(self) -> None:
        """It is about to be told to accept connections: from here on it counts among those who must say that they did."""
        if not self.ended.is_set():
            self.state = ServingState.SERVING

    async def done(
        self, message: messages.Publish | messages.Invalidate | messages.Apply | messages.Reopen | messages.Accept | messages.Fade
    ) -> str:
        """Tell it, and wait until that is done or the process is gone. Returns the failure that it reports, or an empty text."""
        waiting = self._told(message.serial)
        self.send(message)
        return await self._in_time(message.serial, waiting)

    async def purged(self, message: messages.PurgeStored) -> asyncio.Future[int]:
        """Tell it of a purge; returns once it is in force there. The future: how many entries it concerned.

        Raises SourceError: it is not on record on disk.
        """
        counting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._counting[message.serial] = counting
        waiting = self._told(message.serial)
        self.send(message)
        failure = await self._in_time(message.serial, waiting)
        if failure:
            raise not_recorded(failure)
        if self.ended.is_set() and not counting.done():
            counting.set_result(0)
        return counting

    async def tell(self, serial: int, within_seconds: float) -> None:
        """Have it report; what it said last stands where it does not in time."""
        waiting = self._reporting[serial] = asyncio.get_running_loop().create_future()
        self.send(messages.Tell(serial))
        try:
            async with asyncio.timeout(within_seconds):
                await waiting
        except TimeoutError:
            _log.warning("%r did not report within %g s", self, within_seconds)
        finally:
            self._reporting.pop(serial, None)

    async def drain(self, within_seconds: float) -> None:
        """Have it stop accepting, finish and end; then it is killed."""
        self.state = ServingState.DRAINING if not self.ended.is_set() else ServingState.ENDED
        self.send(messages.Drain())
        try:
            async with asyncio.timeout(within_seconds):
                await self.ended.wait()
        except TimeoutError:
            _log.warning("%r did not end within %g s", self, within_seconds)
            await self.kill()
        await self._settled()

    async def kill(self) -> None:
        """Returns when it is gone. Idempotent."""
        if self._process is not None and not self.ended.is_set():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.ended.wait()
        await self._settled()

    def _told(self, serial: int) -> asyncio.Future[str]:
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[serial] = waiting
        if self.ended.is_set():
            waiting.set_result("")
        return waiting

    async def _in_time(self, serial: int, waiting: asyncio.Future[str]) -> str:
        try:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                return await asyncio.shield(waiting)
        except TimeoutError:
            _log.error("%r did not do within %g s what it was told: it is replaced", self, ACKNOWLEDGE_SECONDS)
            await self.kill()
            return ""
        finally:
            self._waiting.pop(serial, None)

    def _receive(self, message: Any) -> None:
        match message:
            case messages.CallGuest() | messages.Credit() | messages.Cancel() | messages.Fetched() | messages.Noted():
                self._guests.receive(message)
            case messages.ClaimFlight() | messages.HeldClaim() | messages.Settle():
                self._asks.flight(self, message)
            case messages.Done(serial=serial, failure=failure):
                _resolve(self._waiting.get(serial), failure)
            case messages.Counted(serial=serial, count=count):
                _resolve(self._counting.pop(serial, None), count)
            case messages.Told(serial=serial, report=report):
                self.report = report
                _resolve(self._reporting.get(serial), None)
            case messages.AskPurge():
                self._answer(message.serial, self._asks.purge(self, message))
            case messages.AskInvalidate():
                self._answer(message.serial, self._asks.invalidate(self, message))
            case messages.Prepared():
                _resolve(self._ready, None)
            case messages.Refused(detail=detail):
                if not self._ready.done():
                    self._ready.set_exception(StartFailed(detail))
                    self._ready.exception()
            case _:
                raise TypeError(f"unknown message {message!r}")

    def _answer(self, serial: int, work: Awaitable[int]) -> None:
        async def answer() -> None:
            try:
                told = messages.Forgotten(serial, await work)
            except SourceError as error:
                told = messages.Forgotten(serial, 0, error.detail)
            self.send(told)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self) -> None:
        """Its end of the channel is closed: it is ending, or of no use any more."""
        if not self.ended.is_set() and self.state is not ServingState.DRAINING:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._process is not None:
            self._process.wait()
        self._gone()

    def _gone(self) -> None:
        self.state = ServingState.ENDED
        self.ended.set()
        self._channel.close()
        status = self._process.returncode if self._process is not None else None
        if not self._ready.done():
            self._ready.set_exception(StartFailed(f"a serving process ended while it started (status {status})"))
            self._ready.exception()
        for waiting in self._waiting.values():
            _resolve(waiting, "")
        for counting in self._counting.values():
            _resolve(counting, 0)
        for reporting in self._reporting.values():
            _resolve(reporting, None)
        self._counting.clear()

    async def _settled(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._guests.close()


def _resolve(waiting: asyncio.Future[Any] | None, value: object) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(value)
