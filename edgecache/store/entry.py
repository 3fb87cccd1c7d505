"""One stored response with everything that finding, judging and sending it needs. A value: no I/O, no decisions.

`serve` makes entries, the tiers of this room keep them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final

from mypy_extensions import mypyc_attr

from edgecache.policy.freshness import Terms
from edgecache.policy.message import Headers, Timed
from edgecache.store.stored_body import StoredBody

_FIXED_BYTES = 1260
"""Objects around one entry: the entry itself, its Timed and Response, dictionaries and LRU node (measured with tracemalloc)."""
_FIELD_BYTES = 180
"""One field line in a multidict beyond its characters."""


@mypyc_attr(acyclic=True)
class Standing:
    """Whether an entry is what memory holds under its key. Whoever has one sees without a lookup what has become of the entry."""

    __slots__ = ("entry",)

    def __init__(self) -> None:
        self.entry: Entry | None = None
        """None: not stored, replaced, dropped, or marked stale since. The store alone changes it."""


@mypyc_attr(acyclic=True)
@dataclass(slots=True, init=False, unsafe_hash=True)
class Entry:
    """A stored response; `size_bytes` is what it costs in memory, objects included."""

    uri: Final[str]
    """The primary key (RFC 9111 section 2)."""
    variant: Final[str]
    """The secondary key: the normalised request fields that Vary names."""
    vary: Final[tuple[str, ...]]
    site: Final[str]
    timed: Final[Timed]
    body: Final[bytes | StoredBody]
    """In memory, or where it lies on disk."""
    terms: Final[Terms]
    """What `timed` says about its reuse, read once."""
    tags: Final[frozenset[str]]
    marked_stale: Final[bool]
    """Purged softly, or to be refreshed: is not fresh."""
    renewing: Final[bool]
    """Only to be refreshed: answers meanwhile, within its lifetime."""
    head: Final[bytes]
    """The prepared header block of its writer's choice; opaque here."""
    standing: Standing = field(init=False, repr=False, compare=False)
    size_bytes: int = field(init=False)

    def __init__(
        self,
        *,
        uri: str,
        variant: str,
        vary: tuple[str, ...],
        site: str,
        timed: Timed,
        body: bytes | StoredBody,
        terms: Terms,
        tags: frozenset[str] = frozenset(),
        marked_stale: bool = False,
        renewing: bool = False,
        head: bytes = b"",
    ) -> None:
        self.uri = uri
        self.variant = variant
        self.vary = vary
        self.site = site
        self.timed = timed
        self.body = body
        self.terms = terms
        self.tags = tags
        self.marked_stale = marked_stale
        self.renewing = renewing
        self.head = head
        self.standing = Standing()
        self.size_bytes = self._measure()

    def _measure(self) -> int:
        tags = sum(len(tag) + 80 for tag in self.tags)
        text = len(self.uri) + len(self.variant)
        return _FIXED_BYTES + sys.getsizeof(self.body) + len(self.head) + text + tags + _fields_bytes(self.timed.response.headers)


def _fields_bytes(headers: Headers) -> int:
    return sum(map(len, headers.keys())) + sum(map(len, headers.values())) + _FIELD_BYTES * len(headers)
