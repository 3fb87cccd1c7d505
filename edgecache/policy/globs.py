"""Path globs, in which `*` matches any run of characters, `/` included: many at once, and which of them claims a path.

Pure. No regular expressions: their owners are strangers, and every request of every site waits while one is matched.
`sites` makes an index for each site, `control` counts what is costly to match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_STARS = re.compile(r"\*+")


class _Claim(NamedTuple, Generic[T]):
    rank: int
    """The place among all globs: the longest is first, and of equally long ones whichever came first."""
    owner: T


class _Inner(NamedTuple, Generic[T]):
    """A glob with a `*` that is not its end."""

    rank: int
    between: tuple[str, ...]
    end: str
    owner: T


class GlobIndex(Generic[T]):
    """Globs and their owners; the longest glob that matches wins.

    Finding takes as many steps as there are different lengths of literal beginnings, and one for each glob with an inner `*` that
    begins as the path does.
    """

    def __init__(self, globs: Iterable[tuple[str, T]]) -> None:
        self._literal: dict[str, _Claim[T]] = {}
        self._prefix: dict[str, _Claim[T]] = {}
        self._inner: dict[str, list[_Inner[T]]] = {}
        for rank, (glob, owner) in enumerate(sorted(globs, key=lambda pair: -len(pair[0]))):
            begin, *rest = _STARS.split(glob)
            if not rest:
                self._literal.setdefault(begin, _Claim(rank, owner))
            elif rest == [""]:
                self._prefix.setdefault(begin, _Claim(rank, owner))
            else:
                self._inner.setdefault(begin, []).append(_Inner(rank, tuple(rest[:-1]), rest[-1], owner))
        self._lengths = sorted({len(begin) for begin in (*self._prefix, *self._inner)})

    def find(self, path: str) -> T | None:
        """The owner of the longest glob that matches all of `path`; None: nobody's."""
        best = self._literal.get(path)
        for length in self._lengths:
            if length > len(path):
                break
            begin = path[:length]
            claim = self._prefix.get(begin)
            if claim is not None and (best is None or claim.rank < best.rank):
                best = claim
            for inner in self._inner.get(begin, ()):
                if best is not None and best.rank < inner.rank:
                    break
                if _matches(inner.between, inner.end, path, length):
                    best = _Claim(inner.rank, inner.owner)
        return None if best is None else best.owner


def same(glob: str) -> str:
    """What globs that match the same paths share, as far as it shows in how they are written: `/a/**` is `/a/*`."""
    return _STARS.sub("*", glob)


def has_inner_star(glob: str) -> bool:
    """Whether it takes more than a comparison of its beginning to match `glob`."""
    return "*" in glob.rstrip("*")


def _matches(between: tuple[str, ...], end: str, path: str, position: int) -> bool:
    """Whether the rest of `path` from `position` has these pieces in order, and ends so. Takes time linear in its length."""
    stop = len(path) - len(end)
    if stop < position or not path.endswith(end):
        return False
    for piece in between:
        found = path.find(piece, position, stop)
        if found == -1:
            return False
        position = found + len(piece)
    return True
