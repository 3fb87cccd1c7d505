"""Active health checks: one task for each endpoint and rule that some site wants checked, shared by all of them.

`upstreams` says what is wanted; the probe is `origin`'s, the verdict `health`'s. Bounded in number and at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from edgecache.policy.upstream import HealthRule
from edgecache.upstream.choosing.health import UNCHECKED, Checked, first_delay, next_delay, observed
from edgecache.upstream.endpoint import Endpoint

_log: Final = logging.getLogger(__name__)
_AT_ONCE: Final = 64

Key = tuple[Endpoint, HealthRule]
Probe = Callable[[Endpoint, HealthRule], Awaitable[bool]]


class Checks:
    """At most `limit` endpoints are checked; the rest count as up."""

    def __init__(
        self,
        probe: Probe,
        *,
        limit: int,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._probe = probe
        self._limit = limit
        self._pause = pause
        self._chance = chance
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._checked: dict[Key, Checked] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def down(self, endpoint: Endpoint, rule: HealthRule) -> bool:
        return not self._checked.get((endpoint, rule), UNCHECKED).up

    def follow(self, wanted: Iterable[Key]) -> None:
        """Check these and no others from here on."""
        keys = dict.fromkeys(wanted)
        for key in [key for key in self._tasks if key not in keys]:
            self._end(key)
        missing = [key for key in keys if key not in self._tasks]
        room = 0 if self._closed else self._limit - len(self._tasks)
        for key in missing[:room]:
            self._tasks[key] = asyncio.get_running_loop().create_task(self._watch(*key))
        if missing[room:] and not self._closed:
            _log.error("%d origins are not checked: upstream.health_checks is %d", len(missing) - room, self._limit)

    def change(self, limit: int) -> None:
        """The bound from the next `follow` on."""
        self._limit = limit

    async def close(self) -> None:
        self._closed = True
        for key in list(self._tasks):
            self._end(key)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _end(self, key: Key) -> None:
        task = self._tasks.pop(key)
        self._checked.pop(key, None)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    async def _watch(self, endpoint: Endpoint, rule: HealthRule) -> None:
        key = (endpoint, rule)
        await self._pause(first_delay(rule, self._chance()))
        while True:
            async with self._at_once:
                try:
                    good = await self._probe(endpoint, rule)
                except Exception:
                    _log.exception("checking %s", endpoint.url)
                    good = False
            before = self._checked.get(key, UNCHECKED)
            after = self._checked[key] = observed(before, good, rule)
            if after.up != before.up:
                _log.warning("origin %s is %s by its health checks", endpoint.url, "up" if after.up else "down")
            await self._pause(next_delay(rule, self._chance()))
