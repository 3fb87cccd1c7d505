"""Asking sources and turning what they say into landings: stored entries, streams being stored, private replies.

The only place that joins sources, admission and the store. `pipeline` decides when; `upstream.collapse` runs it once for many.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace

from edgecache.observe.tracing import Parent
from edgecache.policy.coding import IDENTITY, code, negotiated
from edgecache.policy.dates import format_date
from edgecache.policy.esi import CAPABILITY, is_template
from edgecache.policy.fields import freeze, without
from edgecache.policy.forwarding import to_client, to_source
from edgecache.policy.lookup import ERROR_STATUSES, Validate
from edgecache.policy.message import Headers, Request, Response, Timed
from edgecache.policy.partial import MAX_JOINED_BYTES, Held, complete_head, head_of, held, resumable
from edgecache.policy.storing import NoStore, NoStoreReason, Store, admit, strip, tags
from edgecache.policy.trailing import wants_trailers
from edgecache.policy.validation import head_update, selects, update
from edgecache.policy.variance import variant_key
from edgecache.serve.answer import Meter
from edgecache.serve.compressing import CodedBody
from edgecache.serve.elsewhere import MAX_BROUGHT_BYTES, Brought, Claim, Elsewhere
from edgecache.serve.parts import PartStore, wants_less
from edgecache.serve.purges import RecentPurges
from edgecache.serve.settings import ServeSettings
from edgecache.serve.spooling import SpoolingBody
from edgecache.serve.traced import fetch_from_generator, fetch_from_origin
from edgecache.serve.wire import encode_head
from edgecache.sites import OnError, Route, Site
from edgecache.source import Body, Culprit, Interim, Reply, Source, SourceError
from edgecache.store import Entry, Spool, StoredBody
from edgecache.store import Store as ResponseStore
from edgecache.upstream.body import BytesBody, ReplayableBody
from edgecache.upstream.collapse import Landing, Private, Settled, Shareable
from edgecache.upstream.predictor import Predictor

_log = logging.getLogger(__name__)
_AGE = frozenset({"age"})
_REQUEST_ID = frozenset({"x-request-id"})
_ACCEPT_ENCODING = frozenset({"accept-encoding"})
_MAX_MERGED_VARY = 16
MIN_RESUMED_BYTES = 64 << 10
"""Of what broke off, less is not worth going on with."""
_OF_ONE_REQUEST = frozenset({NoStoreReason.METHOD, NoStoreReason.AUTHORIZATION, NoStoreReason.REQUEST_NO_STORE})
"""Refusals that say nothing about the next request for the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request on its way through the pipeline."""

    request: Request
    body: Body | None
    client_ip: str
    request_id: str
    route: Route
    prepared: bool = True
    """The answer is for the wire: its head may be given as bytes alone."""
    meter: Meter = field(default_factory=Meter)
    trace: Parent | None = None
    """What steps of it are spans of; None: it is not traced."""
    on_interim: Interim | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What a purge would see of an entry that is not made yet."""

    uri: str
    site: str
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Selected:
    """Which requests a landing answers, and the two heads it has: for the one who asked, and for everybody else."""

    vary: tuple[str, ...]
    variant: str
    original: Response
    stored: Response
    born: float
    detail: str
    expected: Expected
    since: int
    """How many purges there had been when it was asked for."""
    asked: float
    answered: float


class Fetcher:
    """Everything between a miss and the store."""

    def __init__(
        self,
        *,
        store: ResponseStore,
        origins: Callable[[Site], Source],
        generators: Callable[[Call], Source],
        clock: Callable[[], float],
        settings: ServeSettings,
        predictor: Predictor,
        replay_bytes: int,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._store = store
        self._elsewhere = elsewhere
        self._origins = origins
        self._generators = generators
        self._clock = clock
        self._settings = settings
        self._predictor = predictor
        self._replay_bytes = replay_bytes
        self.purges = RecentPurges()
        self.parts = PartStore(store)
        self._spooled: set[tuple[str, str]] = set()
        """URI and variant of the bodies that are being spooled: of several at once one is enough."""

    def change(self, settings: ServeSettings, replay_bytes: int) -> None:
        """Go on with these."""
        self._settings = settings
        self._replay_bytes = replay_bytes

    def forwarded(self, call: Call, *, whole: bool = False, conditional: Headers | None = None) -> Request:
        """The request as sources get it. Raises NotForwardable."""
        request, rule = call.request, call.route.rule
        # A part of a template, or a 304 about one, is worth nothing to a client.
        whole = whole or (rule.esi and request.method in ("GET", "HEAD"))
        headers = to_source(
            request,
            client_ip=call.client_ip,
            edge_id=self._settings.edge_id,
            whole=whole,
            conditional=conditional,
            max_passes=self._settings.max_loops,
        )
        coding = IDENTITY if rule.esi else negotiated(request, rule.compress)
        # Where this edge compresses, sources see of Accept-Encoding what the variant key holds of it. Templates come uncoded.
        replaced = _REQUEST_ID if coding is None else _REQUEST_ID | _ACCEPT_ENCODING
        own = without(headers, replaced)
        if coding is not None:
            own.append(("Accept-Encoding", coding))
        if rule.esi:
            own.append(("Surrogate-Capability", f'{self._settings.edge_id}="{CAPABILITY}"'))
        if call.route.generator is None and call.prepared and wants_trailers(request):
            own += (("TE", "trailers"), ("Connection", "TE"))
        return Request(
            request.method, request.scheme, request.authority, request.target, freeze([*own, ("X-Request-Id", call.request_id)])
        )

    async def ask(self, call: Call, sent: Request, entry: Entry | None) -> Reply:
        """The source's answer; where a generator fails, what the route's `on_error` says. Raises SourceError."""
        route = call.route
        body = None if call.body is None else ReplayableBody(call.body, self._replay_bytes)
        if route.generator is None:
            return self._dated(await fetch_from_origin(self._origins(route.site), call, sent, body, call.on_interim))
        try:
            return self._dated(await fetch_from_generator(self._generators(call), call, sent, body))
        except SourceError as error:
            if error.culprit is not Culprit.GENERATOR or not self._falls_back(route, entry):
                raise
            if body is not None and not body.rewind():
                raise
            failure = error
        _log.info("generator %s failed, asking the origin: %s", route.generator.name, failure)
        try:
            reply = self._dated(await fetch_from_origin(self._origins(route.site), call, sent, body, call.on_interim))
        except SourceError:
            raise failure from None
        return replace(reply, detail=f"generator-{failure.reason}")

    async def produce(
        self, call: Call, sent: Request, entry: Entry | None, decision: Validate | None, key: Hashable | None
    ) -> Landing:
        """One exchange with the source, judged. `key`: what the predictor learns about, if anything. Raises SourceError."""
        if self._elsewhere is None or decision is not None or key is None or "Range" in sent.headers:
            return await self._produced(call, sent, entry, decision, key)
        return await self._produce_once(self._elsewhere, call, sent, entry, key)

    async def _produced(
        self, call: Call, sent: Request, entry: Entry | None, decision: Validate | None, key: Hashable | None
    ) -> Landing:
        since = self.purges.count
        gap = self.parts.gap(call.request, call.route) if entry is None and key is not None else None
        if gap is not None:
            sent = self.forwarded(call, conditional=gap.fields)
        asked = self._clock()
        reply = await self.ask(call, sent, entry)
        timed = Timed(reply.response, asked, self._clock())
        if gap is not None and reply.response.status in (206, 416):
            completed = gap.completed(reply, timed)
            if completed is None:
                # Of another representation, or not what was asked for: the parts are worth nothing, and the whole is wanted.
                self._store.discard(gap.entry)
                await reply.body.close()
                return await self._produced(call, self.forwarded(call, whole=True), None, None, key)
            reply, timed = completed
        if decision is not None and entry is not None:
            status = reply.response.status
            if status == 304:
                await reply.body.close()
                if selects(entry.timed, timed):
                    return self._freshened(call, entry, timed, since)
                # RFC 9111 section 4.3.4: a 304 about something else updates nothing; ask again.
                whole = entry.timed.response.status != 206
                return await self._produced(call, self.forwarded(call, whole=whole), None, None, key)
            if decision.stale_if_error and status in ERROR_STATUSES:
                await reply.body.close()
                raise SourceError(Culprit.ORIGIN, "error-status", f"status {status}", status=status)
        ranged = "Range" in sent.headers
        if key is not None and not ranged and self._wants_less(call, reply.response):
            # Too large to be stored whole: what this client wants of it may not be.
            self._predictor.remember(key, self._clock())
            await reply.body.close()
            return await self._produced(call, self.forwarded(call), None, None, None)
        reply = coded(call, reply)
        timed = replace(timed, response=reply.response)
        return self._judged(call, reply, timed, entry=entry, key=key, since=since, ranged=ranged)

    def _wants_less(self, call: Call, response: Response) -> bool:
        return wants_less(call.request, response, content_length(response), call.route.rule, self._settings.max_ranges)

    async def _produce_once(self, elsewhere: Elsewhere, call: Call, sent: Request, entry: Entry | None, key: Hashable) -> Landing:
        """A miss that other processes may have, too: one of them asks the source. Raises SourceError."""
        since = self.purges.count
        claim = await elsewhere.claim(key, call.request.uri)
        landing = None if claim.brought is None else self._brought(call, claim.brought, key, since)
        if landing is not None:
            return landing
        try:
            landing = await self._produced(call, sent, entry, None, key)
        except BaseException:
            claim.settle(None)
            raise
        if isinstance(landing, Shareable) and landing.joinable and (landing.length or 0) <= MAX_BROUGHT_BYTES:
            return self._told(landing, claim)
        claim.settle(None)
        return landing

    def _told(self, landing: Shareable, claim: Claim) -> Shareable:
        """`landing`, whose end is told to those who wait elsewhere."""
        selected, keep, spoiled = landing.token, landing.commit, landing.spoiled
        if not isinstance(selected, Selected):
            raise TypeError("a landing of another kind")
        timed = Timed(selected.original, selected.asked, selected.answered)

        def commit(body: bytes) -> None:
            keep(body)
            small = len(body) <= MAX_BROUGHT_BYTES
            claim.settle(Brought(timed, body, selected.vary, selected.variant, selected.detail) if small else None)

        def outgrown() -> None:
            claim.settle(None)
            spoiled()

        return replace(landing, commit=commit, spoiled=outgrown, ended=lambda: claim.settle(None))

    def _brought(self, call: Call, brought: Brought, key: Hashable, since: int) -> Landing | None:
        """What another process has fetched, as if it had come from the source; None where it is not for this request."""
        rule = call.route.rule
        if brought.variant != variant_key(call.request, brought.vary, rule):
            return None
        reply = Reply(brought.timed.response, BytesBody(brought.body), brought.detail)
        if not isinstance(admit(call.request, brought.timed, rule), Store):
            return None
        return self._judged(call, reply, brought.timed, entry=None, key=key, since=since)

    async def produce_unsafe(self, call: Call, sent: Request, invalidate: Callable[[Response], Awaitable[None]]) -> Landing:
        """As `produce` for an unsafe request: `invalidate` is told of the answer before what it brought may be stored."""
        since = self.purges.count
        asked = self._clock()
        reply = await self.ask(call, sent, None)
        timed = Timed(reply.response, asked, self._clock())
        expected = Expected(call.request.uri, call.route.site.name, tags(reply.response, call.route.rule))
        untouched = self.purges.allow(expected, since)
        await invalidate(reply.response)
        if untouched:
            since = self.purges.count
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
            self._refused(call, timed, entry, admitted.reason, key)
            self.parts.outdated(call.request, call.route, reply.response)
            return Private(reply, admitted.reason)
        stored = Timed(strip(reply.response), timed.request_time, timed.response_time)
        vary = self._merged_vary(call.request.uri, admitted.vary)
        variant = variant_key(call.request, vary, rule)

        def commit(body: bytes) -> None:
            if reply.response.status == 206:
                self._keep_part(call, stored, body, vary, since)
                return
            entry = self._entry(call, stored, admitted, body, vary)
            self._keep(entry, since)
            self.parts.superseded(entry)
            if key is not None:
                self._predictor.forget(key)

        spooling = self._spooling(call, reply, stored, admitted=admitted, vary=vary, since=since)

        def spoiled() -> None:
            kept = spooling is not None and (spooling.kept() or (call.request.uri, variant) in self._spooled)
            if key is not None and not kept:
                self._predictor.remember(key, self._clock())

        def interrupted(beginning: bytes) -> None:
            if length is not None and MIN_RESUMED_BYTES <= len(beginning) < length:
                parts = Held(((0, len(beginning) - 1),), length, beginning)
                self._keep_part(call, replace(stored, response=head_of(stored.response, parts)), beginning, vary, since)

        length = resumable(stored.response)
        return Shareable(
            reply.response,
            reply.body if spooling is None else spooling,
            rule.max_object_bytes if spooling is None else min(rule.max_object_bytes, spooling.above),
            commit,
            Selected(
                vary,
                variant,
                reply.response,
                stored.response,
                admitted.terms.born,
                reply.detail,
                Expected(call.request.uri, call.route.site.name, admitted.tags),
                since,
                timed.request_time,
                timed.response_time,
            ),
            content_length(reply.response),
            joinable=(ranged or reply.response.status != 206) and _reusable(admitted, timed.response_time),
            spoiled=spoiled,
            kept=_nowhere if spooling is None else spooling.kept,
            interrupted=None if length is None else interrupted,
            resumable_bytes=MAX_JOINED_BYTES,
        )

    def _keep_part(self, call: Call, brought: Timed, body: bytes, vary: tuple[str, ...], since: int) -> None:
        """Store what a 206 brought, joined with what is stored of the same representation (RFC 9111 section 3.4)."""
        made = self.parts.joined(call.request, call.route, vary, brought, body)
        if made is None:
            return
        timed, parts = made
        judged = complete_head(timed.response, len(parts.content))
        admitted = admit(call.request, replace(timed, response=judged), call.route.rule)
        if not isinstance(admitted, Store):
            return
        if parts.whole:
            entry = self._entry(call, replace(timed, response=judged), admitted, parts.content, vary)
            self._keep(entry, since)
            self.parts.superseded(entry)
            return
        head = replace(timed, response=head_of(timed.response, parts))
        self._keep(self.parts.apart(self._entry(call, head, admitted, parts.content, vary)), since)

    def _spooling(
        self, call: Call, reply: Reply, stored: Timed, *, admitted: Store, vary: tuple[str, ...], since: int
    ) -> SpoolingBody | None:
        """The body, stored as it passes where it is, or may turn out, too long for memory."""
        above, length = self._store.spool_above, content_length(reply.response)
        if above is None or reply.response.status == 206 or (length is not None and length <= above):
            return None

        def make(body: StoredBody) -> Entry | None:
            entry = self._entry(call, stored, admitted, body, vary)
            return entry if self.purges.allow(entry, since) else None

        where = (call.request.uri, variant_key(call.request, vary, call.route.rule))

        async def keep(spool: Spool) -> None:
            await spool.commit(make, *where, stored.response_time)

        def spool(length: int | None) -> Spool | None:
            opened = None if where in self._spooled else self._store.spool(length)
            if opened is not None:
                self._spooled.add(where)
            return opened

        return SpoolingBody(
            reply.body,
            length=length,
            above=above,
            limit_bytes=call.route.rule.max_object_bytes,
            spool=spool,
            keep=keep,
            closed=lambda: self._spooled.discard(where),
        )

    def _refused(self, call: Call, timed: Timed, entry: Entry | None, reason: NoStoreReason, key: Hashable | None) -> None:
        """What a response that is not stored does to what is."""
        status = timed.response.status
        if key is not None and reason not in _OF_ONE_REQUEST and status not in ERROR_STATUSES:
            self._predictor.remember(key, self._clock())
        if entry is None or status >= 500:
            return
        if call.request.method == "GET" and key is not None:
            self._store.discard(entry)
        elif call.request.method == "HEAD" and status == 200:
            self._head_answered(call, entry, timed)

    def _head_answered(self, call: Call, entry: Entry, head: Timed) -> None:
        """RFC 9111 section 4.3.5."""
        updated = head_update(entry.timed, head)
        admitted = None if updated is None else admit(_as_get(call.request), updated, call.route.rule)
        if updated is None or not isinstance(admitted, Store):
            self._store.discard(entry)
            return
        self._store.replace(entry, self._entry(call, updated, admitted, entry.body, entry.vary))

    def _freshened(self, call: Call, entry: Entry, not_modified: Timed, since: int) -> Settled:
        """The stored response with what a 304 says (RFC 9111 section 4.3.4)."""
        merged = update(entry.timed, not_modified)
        parts = held(merged.response, entry.body) if isinstance(entry.body, bytes) else None
        judged = merged if parts is None else replace(merged, response=complete_head(merged.response, len(entry.body)))
        admitted = admit(_as_get(call.request), judged, call.route.rule)
        if isinstance(admitted, NoStore):
            self._store.discard(entry)
            return Settled(entry, since, joinable=False)
        vary = self._merged_vary(entry.uri, admitted.vary)
        fresh = self._entry(call, merged, admitted, entry.body, vary)
        if parts is not None:
            fresh = self.parts.apart(fresh)
        if self.purges.allow(fresh, since):
            self._store.replace(entry, fresh)
        return Settled(fresh, since, joinable=_reusable(admitted, merged.response_time))

    def _entry(self, call: Call, timed: Timed, admitted: Store, body: bytes | StoredBody, vary: tuple[str, ...]) -> Entry:
        response = Response(
            timed.response.status, timed.response.reason, to_client(timed.response, edge_id=self._settings.edge_id)
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

    def _keep(self, entry: Entry, since: int) -> None:
        if self.purges.allow(entry, since):
            self._store.put(entry)

    def _merged_vary(self, uri: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Variants of one URI may name different fields: the union keeps them all apart."""
        merged = tuple(sorted({*names, *self._store.vary(uri)}))
        return merged if len(merged) <= _MAX_MERGED_VARY else names

    def _dated(self, reply: Reply) -> Reply:
        """RFC 9110 section 6.6.1: a recipient with a clock adds the Date that is missing."""
        response = reply.response
        if "Date" in response.headers:
            return reply
        fields = freeze([*response.headers.items(), ("Date", format_date(self._clock()))])
        return replace(reply, response=Response(response.status, response.reason, fields))

    def _falls_back(self, route: Route, entry: Entry | None) -> bool:
        """Whether the origin comes before a stored response in the route's list."""
        for action in route.generator.on_error if route.generator else ():
            match action:
                case OnError.STALE:
                    if entry is not None and not entry.terms.directives.forbids_stale:
                        return False
                case OnError.ORIGIN:
                    return bool(route.site.origins)
                case OnError.ERROR:
                    return False
        return False


def _nowhere() -> bool:
    return False


def coded(call: Call, reply: Reply) -> Reply:
    """What the source said in the coding that this edge applies for this client, if any. Templates are coded once assembled."""
    if is_template(reply.response, call.route.rule):
        return reply
    response, coding = code(call.request, reply.response, call.route.rule.compress)
    if response is reply.response:
        return reply
    # Trailers, if any, are about what the source has sent.
    body = reply.body
    if coding is not None and call.request.method != "HEAD":
        body = CodedBody(body, coding, prompt=content_length(reply.response) is None)
    return Reply(response, body, reply.detail)


def content_length(response: Response) -> int | None:
    """The declared length of the body; the client library has checked that it is one number."""
    value = response.headers.get("Content-Length")
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) <= 18 else None


def _reusable(admitted: Store, now: float) -> bool:
    """Whether others may be answered without asking again (RFC 9111 section 4)."""
    return not admitted.terms.directives.no_cache and admitted.lifetime.seconds > admitted.terms.age(now)


def _as_get(request: Request) -> Request:
    return (
        request if request.method == "GET" else Request("GET", request.scheme, request.authority, request.target, request.headers)
    )
