"""Stored parts of representations that are not stored whole: finding, joining and ending them. `policy.partial` decides.

They are entries of the same store under a key of their own: purges, tags and eviction know no difference. `fetching` keeps them,
`pipeline` looks for them where no complete response is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecache.policy.fields import freeze
from edgecache.policy.lookup import (
    Decision,
    Fresh,
    Miss,
    MissReason,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
    conditions,
    decide,
)
from edgecache.policy.message import Headers, Request, Response, Timed
from edgecache.policy.partial import (
    Held,
    answerable,
    complete_head,
    completing,
    gap,
    held,
    incoming,
    join,
    parts_of,
    same_representation,
    variant,
)
from edgecache.policy.ranges import ByteSpan, Parts, select
from edgecache.policy.rule import CacheRule
from edgecache.policy.validation import update
from edgecache.policy.variance import variant_key
from edgecache.serve.misses.completing import CompletedBody
from edgecache.sites import Route
from edgecache.source import Reply
from edgecache.store import Entry, Store


@dataclass(frozen=True, slots=True)
class Gap:
    """What stored parts lack, and how to ask for it."""

    entry: Entry
    parts: Held
    missing: ByteSpan
    fields: Headers

    def completed(self, reply: Reply, timed: Timed) -> tuple[Reply, Timed] | None:
        """The whole that the stored parts and this 206 make; None if it does not bring exactly the missing bytes of the same
        representation (RFC 9110 section 15.3.7.3)."""
        if incoming(reply.response) != (self.missing, self.parts.length):
            return None
        if not same_representation(self.entry.timed.response.headers, reply.response.headers):
            return None
        response = complete_head(update(self.entry.timed, timed).response, self.parts.length)
        body = CompletedBody(self.parts, self.missing, reply.body)
        return Reply(response, body, reply.detail), replace(timed, response=response)


class PartStore:
    """Parts in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, request: Request, route: Route) -> Entry | None:
        """The parts stored of what `request` selects."""
        vary = self._store.vary(request.uri)
        entry = self._store.at((request.uri, variant(variant_key(request, vary, route.rule))))
        return entry if entry is not None and entry.site == route.site.name else None

    def decide(
        self, request: Request, route: Route, decision: Decision, now: float, max_ranges: int
    ) -> tuple[Decision, Entry | None]:
        """What to do with a GET that no complete response answers: with parts (RFC 9111 section 3.3), or as `decision` says.

        Parts are validated with the client's Range: if they are not current any more, no more than that is to come.
        """
        entry = self.find(request, route)
        if entry is None:
            return decision, None
        response = entry.timed.response
        covered = answerable(request, response, max_ranges) is not None
        if covered:
            found = decide(request, entry.timed, route.rule, now, known=entry.terms, marked_stale=entry.marked_stale)
            if isinstance(found, Fresh):
                return found, entry
            asks = conditions(response)
            if isinstance(decision, Unsatisfiable):
                return decision, None
            if asks and isinstance(found, Validate | StaleWhileRevalidate):
                if isinstance(found, StaleWhileRevalidate):
                    found = Validate(asks, stale_if_error=True, stale_if_unreachable=True, must=False)
                ranged = ((name, value) for name, value in request.headers.items() if name.lower() in ("range", "if-range"))
                return replace(found, headers=freeze((*asks.items(), *ranged))), entry
        if isinstance(decision, Miss) and decision.collapse:
            reason = MissReason.STALE if covered else MissReason.PARTIAL
            decision = Miss(reason, collapse="Range" not in request.headers)
        return decision, None

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


def wants_less(request: Request, response: Response, length: int | None, rule: CacheRule, max_ranges: int) -> bool:
    """Whether the client asked for a part of what is too large to be stored whole."""
    if length is None or length <= rule.max_object_bytes or rule.esi or "Range" not in request.headers:
        return False
    return isinstance(select(request, response, length, max_parts=max_ranges), Parts)
