"""Owner of work that no client waits for: one task a key, awaited or cancelled at shutdown.

A TaskGroup that outlives one function: `serve` starts revalidations and flights here and closes it when it drains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Hashable
from typing import Any

_log = logging.getLogger(__name__)


class Background:
    """Tasks by key. A key that is running is not started again; above `limit` nothing is started."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._closed = False

    def start(self, key: Hashable, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any] | None:
        """The task, or None when the key is busy, the owner full or closed (`work` is then closed unrun)."""
        if self._closed or key in self._tasks or len(self._tasks) >= self.limit:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def busy(self, key: Hashable) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109 - the time given to the tasks, not to this call
        """Take nothing new, wait up to `timeout` seconds for what runs, cancel the rest and await it."""
        self._closed = True
        tasks = set(self._tasks.values())
        if tasks and timeout > 0:
            _done, tasks = await asyncio.wait(tasks, timeout=timeout)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work failed: %s", error, exc_info=error)
