"""Guests' calls as the leader runs them for its serving processes: from the channel to the monitor and back.

`serving_process` has one `GuestPort` for each. A call ends with its guest, with a Cancel, or with the process that asked.
Where there is no other process, `one_process` has `LocalGuests`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from edgecache.generate.bridge import GuestLog, GuestRunner
from edgecache.generate.edge_calls import FetchThrough, GeneratorEdgeCalls, KeyValue
from edgecache.processes import messages
from edgecache.serve.call import Call
from edgecache.source import Culprit, SourceError
from sandbox import EdgeCallRefused, EdgeCalls, End, GuestFailed, GuestRequest, Outcome, Usage

_log: Final = logging.getLogger(__name__)


class Logs(Protocol):
    """The one method of `control.logs.GuestLogs` that is used here."""

    def of(self, site: str, generator: str) -> GuestLog: ...


@dataclass(frozen=True, slots=True)
class GuestHost:
    """What guests' calls need of the process that has monitor and control API."""

    runner: GuestRunner[EdgeCalls]
    values: KeyValue
    logs: Logs
    ready: Callable[[str], Awaitable[None]]
    """Makes the version with this key known to the runner. Raises GuestFailed where it cannot."""
    known: Callable[[str], bool]
    """Whether `ready` has nothing to do for this key."""


class LocalGuests:
    """Guests of the process that has the monitor. Implements `path.Guests`."""

    def __init__(self, host: GuestHost) -> None:
        self._host = host
        self.known: Final = host.known
        self.log_of: Final = host.logs.of

    def runner(self, request_id: str) -> GuestRunner[EdgeCalls]:
        del request_id
        return self._host.runner

    def edge_calls(self, call: Call, fetch_through: FetchThrough) -> GeneratorEdgeCalls:
        request, route = call.request, call.route
        return GeneratorEdgeCalls(
            scheme=request.scheme,
            authority=request.authority,
            fetch_through=fetch_through,
            site=route.site.name,
            generator=route.generator.name if route.generator else "",
            store=self._host.values,
        )

    async def ready(self, key: str) -> None:
        try:
            await self._host.ready(key)
        except GuestFailed as failed:
            raise SourceError(Culprit.GENERATOR, End.UNKNOWN_GENERATOR, failed.outcome.detail, status=503) from failed


class GuestPort:
    """One serving process's calls."""

    def __init__(self, host: GuestHost, send: Callable[[msgspec.Struct], None]) -> None:
        self._host = host
        self._send = send
        self._calls: dict[int, _Running] = {}

    def receive(self, message: messages.OfGuests) -> None:
        """A word about a call that has ended meanwhile is no news."""
        if isinstance(message, messages.CallGuest):
            running = self._calls[message.call] = _Running(self._host, self._send, message)
            running.task.add_done_callback(lambda _: self._calls.pop(message.call, None))
            return
        if isinstance(message, messages.Noted):
            site, generator, version = _named(message.key)
            self._host.logs.of(site, generator).write(version, message.request_id, message.line)
            return
        found = self._calls.get(message.call)
        if found is None:
            return
        match message:
            case messages.Credit(size=size):
                found.grant(size)
            case messages.Cancel():
                found.task.cancel()
            case messages.Fetched(number=number, answer=answer):
                found.fetched(number, answer)

    async def close(self) -> None:
        """The process has gone: nobody wants these answers."""
        tasks = [running.task for running in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Running:
    """One call."""

    def __init__(self, host: GuestHost, send: Callable[[msgspec.Struct], None], call: messages.CallGuest) -> None:
        self._host = host
        self._send = send
        self._call = call
        self._credit = 0
        self._granted = asyncio.Event()
        self._numbers = itertools.count(1)
        self._fetches: dict[int, asyncio.Future[int | bytes]] = {}
        self.task = asyncio.get_running_loop().create_task(self._run())

    def grant(self, size: int) -> None:
        self._credit += size
        self._granted.set()

    def fetched(self, number: int, answer: int | bytes) -> None:
        waiting = self._fetches.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    # Implements sandbox.EdgeCalls.

    async def fetch(self, data: bytes) -> bytes:
        """Asks the process that asked: the sub-request belongs in its cache."""
        number = next(self._numbers)
        waiting = self._fetches[number] = asyncio.get_running_loop().create_future()
        self._send(messages.Fetch(self._call.call, number, data))
        try:
            answer: int | bytes = await waiting
        finally:
            self._fetches.pop(number, None)
        if isinstance(answer, int):
            raise EdgeCallRefused(-answer, "the sub-request was refused")
        return answer

    async def kv_get(self, key: bytes) -> bytes | None:
        site, generator, _ = _named(self._call.key)
        return await self._host.values.kv_get(site, generator, key)

    async def kv_put(self, key: bytes, value: bytes) -> bool:
        site, generator, _ = _named(self._call.key)
        return await self._host.values.kv_put(site, generator, key, value)

    async def _run(self) -> None:
        try:
            outcome = await self._answer()
        except GuestFailed as failed:
            outcome = failed.outcome
        except Exception as error:
            _log.exception("the call %s failed", self._call.key)
            outcome = Outcome(End.WORKER_DIED, Usage(), str(error))
        self._send(messages.Ended(self._call.call, outcome))

    async def _answer(self) -> Outcome:
        asked = self._call
        await self._host.ready(asked.key)
        site, generator, version = _named(asked.key)
        log = self._host.logs.of(site, generator)
        guest = self._host.runner.call(
            asked.key,
            GuestRequest(asked.environ, asked.body),
            edge=self,
            log=lambda data: log.write(version, asked.request_id, data),
        )
        try:
            async for chunk in guest:
                await self._pass_on(chunk)
        finally:
            await guest.aclose()
        return guest.outcome or Outcome(End.FINISHED, Usage())

    async def _pass_on(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            while self._credit <= 0:
                self._granted.clear()
                await self._granted.wait()
            piece = rest[: self._credit]
            self._credit -= len(piece)
            self._send(messages.Output(self._call.call, bytes(piece)))
            rest = rest[len(piece) :]


def _named(key: str) -> tuple[str, str, int]:
    """Site, generator and version of the monitor's name for a version, `site/generator@version`."""
    name, _, version = key.rpartition("@")
    site, _, generator = name.partition("/")
    return site, generator, int(version)
