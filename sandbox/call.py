"""One request at the reader's side: a bounded buffer of output, an end, and what the guest may ask of the edge.

`GuestCall` is a value with a mailbox; the dispatcher moves it from state to state. Readers use `async for`, `outcome`, `aclose`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sandbox import wire
from sandbox.errors import GuestFailed, SandboxError
from sandbox.outcome import End, Outcome, Usage
from sandbox.request import GuestRequest

if TYPE_CHECKING:
    from sandbox.lane import Generator
    from sandbox.pacing import Ticket


_log = logging.getLogger(__name__)


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


class State(enum.Enum):
    QUEUED = "queued"
    READY = "ready"
    """Holds a VM and wants its next slice."""
    RUNNING = "running"
    CALLING = "calling"
    """Waits for the answer to an edge call."""
    STALLED = "stalled"
    """Waits for its reader."""
    PACED = "paced"
    """Waits until its output has passed at the rate it may have; its VM may be done."""
    ENDED = "ended"


class GuestCall:
    """An answer in the making. Iterate once; iteration raises GuestFailed when the request ends otherwise than finished.

    Closing it, or cancelling the task that iterates, ends the request and discards its VM.
    """

    def __init__(
        self,
        number: int,
        generator: Generator | None,
        request: GuestRequest,
        *,
        edge: EdgeCalls,
        log: Callable[[bytes], None],
        now: float,
    ) -> None:
        self.number = number
        self.generator = generator
        self.request = request
        self.edge = edge
        self.log = log
        self.started = now
        self.began: float | None = None
        """When its first slice did, by the event loop's clock."""
        self.state = State.QUEUED
        self.outcome: Outcome | None = None
        """How it ended; None while it runs."""
        self.retried = False
        self.output_bytes = self.log_bytes = self.log_dropped_bytes = self.edge_calls = self.sub_requests = 0
        self.slices_ns = 0
        """CPU time that it has been given, in slices that were used up."""
        self.undelivered = 0
        self.answer: int | bytes | None = None
        """For the edge call that the guest waits for."""
        self.edge_task: asyncio.Task[None] | None = None
        self.wall_timer: asyncio.TimerHandle | None = None
        self.stalled_since = self.stalled_s = 0.0
        self.on_read: Callable[[GuestCall], None] | None = None
        self.on_close: Callable[[GuestCall], None] | None = None
        self.on_output: Callable[[GuestCall, bytes], None] = GuestCall.deliver
        self.on_log: Callable[[GuestCall, bytes], None] = GuestCall.tell
        self.held: deque[memoryview] = deque()
        """Output that waits to be delivered at its rate."""
        self.ticket: Ticket | None = None
        """Its place in line, while there is any."""
        self.closing: Outcome | None = None
        """How it ends once `held` is delivered."""
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        key = self.generator.key if self.generator else "?"
        return f"<GuestCall {self.number} of {key}: {self.outcome.end if self.outcome else self.state.value}>"

    @property
    def owner(self) -> Generator:
        """The dispatcher's: whose request it is."""
        if self.generator is None:
            raise AssertionError("a refused call has no generator")
        return self.generator

    @property
    def usage(self) -> Usage:
        """What is known on this side, for a request that its worker does not end."""
        return Usage(
            output_bytes=self.output_bytes,
            log_bytes=self.log_bytes,
            edge_calls=self.edge_calls,
            sub_requests=self.sub_requests,
        )

    def __aiter__(self) -> GuestCall:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self.outcome is not None:
                if self.outcome.ok:
                    raise StopAsyncIteration
                raise GuestFailed(self.outcome)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self._close()
                raise
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self.undelivered -= len(chunk)
        if self.state is State.STALLED and self.on_read is not None:
            self.on_read(self)
        return chunk

    async def aclose(self) -> None:
        """End the request if it has not ended. Idempotent."""
        self._close()

    def admit(self, report: wire.CallSlice) -> None:
        """The dispatcher's: count what a worker reports and hand it on.

        Raises WireError when it is past a limit: the machine would have ended the request, so this worker is no longer ours.
        """
        limits = self.owner.limits
        self.admit_output(report.output)
        if report.log:
            self.log_bytes += len(report.log)
            if self.log_bytes > limits.log_bytes:
                raise wire.WireError("more log than the limit allows")
            self.on_log(self, report.log)
        if isinstance(report.event, wire.WantsAnswer):
            self.edge_calls += 1
            self.sub_requests += report.event.kind == "fetch"
            if self.edge_calls > limits.edge_calls or self.sub_requests > limits.sub_requests:
                raise wire.WireError("more edge calls than the limits allow")

    def admit_piece(self, output: bytes) -> None:
        """The dispatcher's: part of a large output. Raises WireError, as `admit`, and for a part of any size but a whole piece's.

        A worker that was taken over could otherwise send millions of tiny pieces within one slice.
        """
        if len(output) != wire.OUTPUT_PIECE_BYTES:
            raise wire.WireError(f"a piece of {len(output)} bytes")
        self.admit_output(output)

    def admit_output(self, output: bytes) -> None:
        """The dispatcher's: output has come. Raises WireError, as `admit`."""
        if not output:
            return
        if self.output_bytes + len(output) > self.owner.limits.output_bytes:
            raise wire.WireError("more output than the limit allows")
        self.output_bytes += len(output)
        if self.outcome is None:
            self.on_output(self, output)

    def deliver(self, output: bytes) -> None:
        """To the reader."""
        self.undelivered += len(output)
        self._chunks.append(output)
        self._notify()

    def tell(self, log: bytes) -> None:
        """To whoever takes the log."""
        try:
            self.log(log)
        except Exception:
            _log.exception("the log receiver of %r failed", self)

    def finish(self, outcome: Outcome, now: float) -> None:
        """The dispatcher's: it is over. Times and sizes are filled in as seen from here."""
        wall_ns = max(0, int((now - self.started) * 1e9))
        self.outcome = Outcome(outcome.end, _completed(outcome.usage, wall_ns, self.log_dropped_bytes), outcome.detail)
        self.state = State.ENDED
        self._notify()

    def _close(self) -> None:
        if self.outcome is None and self.on_close is not None:
            self.on_close(self)
        self._chunks.clear()
        self.undelivered = 0

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def refused(
    end: End, detail: str, request: GuestRequest, *, edge: EdgeCalls, log: Callable[[bytes], None], now: float
) -> GuestCall:
    """A call that ended before it began."""
    call = GuestCall(0, None, request, edge=edge, log=log, now=now)
    call.finish(Outcome(end, Usage(), detail), now)
    return call


def _completed(usage: Usage, wall_ns: int, dropped: int) -> Usage:
    """With its time, and without the log dropped here. By hand: dataclasses.replace takes seven times as long."""
    return Usage(
        usage.cpu_ns,
        wall_ns,
        usage.output_bytes,
        max(0, usage.log_bytes - dropped),
        usage.log_dropped_bytes + dropped,
        usage.edge_calls,
        usage.sub_requests,
        usage.system_calls,
        usage.unknown_calls,
        usage.pages_written,
    )
