"""What arrives on a connection of HTTP/1.1 comes here first: a remembered head is answered on the spot, all else goes on.

A class of its own because it is compiled, which `connection` cannot be. That says when a head may be answered, and keeps time.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable

from edgecache.serve.fast_lane import MAX_HEAD_BYTES, FastLane


class Turnstile:
    """One connection's."""

    __slots__ = ("_client", "_lane", "_read", "_write", "waiter", "written")

    def __init__(self, lane: FastLane, read: Callable[[bytes], None]) -> None:
        """`read` takes what is not answered here."""
        self._lane = lane
        self._read = read
        self._write: Callable[[bytes], None] = _ignore
        self._client = ""
        self.waiter: Future[None] | None = None
        """While it is there and not done, the connection waits for a head, and whole ones may be answered."""
        self.written = 0
        """Bytes of answers, since the connection was made."""

    def open(self, write: Callable[[bytes], None], client: str) -> None:
        """`write` is the transport's; `client`: its address."""
        self._write = write
        self._client = client

    def close(self) -> None:
        """The connection is over. Nothing here refers to it any more."""
        self._read = self._write = _ignore
        self.waiter = None

    def data_received(self, data: bytes) -> None:
        """As asyncio's."""
        waiter = self.waiter
        if waiter is not None and len(data) <= MAX_HEAD_BYTES and not waiter.done():
            answer = self._lane.answer(data, self._client)
            if answer is not None:
                self.written += len(answer)
                self._write(answer)
                return
        self._read(data)


def _ignore(data: bytes) -> None:
    del data
