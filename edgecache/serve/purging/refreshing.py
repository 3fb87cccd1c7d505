"""Fetches anew what a purge has asked to be refreshed: in the background, a few at a time.

`purger` wakes it, `renewing` says how one entry is fetched. What is left out here is fetched when it is next asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.variance import selected_fields
from edgecache.store import Entry, Store

_AT_A_TIME = 8


class Refresher:
    """The task over one store."""

    def __init__(self, store: Store, refetch: Callable[[Entry], asyncio.Task[None] | None]) -> None:
        self._store = store
        self._refetch = refetch
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        if self._store.renewals and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        running: set[asyncio.Task[None]] = set()
        while self._store.renewals or running:
            entry = self._store.next_renewal()
            task = None if entry is None else self._refetch(entry)
            if task is not None:
                running.add(task)
            if len(running) >= _AT_A_TIME or (running and not self._store.renewals):
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif task is None:
                await asyncio.sleep(0)


def request_for(entry: Entry) -> Request | None:
    """A request that this entry answers, as far as its keys tell one."""
    fields = selected_fields(entry.variant)
    if fields is None:
        return None
    scheme, _, rest = entry.uri.partition("://")
    authority, slash, target = rest.partition("/")
    return Request("GET", scheme, authority, slash + target, freeze([("Host", authority), *fields]))
