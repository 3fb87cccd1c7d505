"""Index from tag to the keys that bear it, so that a purge by tag touches only its own entries. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class TagIndex(Generic[K]):
    """Tags to keys; empty tags vanish."""

    def __init__(self) -> None:
        self._keys: dict[str, set[K]] = {}

    def add(self, key: K, tags: Iterable[str]) -> None:
        for tag in tags:
            self._keys.setdefault(tag, set()).add(key)

    def discard(self, key: K, tags: Iterable[str]) -> None:
        for tag in tags:
            keys = self._keys.get(tag)
            if keys is None:
                continue
            keys.discard(key)
            if not keys:
                del self._keys[tag]

    def keys(self, tag: str) -> tuple[K, ...]:
        return tuple(self._keys.get(tag, ()))

    def clear(self) -> None:
        self._keys.clear()

    def __len__(self) -> int:
        return len(self._keys)
