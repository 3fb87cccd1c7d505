"""Index from a group, such as a site or a site's tag, to the keys of its members. Pure bookkeeping.

A group can be taken away whole, in constant time, however large it is: its members are then somebody's to look through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

G = TypeVar("G", bound=Hashable)
K = TypeVar("K", bound=Hashable)


class GroupIndex(Generic[G, K]):
    """Groups to keys; empty groups vanish."""

    def __init__(self) -> None:
        self._keys: dict[G, set[K]] = {}
        self._taken: Counter[G] = Counter()

    def add(self, group: G, key: K) -> None:
        keys = self._keys.get(group)
        if keys is None:
            self._keys[group] = {key}
        else:
            keys.add(key)

    def discard(self, group: G, key: K) -> None:
        keys = self._keys.get(group)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._keys[group]

    def size(self, group: G) -> int:
        """Members listed: of a group that was taken, those added since."""
        return len(self._keys.get(group, ()))

    def take(self, group: G) -> set[K]:
        """The members, no longer listed here. `give_back` says that whoever took them is done with the last one."""
        self._taken[group] += 1
        return self._keys.pop(group, set())

    def give_back(self, group: G) -> None:
        self._taken[group] -= 1
        if not self._taken[group]:
            del self._taken[group]

    def complete(self, group: G) -> bool:
        """Whether every member is listed: nobody is looking through members taken away."""
        return group not in self._taken

    def groups(self) -> list[G]:
        """All that have members, listed or taken."""
        return list({**self._keys, **self._taken})

    def __len__(self) -> int:
        return len(self._keys)
