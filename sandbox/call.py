"""One request at the reader's side: output in a bounded buffer, an end, and what the guest may ask of the edge.

Knows nothing of queues and workers: `lane.Job` is the same request as the dispatcher sees it. Read with `async for`, `outcome`
and `aclose` by whoever called the monitor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sandbox.errors import GuestFailed, SandboxError
from sandbox.outcome import End, Outcome, Usage
from sandbox.reading import closed, next_piece


class EdgeCallRefused(SandboxError):
    """An edge call cannot be answered; the guest gets `-number` (errno(3))."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


class EdgeCalls(Protocol):
    """What a guest can ask for. May raise EdgeCallRefused; anything else is logged, and EIO for the guest."""

    async def fetch(self, data: bytes) -> bytes: ...

    async def kv_get(self, key: bytes) -> bytes | None: ...

    async def kv_put(self, key: bytes, value: bytes) -> bool: ...


class GuestCall:
    """An answer in the making. Iterate once; iteration raises GuestFailed when the request ends otherwise than finished.

    Closing it, or cancelling the task that iterates, ends the request and discards its VM.
    """

    def __init__(self, number: int, key: str) -> None:
        self.number = number
        self.key = key
        """Of the generator that is to answer."""
        self.queued_s: float | None = None
        """Seconds before its first slice began; None until then."""
        self.outcome: Outcome | None = None
        """How it ended; None while it runs."""
        self.undelivered = 0
        """Bytes of output that the reader has not taken."""
        self.heard: Callable[[], None] | None = None
        """For a reader without a task: called at each piece of output, and at the end."""
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<GuestCall {self.number} of {self.key}: {self.outcome.end if self.outcome else 'running'}>"

    def __aiter__(self) -> GuestCall:
        return self

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        return next_piece(self)

    def aclose(self) -> Coroutine[Any, Any, None]:
        """End the request if it has not ended. Idempotent."""
        return closed(self)

    def take(self) -> bytes | None:
        """See `reading.OutputSource`."""
        if not self._chunks:
            if self.outcome is None:
                return None
            if self.outcome.ok:
                raise StopAsyncIteration
            raise GuestFailed(self.outcome)
        chunk = self._chunks.popleft()
        self.undelivered -= len(chunk)
        self._taken()
        return chunk

    def whole(self) -> bytes | None:
        """All of the output, if the request has ended well and nothing has been read of it. It can be read afterwards all the
        same."""
        return b"".join(self._chunks) if self.outcome is not None and self.outcome.ok else None

    def more(self) -> asyncio.Future[None]:
        """See `reading.OutputSource`."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def deliver(self, output: bytes) -> None:
        """Called by the dispatcher: output for the reader."""
        self.undelivered += len(output)
        self._chunks.append(output)
        self._notify()

    def end(self, outcome: Outcome) -> None:
        """Called by the dispatcher: nothing more comes."""
        self.outcome = outcome
        self._notify()

    def close(self) -> None:
        """See `reading.OutputSource`."""
        if self.outcome is None:
            self._given_up()
        self._chunks.clear()
        self.undelivered = 0

    def _taken(self) -> None:
        """The reader has taken a piece of output."""

    def _given_up(self) -> None:
        """The reader wants no more of what has not ended."""

    def _notify(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.heard is not None:
            self.heard()


def refused(key: str, end: End, detail: str) -> GuestCall:
    """A call that ended before it began."""
    call = GuestCall(0, key)
    call.end(Outcome(end, Usage(), detail))
    return call
