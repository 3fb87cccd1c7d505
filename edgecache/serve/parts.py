"""Stored parts of representations that are not stored whole: finding, joining and ending them. `policy.partial` decides.

They are entries of the same store under a key of their own: purges, tags and eviction know no difference. `fetching` keeps them,
`pipeline` looks for them where no complete response is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecache.policy.message import Headers, Request, Response, Timed
from edgecache.policy.partial import (
    Held,
    completing,
    gap,
    held,
    incoming,
    join,
    parts_of,
    same_representation,
    variant,
)
from edgecache.policy.ranges import Span
from edgecache.policy.validation import update
from edgecache.policy.variance import variant_key
from edgecache.sites import Route
from edgecache.store import Entry, Store


@dataclass(frozen=True, slots=True)
class Gap:
    """What stored parts lack, and how to ask for it."""

    entry: Entry
    parts: Held
    missing: Span
    fields: Headers

    def filled_by(self, response: Response) -> Held | None:
        """The stored parts, if this response brings exactly the missing bytes of the same representation."""
        right = incoming(response) == (self.missing, self.parts.length)
        return self.parts if right and same_representation(self.entry.timed.response.headers, response.headers) else None


class PartStore:
    """Parts in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, request: Request, route: Route) -> Entry | None:
        """The parts stored of what `request` selects."""
        vary = self._store.vary(request.uri)
        entry = self._store.at((request.uri, variant(variant_key(request, vary, route.rule))))
        return entry if entry is not None and entry.site == route.site.name else None

    def gap(self, request: Request, route: Route) -> Gap | None:
        """What is missing for the whole that `request` asks for, if one request to the source can bring it."""
        if request.method != "GET" or "Range" in request.headers or (entry := self.find(request, route)) is None:
            return None
        response = entry.timed.response
        parts = _held(entry)
        missing = None if parts is None else gap(parts)
        if parts is None or missing is None:
            return None
        fields = completing(response, missing, parts.length)
        return None if fields is None else Gap(entry, parts, missing, fields)

    def joined(
        self, request: Request, route: Route, vary: tuple[str, ...], brought: Timed, content: bytes
    ) -> tuple[Timed, Held] | None:
        """What a complete 206 has brought, with what is stored of the same representation: the newer head, and the bytes.

        None: the body is not what the head said.
        """
        new = held(brought.response, content)
        if new is None:
            return None
        entry = self._store.at((request.uri, variant(variant_key(request, vary, route.rule))))
        if entry is None or entry.site != route.site.name:
            return brought, new
        old = _held(entry)
        if old is None or not same_representation(entry.timed.response.headers, brought.response.headers):
            return brought, new
        both = join(old, new, route.rule.max_object_bytes)
        return (brought, new) if both is None else (update(entry.timed, brought), both)

    def apart(self, entry: Entry) -> Entry:
        """`entry` under the key of parts. It is never sent as it is: it has no prepared head."""
        return replace(entry, variant=variant(entry.variant), head=b"")

    def superseded(self, entry: Entry) -> None:
        """A complete response is stored: its parts are not needed."""
        parts = self._store.at((entry.uri, variant(entry.variant)))
        if parts is not None:
            self._store.discard(parts)

    def outdated(self, request: Request, route: Route, response: Response) -> None:
        """A response that is not stored says that the parts are of a representation that is no more."""
        if request.method != "GET" or response.status not in (200, 206) or (entry := self.find(request, route)) is None:
            return
        if parts_of(entry.timed.response) is None or not same_representation(entry.timed.response.headers, response.headers):
            self._store.discard(entry)


def _held(entry: Entry) -> Held | None:
    """Parts are in memory alone (`store.tiered`)."""
    return held(entry.timed.response, entry.body) if isinstance(entry.body, bytes) else None
