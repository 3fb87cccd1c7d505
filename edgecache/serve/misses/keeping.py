"""Making entries of admitted responses and putting them in the store: whole ones, parts, what a 304 or a HEAD has updated.

Nothing is stored that was asked for before a purge which concerns it. `fetching` and `errand` decide what is kept; `long_bodies`
has what is too long for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgecache.policy.forwarding import to_client
from edgecache.policy.freshness import terms
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.partial import complete_head, head_of, held
from edgecache.policy.storing import NoStore, Storable, admit
from edgecache.policy.validation import head_update, update
from edgecache.policy.variance import variant_key
from edgecache.serve.call import Call, Expected
from edgecache.serve.misses.parts import PartStore
from edgecache.serve.purging.purges import RecentPurges
from edgecache.serve.settings import ServeSettings
from edgecache.serve.wire import encode_head
from edgecache.store import Entry, Store, StoredBody
from edgecache.upstream.flights.collapse import Settled

_AGE = frozenset({"age"})
_MAX_MERGED_VARY = 16


class Keeper:
    """Keeps responses in one store. `settings` may be replaced."""

    def __init__(self, store: Store, settings: ServeSettings, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self.settings = settings
        self.purges = RecentPurges(store.on_record)
        self.parts = PartStore(store)

    def part(self, call: Call, brought: Timed, body: bytes, vary: tuple[str, ...], since: int) -> None:
        """Store what a 206 brought, joined with what is stored of the same representation (RFC 9111 section 3.4)."""
        made = self.parts.joined(call.request, call.route, vary, brought, body)
        if made is None:
            return
        timed, parts = made
        judged = complete_head(timed.response, len(parts.content))
        admitted = admit(call.request, replace(timed, response=judged), call.route.rule)
        if not isinstance(admitted, Storable):
            return
        if parts.whole:
            entry = self.entry(call, replace(timed, response=judged), admitted, parts.content, vary)
            self.put(entry, since)
            self.parts.superseded(entry)
            return
        head = replace(timed, response=head_of(timed.response, parts))
        self.put(self.parts.apart(self.entry(call, head, admitted, parts.content, vary)), since)

    def entry(self, call: Call, timed: Timed, admitted: Storable, body: bytes | StoredBody, vary: tuple[str, ...]) -> Entry:
        response = Response(
            timed.response.status, timed.response.reason, to_client(timed.response, edge_id=self.settings.edge_id)
        )
        return Entry(
            uri=call.request.uri,
            variant=variant_key(call.request, vary, call.route.rule),
            vary=vary,
            site=call.route.site.name,
            timed=timed,
            body=body,
            terms=admitted.terms,
            tags=admitted.tags,
            head=encode_head(response, _AGE) + (b"" if response.status == 204 else b"Content-Length: %d\r\n" % len(body)),
        )

    def keep(self, entry: Entry, since: int) -> None:
        """Store a whole response in the place of whatever is stored of it, parts included; see `put`."""
        self.put(entry, since)
        self.parts.superseded(entry)

    def put(self, entry: Entry, since: int) -> None:
        """Store it, unless a purge that concerns it has come after it was asked for, when there had been `since` purges; or what
        was asked for later is stored already."""
        if not self._outrun(entry) and self.purges.allow(entry, since):
            self._store.put(entry, self.purges.on_record(since))

    def _outrun(self, entry: Entry) -> bool:
        """Whether memory has what was asked for after it, as it may where a body takes long: the most recent one is to answer
        (RFC 9111 section 4). What was asked for in the future is no measure: the clock has been set back."""
        stored = self._store.at((entry.uri, entry.variant))
        return stored is not None and entry.timed.request_time < stored.timed.request_time <= self._clock()

    def merged_vary(self, uri: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Variants of one URI may name different fields: the union keeps them all apart."""
        merged = tuple(sorted({*names, *self._store.vary(uri)}))
        return merged if len(merged) <= _MAX_MERGED_VARY else names

    def head_answered(self, call: Call, entry: Entry, head: Timed, since: int) -> None:
        """RFC 9111 section 4.3.5. `since`: how many purges there had been when it was asked."""
        updated = head_update(entry.timed, head)
        admitted = None if updated is None else admit(_as_get(call.request), updated, call.route.rule)
        if updated is None or not isinstance(admitted, Storable):
            self._store.discard(entry)
            return
        fresh = self.entry(call, updated, admitted, entry.body, self.merged_vary(entry.uri, admitted.vary))
        if self.purges.allow(_under_both(entry, fresh), since):
            self._store.replace(entry, fresh, self.purges.on_record(since))

    def freshened(self, call: Call, entry: Entry, not_modified: Timed, since: int) -> Settled:
        """The stored response with what a 304 says (RFC 9111 section 4.3.4)."""
        merged = update(entry.timed, not_modified)
        parts = held(merged.response, entry.body) if isinstance(entry.body, bytes) else None
        judged = merged if parts is None else replace(merged, response=complete_head(merged.response, len(entry.body)))
        admitted = admit(_as_get(call.request), judged, call.route.rule)
        if isinstance(admitted, NoStore):
            self._store.discard(entry)
            # The client that has asked is told what the 304 says all the same: above all, not to store it either.
            passing = Storable(entry.vary, terms(judged, call.route.rule), entry.tags)
            answer = self.entry(call, merged, passing, entry.body, entry.vary)
            return Settled(answer if parts is None else self.parts.apart(answer), since, joinable=False, stored=False)
        vary = self.merged_vary(entry.uri, admitted.vary)
        fresh = self.entry(call, merged, admitted, entry.body, vary)
        if parts is not None:
            fresh = self.parts.apart(fresh)
        expected = _under_both(entry, fresh)
        if self.purges.allow(expected, since):
            self._store.replace(entry, fresh, self.purges.on_record(since))
        return Settled(fresh, since, joinable=reusable(admitted, merged.response_time), expected=expected)


def _under_both(old: Entry, new: Entry) -> Expected:
    """What a purge sees of a response that is being renewed: its content came with the tags of then."""
    return Expected(new.uri, new.site, old.tags | new.tags)


def reusable(admitted: Storable, now: float) -> bool:
    """Whether others may be answered without asking again (RFC 9111 section 4)."""
    return not admitted.terms.directives.no_cache and admitted.lifetime.seconds > admitted.terms.age(now)


def _as_get(request: Request) -> Request:
    return (
        request if request.method == "GET" else Request("GET", request.scheme, request.authority, request.target, request.headers)
    )
