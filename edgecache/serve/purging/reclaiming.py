"""Works off large purges between requests: one task that ends when no purge has anything left to do.

`purger` wakes it after a purge and closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from edgecache.store import Purging, Store

_SLICE = 100
"""Entries visited without letting the event loop do anything else: less than 1 ms (loadtests.bench_purge)."""
_PAUSE_SECONDS = 0.005


class Reclaimer:
    """The task over one store."""

    def __init__(self, store: Store, after_slice: Callable[[], None]) -> None:
        self._store = store
        self._after_slice = after_slice
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def room(self) -> None:
        """Wait while too many purges are under way."""
        while self._store.crowded:
            self.wake()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def counted(self, purging: Purging[Any]) -> int:
        """How many entries the purge concerns."""
        while (count := purging.count) is None:
            self.wake()
            await asyncio.sleep(_PAUSE_SECONDS)
        return count

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._store.reclaim(_SLICE):
            self._after_slice()
            await asyncio.sleep(0)
