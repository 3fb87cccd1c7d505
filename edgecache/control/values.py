"""Generators' stored values for the guests' kv_get and kv_put: broken state is an absent value or a refusal, not an exception.

Implements `generate.edge_calls.KeyValue` over `State`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from edgecache.control.state import State, StateError

_log: Final = logging.getLogger(__name__)
_AT_ONCE: Final = 4
"""Of one site, with the state: it does one thing after another, for operators too, and a write takes a disk's time."""
T = TypeVar("T")


class StoredValues:
    """What outlives a guest's request."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._failing = False
        self.failures = 0
        """Calls that state did not answer, since the start."""

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None:
        try:
            value = await self._in_turn(site, self._state.kv_get(site, generator, key))
        except StateError as error:
            self._failed(error)
            return None
        self._failing = False
        return value

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        """False when the generator's quota, or the disk, has no room."""
        try:
            stored = await self._in_turn(site, self._state.kv_put(site, generator, key, value))
        except StateError as error:
            self._failed(error)
            return False
        self._failing = False
        return stored

    async def _in_turn(self, site: str, work: Coroutine[Any, Any, T]) -> T:
        """`work`, once few of the site's are under way: as is, until it is done, what nobody waits for any more."""
        turns = self._turns.get(site)
        if turns is None:
            turns = self._turns[site] = asyncio.Semaphore(_AT_ONCE)
        try:
            await turns.acquire()
        except BaseException:
            work.close()
            raise
        task = asyncio.get_running_loop().create_task(work)

        def done(task: asyncio.Task[T]) -> None:
            turns.release()
            if not task.cancelled():
                task.exception()  # one that nobody waits for any more is not an error of the loop's

        task.add_done_callback(done)
        return await asyncio.shield(task)

    def _failed(self, error: StateError) -> None:
        """Said once for each time that it begins: guests call often."""
        self.failures += 1
        if not self._failing:
            self._failing = True
            _log.warning("stored values are unavailable to guests: %s", error)
