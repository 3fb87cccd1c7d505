"""What the request path asks of a store, whichever tiers it has. `memory` and `tiered` implement it, `serve` calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgecache.policy.message import Request
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.store.entry import Entry
from edgecache.store.purging import Purging
from edgecache.store.stored_body import StoredBody

Make = Callable[[StoredBody], Entry | None]
"""The entry of a body that is complete; None: it is not to be stored after all."""


class Spool(Protocol):
    """A long body on its way into a store."""

    @property
    def broken(self) -> bool:
        """It will not be kept."""

    async def write(self, chunk: bytes) -> None: ...

    async def commit(self, make: Make, uri: str, variant: str, time: float) -> bool:
        """Store the entry that `make` makes of the complete body. False: it is not kept. `time`: its response time."""

    async def abort(self) -> None:
        """Give back what was taken; idempotent, harmless after `commit`."""


class Store(Protocol):
    """Synchronous, on the event loop's thread only."""

    @property
    def at(self) -> Callable[[tuple[str, str]], Entry | None]:
        """What memory holds under this very URI and variant."""

    @property
    def asked(self) -> Callable[[tuple[str, str], int], None]:
        """Hears how many requests were answered by an entry's standing, without a lookup in memory."""

    @property
    def unsettled(self) -> list[Purging[tuple[str, str]]]:
        """Purges under way in memory: while there are any, an entry's standing says nothing. Always the same list."""

    def get(self, uri: str, request: Request, rule: CacheRule) -> Entry | None:
        """The variant that `request` selects (RFC 9111 section 4.1)."""

    def vary(self, uri: str) -> tuple[str, ...]:
        """The request fields that select among the stored variants of `uri`."""

    def on_record(self) -> int:
        """The number of the last purge on record, of other processes too. Zero where they have no store in common."""

    def put(self, entry: Entry, record: int | None = None) -> bool:
        """Store, replacing the same variant. False: it is not kept.

        `record`: what was on record when it was asked for, of which it is newer. None: it is newer than all that is.
        """

    def replace(self, old: Entry, new: Entry, record: int | None = None) -> bool:
        """Put `new` in the place of `old` unless something else has taken it (RFC 9111 section 4.3.4)."""

    def discard(self, entry: Entry) -> bool:
        """Drop this very entry, if it is still what is stored."""

    def remove(self, uri: str) -> int:
        """Drop every variant of `uri`."""

    def purge(self, purge: Purge) -> Purging[tuple[str, str]]:
        """Put `purge` in force: a hard one drops entries, all others mark them."""

    def reclaim(self, limit: int) -> bool:
        """Visit at most `limit` entries for the oldest purge. False: no purge has anything left to do."""

    @property
    def renewals(self) -> int:
        """How many keys wait to be fetched anew."""

    def next_renewal(self) -> Entry | None:
        """Take the next key from those that wait, and say what is to be fetched anew there: None where nothing is any more."""

    @property
    def crowded(self) -> bool:
        """Whether so many purges are under way that another had better wait."""

    @property
    def spool_above(self) -> int | None:
        """Longer bodies are spooled; None: nowhere."""

    def spool(self, length: int | None, record: int | None = None) -> Spool | None:
        """Where a body of `length` bytes (None: unknown) is written as it arrives; None: it is too long for that, too.

        `record`: as of `put`.
        """
