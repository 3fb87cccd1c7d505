"""Puts purges in force: on what is stored, on what is on its way to the store, and on what is to be fetched anew.

`pipeline` hands it the API's purges, the method PURGE and invalidations; what takes long is `reclaiming`'s and `refreshing`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgecache.policy.purging import Purge
from edgecache.serve.purging.purges import RecentPurges
from edgecache.serve.purging.reclaiming import Reclaimer
from edgecache.serve.purging.refreshing import Refresher
from edgecache.source import Culprit, SourceError
from edgecache.store import Entry, Purging, Store


class Purger:
    """Everything that one purge reaches in one process."""

    def __init__(self, store: Store, recent: RecentPurges, refetch: Callable[[Entry], asyncio.Task[None] | None]) -> None:
        """`recent`: where responses on their way look before they are stored. `refetch`: fetches one entry in the background."""
        self._store = store
        self._recent = recent
        self._refresher = Refresher(store, refetch)
        self._reclaimer = Reclaimer(store, self._refresher.wake)

    async def purge(self, purge: Purge, in_force: Callable[[], None] = lambda: None) -> int:
        """Returns how many entries it concerns. Raises SourceError: it is in force in this process, but is not on record on disk.

        It is in force from the moment when it is accepted: at once, unless too many large ones are under way. `in_force` is
        called then, for counting may take its time.
        """
        if not purge.urls:
            await self._reclaimer.room()
        purging = self._put_in_force(purge)
        try:
            on_disk = 0 if purging.recorded is None else await purging.recorded
        except OSError as error:
            raise not_recorded(str(error)) from error
        in_force()
        # What memory holds is on disk too, but for what the disk was too busy to take.
        return max(await self._reclaimer.counted(purging), on_disk)

    def invalidate(self, uri: str) -> None:
        """Forget every variant of `uri`, without waiting."""
        try:
            self._put_in_force(Purge(urls=(uri,)))
        except ValueError:
            self._store.remove(uri)

    async def close(self) -> None:
        await self._reclaimer.close()
        await self._refresher.close()

    def _put_in_force(self, purge: Purge) -> Purging[tuple[str, str]]:
        self._recent.note(purge)
        purging = self._store.purge(purge)
        if not purging.done:
            self._reclaimer.wake()
        self._refresher.wake()
        return purging


def not_recorded(detail: str) -> SourceError:
    """A purge that a restart would undo."""
    return SourceError(Culprit.EDGE, "purge-not-recorded", detail, status=500)
