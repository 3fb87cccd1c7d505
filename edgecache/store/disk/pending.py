"""What was asked of the disk and is not done yet: it answers, or hides what is there, as if it were. Bookkeeping of `tier`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgecache.policy.purging import Purgeable
from edgecache.store.disk.judging import Marks, judge
from edgecache.store.disk.orders import Ban, Drop, Put
from edgecache.store.entry import Entry


class Pending:
    """Responses that wait to be written, keys to be forgotten, and purges to be recorded."""

    def __init__(self) -> None:
        self.waiting_bytes = 0
        """Of all bodies in line, those too that were overtaken meanwhile."""
        self.purging: list[Ban] = []
        """In force, not yet in the index; oldest first."""
        self._waiting: dict[str, dict[str, Put]] = {}
        self._dropping: Counter[bytes] = Counter()
        self._replacing: Counter[bytes] = Counter()
        """Keys of what is in line to be written, overtaken or not: what the index has there is older."""

    def wait(self, put: Put) -> None:
        """A response that is to be written; it takes the place of others as it will on disk."""
        entry = put.entry
        variants = self._waiting.get(entry.uri, {})
        if any(other.entry.vary != entry.vary for other in variants.values()):
            variants = {}
        self._waiting[entry.uri] = variants
        variants[entry.variant] = put
        self.waiting_bytes += len(entry.body)
        self._replacing[put.key] += 1

    def written(self, put: Put) -> None:
        """It is on disk, or refused."""
        self.waiting_bytes -= len(put.entry.body)
        _less(self._replacing, put.key)
        if self._waiting.get(put.entry.uri, {}).get(put.entry.variant) is put:
            self.overtake(put.entry.uri, put.entry.variant)

    def overtake(self, uri: str, variant: str) -> None:
        """What waits there no longer answers."""
        variants = self._waiting.get(uri)
        if variants is not None and variants.pop(variant, None) is not None and not variants:
            del self._waiting[uri]

    def variants(self, uri: str) -> list[str]:
        return list(self._waiting.get(uri, ()))

    def entries(self, uri: str) -> dict[str, Entry]:
        """What waits of `uri`, by variant, as the purges since leave it."""
        waiting = self._waiting.get(uri)
        if not waiting:
            return {}
        found: dict[str, Entry] = {}
        for variant, put in waiting.items():
            entry, marks = put.entry, Marks(put.entry.marked_stale, put.entry.renewing)
            left = judge((ban.purge for ban in self.purging if ban not in put.after), entry, marks)
            if left is not None:
                found[variant] = entry if left == marks else replace(entry, marked_stale=left.stale, renewing=left.renewing)
        return found

    def drop(self, order: Drop) -> None:
        if order.time is None:
            self._dropping[order.key] += 1

    def dropped(self, order: Drop) -> None:
        _less(self._dropping, order.key)

    def hides(self, key: bytes) -> bool:
        """Whether what the index has there is to be forgotten, or to be replaced: also by what a purge has taken since."""
        return key in self._dropping or key in self._replacing

    def left(self, named: Purgeable, marks: Marks) -> Marks | None:
        """What the purges that are not on record leave of what is on disk."""
        return judge((ban.purge for ban in self.purging), named, marks) if self.purging else marks

    def empty(self, order: Ban) -> None:
        """A purge of everything stands for all keys that were to be forgotten."""
        self.purging.append(order)
        self._dropping.clear()


def _less(counted: Counter[bytes], key: bytes) -> None:
    if counted[key] > 1:
        counted[key] -= 1
    else:
        del counted[key]
