"""From a source's answer to a landing: a stored entry, a stream that is being stored, or a private reply.

The only place that joins `asking`, admission and `keeping`. `flying` decides when; `upstream.flights.collapse` runs it once for
many.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace

from edgecache.policy.lookup import ERROR_STATUSES, Validate
from edgecache.policy.message import Request, Response, Timed, content_length
from edgecache.policy.partial import MAX_JOINED_BYTES, Held, head_of, resumable
from edgecache.policy.storing import NoStore, NoStoreReason, Storable, admit, strip, tags
from edgecache.policy.validation import selects
from edgecache.policy.variance import variant_key
from edgecache.serve.call import Call, Expected, Selected
from edgecache.serve.elsewhere import MAX_BROUGHT_BYTES, Brought, Claim, Elsewhere
from edgecache.serve.misses.asking import Asker, coded
from edgecache.serve.misses.keeping import Keeper, reusable
from edgecache.serve.misses.long_bodies import LongBodies
from edgecache.serve.misses.parts import wants_less
from edgecache.serve.misses.spooling import SpoolingBody
from edgecache.source import Culprit, Reply, SourceError
from edgecache.store import Entry, Store
from edgecache.upstream.flights.collapse import Landing, Private, Shareable
from edgecache.upstream.flights.predictor import Predictor
from edgecache.upstream.http1.body import BytesBody

MIN_RESUMED_BYTES = 64 << 10
"""When less than this has come of a body that broke off, it is not kept to be resumed."""
_OF_ONE_REQUEST = frozenset({NoStoreReason.METHOD, NoStoreReason.AUTHORIZATION, NoStoreReason.REQUEST_NO_STORE})
"""Refusals that say nothing about the next request for the same key."""


class Fetcher:
    """Everything between a miss and the store."""

    def __init__(
        self,
        *,
        store: Store,
        asker: Asker,
        keeper: Keeper,
        long_bodies: LongBodies,
        clock: Callable[[], float],
        predictor: Predictor,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._store = store
        self._asker = asker
        self._keeper = keeper
        self._long_bodies = long_bodies
        self._elsewhere = elsewhere
        self._clock = clock
        self._predictor = predictor
        self.purges = keeper.purges
        self.parts = keeper.parts

    async def produce(
        self, call: Call, sent: Request, entry: Entry | None, decision: Validate | None, key: Hashable | None
    ) -> Landing:
        """One exchange with the source, judged. `key`: what the predictor learns about, if anything. Raises SourceError."""
        if self._elsewhere is None or decision is not None or key is None or "Range" in sent.headers:
            return await self._produced(call, sent, entry, decision, key)
        since = self.purges.now()
        claim = call.asked.claim if call.asked is not None else None
        if claim is None:
            claim = await self._elsewhere.claim(key, call.request.uri)
        return await self._produce_once(claim, call, sent, entry, key=key, since=since)

    async def _produced(
        self, call: Call, sent: Request, entry: Entry | None, decision: Validate | None, key: Hashable | None
    ) -> Landing:
        since = self.purges.now() if call.asked is None else call.asked.since
        gap = self.parts.gap(call.request, call.route) if entry is None and key is not None else None
        if gap is not None:
            sent = self._asker.forwarded(call, conditional=gap.fields)
        asked = self._clock() if call.asked is None else call.asked.at
        reply = await self._asker.ask(call, sent, entry)
        timed = Timed(reply.response, asked, self._clock())
        if gap is not None and reply.response.status in (206, 416):
            completed = gap.completed(reply, timed) if self.purges.allow(gap.entry, since) else None
            if completed is None:
                # Of another representation, not what was asked for, or purged: the parts are worth nothing, the whole is wanted.
                self._store.discard(gap.entry)
                await reply.body.close()
                return await self._produced(call, self._asker.forwarded(call, whole=True), None, None, key)
            reply, timed = completed
        if decision is not None and entry is not None:
            status = reply.response.status
            if status == 304:
                await reply.body.close()
                if selects(entry.timed, timed):
                    return self._keeper.freshened(call, entry, timed, since)
                # RFC 9111 section 4.3.4: a 304 about something else updates nothing; ask again.
                whole = entry.timed.response.status != 206
                return await self._produced(call, self._asker.forwarded(call, whole=whole), None, None, key)
            if decision.stale_if_error and status in ERROR_STATUSES:
                await reply.body.close()
                raise SourceError(Culprit.ORIGIN, "error-status", f"status {status}", status=status)
        ranged = "Range" in sent.headers
        if key is not None and not ranged and self._wants_less(call, reply.response):
            # Too large to be stored whole: what this client wants of it may not be.
            self._predictor.remember(key, self._clock())
            await reply.body.close()
            return await self._produced(call, self._asker.forwarded(call), None, None, None)
        reply = coded(call, reply)
        if reply.response is not timed.response:
            timed = replace(timed, response=reply.response)
        # Without a key this may be what became of a flight for the whole, on which others are: a part is not for them.
        return self._judged(call, reply, timed, entry=entry, key=key, since=since, ranged=ranged and key is not None)

    def _wants_less(self, call: Call, response: Response) -> bool:
        return wants_less(call.request, response, content_length(response), call.route.rule, self._asker.settings.max_ranges)

    async def _produce_once(
        self, claim: Claim, call: Call, sent: Request, entry: Entry | None, *, key: Hashable, since: int
    ) -> Landing:
        """A miss that other processes may have, too: one of them asks the source. Raises SourceError."""
        landing = None if claim.brought is None else self._brought(call, claim.brought, key, since)
        if landing is not None:
            return landing
        try:
            landing = await self._produced(call, sent, entry, None, key)
        except BaseException:
            claim.settle(None)
            raise
        match landing:
            case Shareable(storing=_Admitted() as storing, joinable=True) if (landing.length or 0) <= MAX_BROUGHT_BYTES:
                storing.claim = claim
            case _:
                claim.settle(None)
        return landing

    def _brought(self, call: Call, brought: Brought, key: Hashable, since: int) -> Landing | None:
        """What another process has fetched, as if it had come from the source; None where it is not for this request."""
        rule = call.route.rule
        if brought.variant != variant_key(call.request, brought.vary, rule):
            return None
        reply = Reply(brought.timed.response, BytesBody(brought.body), brought.detail)
        if not isinstance(admit(call.request, brought.timed, rule), Storable):
            return None
        return self._judged(call, reply, brought.timed, entry=None, key=key, since=since)

    async def produce_unsafe(self, call: Call, sent: Request, invalidate: Callable[[Response], Awaitable[None]]) -> Landing:
        """As `produce` for an unsafe request: `invalidate` is told of the answer before what it brought may be stored."""
        since = self.purges.now()
        asked = self._clock()
        reply = await self._asker.ask(call, sent, None)
        timed = Timed(reply.response, asked, self._clock())
        expected = Expected(call.request.uri, call.route.site.name, tags(reply.response, call.route.rule))
        untouched = self.purges.allow(expected, since)
        await invalidate(reply.response)
        if untouched:
            since = self.purges.now()
        reply = coded(call, reply)
        return self._judged(call, reply, replace(timed, response=reply.response), entry=None, key=None, since=since)

    def _judged(
        self,
        call: Call,
        reply: Reply,
        timed: Timed,
        *,
        entry: Entry | None,
        key: Hashable | None,
        since: int,
        ranged: bool = False,
    ) -> Landing:
        """`ranged`: the client's Range was sent, and all who wait asked for the same."""
        rule = call.route.rule
        admitted = admit(call.request, timed, rule)
        if isinstance(admitted, NoStore):
            self.refused(call, timed, entry, admitted.reason, key, since=since)
            self.parts.outdated(call.request, call.route, reply.response)
            return Private(reply, admitted.reason)
        return self._shareable(call, reply, timed, admitted, key=key, since=since, ranged=ranged)

    def _shareable(
        self, call: Call, reply: Reply, timed: Timed, admitted: Storable, *, key: Hashable | None, since: int, ranged: bool
    ) -> Shareable:
        """A response that is stored as it passes, for whoever waits for the same."""
        rule = call.route.rule
        stored = Timed(strip(reply.response), timed.request_time, timed.response_time)
        vary = self._keeper.merged_vary(call.request.uri, admitted.vary)
        variant = variant_key(call.request, vary, rule)
        spooling = self._long_bodies.spooling(call, reply, stored, admitted=admitted, vary=vary, since=since)
        selected = _selected(call, reply, stored, admitted, vary=vary, variant=variant, since=since)
        length = resumable(stored.response)
        return Shareable(
            reply.response,
            reply.body if spooling is None else spooling,
            rule.max_object_bytes if spooling is None else min(rule.max_object_bytes, spooling.above),
            _Admitted(self, call, stored, admitted, selected, key=key, spooling=spooling, length=length),
            selected,
            content_length(reply.response),
            joinable=(ranged or reply.response.status != 206) and reusable(admitted, timed.response_time),
            resumable_bytes=0 if length is None else MAX_JOINED_BYTES,
        )

    def refused(
        self, call: Call, timed: Timed, entry: Entry | None, reason: NoStoreReason, key: Hashable | None, *, since: int
    ) -> None:
        """What follows from a response that is not stored, asked for when there had been `since` purges, for the one that is."""
        status = timed.response.status
        if key is not None and reason not in _OF_ONE_REQUEST and status not in ERROR_STATUSES:
            self._predictor.remember(key, self._clock())
        if entry is None or status >= 500:
            return
        if call.request.method == "GET" and key is not None:
            self._store.discard(entry)
        elif call.request.method == "HEAD" and status == 200:
            self._keeper.head_answered(call, entry, timed, since)


class _Admitted:
    """An admitted response on its way into the store. A `collapse.Storing`."""

    __slots__ = ("_admitted", "_call", "_fetcher", "_key", "_length", "_selected", "_spooling", "_stored", "claim")

    def __init__(
        self,
        fetcher: Fetcher,
        call: Call,
        stored: Timed,
        admitted: Storable,
        selected: Selected,
        *,
        key: Hashable | None,
        spooling: SpoolingBody | None,
        length: int | None,
    ) -> None:
        """`key`: what the predictor learns about; `length`: as `resumable` has it."""
        self._fetcher = fetcher
        self._call = call
        self._stored = stored
        self._admitted = admitted
        self._selected = selected
        self._key = key
        self._spooling = spooling
        self._length = length
        self.claim: Claim | None = None
        """Of the processes that wait for it, who are told how it ended."""

    def fresh(self) -> bool:
        return reusable(self._admitted, self._fetcher._clock())

    def kept(self) -> bool:
        return self._spooling is not None and self._spooling.kept()

    def spoiled(self) -> None:
        if self.claim is not None:
            self.claim.settle(None)
        fetcher = self._fetcher
        here = self._call.request.uri, self._selected.variant
        kept = self._spooling is not None and (self._spooling.kept() or here in fetcher._long_bodies.under_way)
        if self._key is not None and not kept:
            fetcher._predictor.remember(self._key, fetcher._clock())

    def commit(self, body: bytes) -> Entry | None:
        entry = self._put(body)
        if self.claim is not None:
            self.claim.settle(self._brought(body) if len(body) <= MAX_BROUGHT_BYTES else None)
        return entry

    def interrupted(self, beginning: bytes) -> None:
        stored, length = self._stored, self._length
        if length is not None and MIN_RESUMED_BYTES <= len(beginning) < length:
            parts = Held(((0, len(beginning) - 1),), length, beginning)
            self._part(replace(stored, response=head_of(stored.response, parts)), beginning)

    def ended(self) -> None:
        if self.claim is not None:
            self.claim.settle(None)

    def _put(self, body: bytes) -> Entry | None:
        fetcher, stored, selected = self._fetcher, self._stored, self._selected
        if stored.response.status == 206:
            self._part(stored, body)
            return None
        entry = fetcher._keeper.entry(self._call, stored, self._admitted, body, selected.vary)
        fetcher._keeper.keep(entry, selected.since)
        if self._key is not None:
            fetcher._predictor.forget(self._key)
        return entry

    def _part(self, brought: Timed, body: bytes) -> None:
        self._fetcher._keeper.part(self._call, brought, body, self._selected.vary, self._selected.since)

    def _brought(self, body: bytes) -> Brought:
        selected = self._selected
        timed = Timed(selected.original, selected.asked, selected.answered)
        return Brought(timed, body, selected.vary, selected.variant, selected.detail)


def _selected(
    call: Call, reply: Reply, stored: Timed, admitted: Storable, *, vary: tuple[str, ...], variant: str, since: int
) -> Selected:
    return Selected(
        vary,
        variant,
        original=reply.response,
        stored=stored.response,
        born=admitted.terms.born,
        detail=reply.detail,
        expected=Expected(call.request.uri, call.route.site.name, admitted.tags),
        since=since,
        asked=stored.request_time,
        answered=stored.response_time,
    )
