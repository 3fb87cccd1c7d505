"""How a reader waits for its answer: the coroutines of `call.GuestCall`, which itself is compiled and has none. Called by it."""

from __future__ import annotations

import asyncio
from typing import Protocol


class OutputSource(Protocol):
    """Where output comes from, in pieces."""

    def take(self) -> bytes | None:
        """The next piece; None: not yet. Raises StopAsyncIteration after the last, GuestFailed when there will be no such end."""

    def more(self) -> asyncio.Future[None]:
        """Done when it is worth trying again."""

    def close(self) -> None:
        """The reader wants no more. Idempotent."""


async def next_piece(source: OutputSource) -> bytes:
    """The next piece of output. Raises as `OutputSource.take`; cancelling it closes the source."""
    while (piece := source.take()) is None:
        try:
            await source.more()
        except asyncio.CancelledError:
            source.close()
            raise
    return piece


async def closed(source: OutputSource) -> None:
    """Close it."""
    source.close()
