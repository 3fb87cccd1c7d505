"""Generators as a serving process has them: the leader's monitor runs them, and the answer comes back over the channel.

Implements `generate.bridge.GuestRunner`. Output is held to the credit given, sub-requests are answered here, through this
process's cache. Without a leader every call ends at once, as `leader-gone`.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from edgecache.generate.edge_calls import FetchThrough, SubRequests
from edgecache.processes import messages
from edgecache.serve.call import Call
from edgecache.source import Culprit, SourceError
from sandbox import EdgeCallRefused, GuestFailed, GuestRequest, Outcome

_log: Final = logging.getLogger(__name__)
CREDIT_BYTES: Final = 256 << 10
"""Of one answer, on its way or not yet read by its client."""
LEADER_GONE: Final = "leader-gone"


def leader_gone() -> SourceError:
    """Why a serving process whose leader has ended cannot do what only that could."""
    return SourceError(Culprit.EDGE, LEADER_GONE, "the leading process has ended", status=503)


class RemoteGuests:
    """Guests of a serving process, and all its calls of them. Implements `path.Guests`."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        self.send = send
        self._numbers = itertools.count(1)
        self._calls: dict[int, RemoteCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost = False

    def runner(self, request_id: str) -> RemoteRunner:
        """What runs a generator for the request with this ID."""
        return RemoteRunner(self, request_id)

    def edge_calls(self, call: Call, fetch_through: FetchThrough) -> SubRequests:
        """The only edge calls that are answered here: stored values are with the leader."""
        return SubRequests(call.request.scheme, call.request.authority, fetch_through)

    def log_of(self, site: str, generator: str) -> LeadersLog:
        return LeadersLog(self.send, f"{site}/{generator}")

    async def ready(self, key: str) -> None:
        """The leader sees to it, when the call arrives there."""
        del key

    def known(self, key: str) -> bool:
        del key
        return True

    def begin(self, key: str, request: GuestRequest, edge: SubRequests, request_id: str) -> RemoteCall:
        """Raises SourceError."""
        if self._lost:
            raise leader_gone()
        number = next(self._numbers)
        call = self._calls[number] = RemoteCall(self, number, edge)
        self.send(messages.CallGuest(number, key, request.environ, request.body, request_id))
        self.send(messages.Credit(number, CREDIT_BYTES))
        return call

    def receive(self, message: messages.Output | messages.Ended | messages.Fetch) -> None:
        """What the leader says of a call; a word about one that was cancelled meanwhile is no news."""
        call = self._calls.get(message.call)
        if call is None:
            return
        match message:
            case messages.Output(data=data):
                call.feed(data)
            case messages.Ended(outcome=outcome):
                self.forget(call)
                call.end(outcome)
            case messages.Fetch(number=number, data=data):
                self._start(self._fetch(call, number, data))

    def lose(self) -> None:
        """The leader has gone: so has every call."""
        self._lost = True
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.fail(leader_gone())

    def forget(self, call: RemoteCall) -> None:
        self._calls.pop(call.number, None)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, call: RemoteCall, number: int, data: bytes) -> None:
        answer: int | bytes
        try:
            answer = await call.edge.fetch(data)
        except EdgeCallRefused as refused:
            answer = -abs(refused.number)
        except Exception:
            _log.exception("a sub-request failed")
            answer = -errno.EIO
        self.send(messages.Fetched(call.number, number, answer))


@dataclass(frozen=True, slots=True)
class LeadersLog:
    """A generator's log, which the leader keeps; it hears the program itself. Only the edge's own lines come from here."""

    send: Callable[[msgspec.Struct], None]
    generator: str

    def write(self, version: int, request_id: str, data: bytes) -> None:
        self.send(messages.Noted(f"{self.generator}@{version}", request_id, data))


class RemoteRunner:
    """Implements `generate.bridge.GuestRunner` for one request; its guests' stored values are with the leader."""

    def __init__(self, guests: RemoteGuests, request_id: str) -> None:
        self._guests = guests
        self._request_id = request_id

    def call(self, key: str, request: GuestRequest, *, edge: SubRequests, log: Callable[[bytes], None]) -> RemoteCall:
        """Raises SourceError. `log` hears nothing: the leader keeps the logs."""
        del log
        return self._guests.begin(key, request, edge, self._request_id)


class RemoteCall:
    """An answer in the making. Iterate once: raises GuestFailed as the monitor's own, SourceError without a leader."""

    def __init__(self, guests: RemoteGuests, number: int, edge: SubRequests) -> None:
        self.number = number
        self.edge = edge
        self.outcome: Outcome | None = None
        self.heard: Callable[[], None] | None = None
        """As `sandbox.GuestCall`'s."""
        self._guests = guests
        self._failure: SourceError | None = None
        self._chunks: deque[bytes] = deque()
        self._read = 0
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> RemoteCall:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self.outcome is not None:
                if self.outcome.ok:
                    raise StopAsyncIteration
                raise GuestFailed(self.outcome)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self._read += len(chunk)
        if self._read >= CREDIT_BYTES // 2 and self.outcome is None:
            self._guests.send(messages.Credit(self.number, self._read))
            self._read = 0
        return chunk

    def whole(self) -> bytes | None:
        """All of the output, if the request has ended well and nothing has been read of it. It can be read afterwards all the
        same."""
        return b"".join(self._chunks) if self.outcome is not None and self.outcome.ok else None

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def close(self) -> None:
        """End the request if it has not ended. Idempotent."""
        self._chunks.clear()
        if self.outcome is None and self._failure is None:
            self._failure = SourceError(Culprit.EDGE, "aborted", status=503)
            self._guests.forget(self)
            self._guests.send(messages.Cancel(self.number))

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._wake()

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._wake()

    def fail(self, error: SourceError) -> None:
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.heard is not None:
            self.heard()
