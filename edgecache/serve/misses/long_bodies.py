"""Bodies too long for memory: stored as they pass, each by one request, while others wait for it for a while.

`fetching` has them made, `pipeline` waits for them. How one is written is `spooling`'s.
"""

from __future__ import annotations

import asyncio
import contextlib

from edgecache.policy.message import Timed, content_length
from edgecache.policy.storing import Storable
from edgecache.policy.variance import variant_key
from edgecache.serve.call import Call
from edgecache.serve.misses.keeping import Keeper
from edgecache.serve.misses.spooling import SpoolingBody
from edgecache.source import Reply
from edgecache.store import Entry, Spool, Store, StoredBody

_SECONDS = 5.0
"""How long a request waits for a long body that somebody else is fetching, before it fetches for itself."""


class LongBodies:
    """Long bodies on their way into one store; `keeper` makes their entries."""

    def __init__(self, store: Store, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper
        self.under_way: dict[tuple[str, str], asyncio.Event] = {}
        """URI and variant of those that are being written, until they have ended: of several at once one is enough."""

    def spooling(
        self, call: Call, reply: Reply, stored: Timed, *, admitted: Storable, vary: tuple[str, ...], since: int
    ) -> SpoolingBody | None:
        """The body, stored as it passes where it is, or may turn out, too long for memory."""
        above, length = self._store.spool_above, content_length(reply.response)
        if above is None or reply.response.status == 206 or (length is not None and length <= above):
            return None

        def make(body: StoredBody) -> Entry | None:
            entry = self._keeper.entry(call, stored, admitted, body, vary)
            return entry if self._keeper.purges.allow(entry, since) else None

        where = (call.request.uri, variant_key(call.request, vary, call.route.rule))

        async def keep(spool: Spool) -> None:
            await spool.commit(make, *where, stored.response_time)

        def spool(length: int | None) -> Spool | None:
            opened = None if where in self.under_way else self._store.spool(length, self._keeper.purges.on_record(since))
            if opened is not None:
                self.under_way[where] = asyncio.Event()
            return opened

        def closed() -> None:
            self.under_way.pop(where).set()

        return SpoolingBody(
            reply.body,
            length=length,
            above=above,
            limit_bytes=call.route.rule.max_object_bytes,
            spool=spool,
            keep=keep,
            closed=closed,
        )

    async def ended(self, uri: str) -> bool:
        """Wait for those of `uri`: nobody can join them any more. False: there are none."""
        under_way = [ended for (of, _), ended in self.under_way.items() if of == uri]
        if not under_way:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                for ended in under_way:
                    await ended.wait()
        return True
