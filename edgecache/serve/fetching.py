"""Asking sources and turning what they say into landings: stored entries, streams being stored, private replies.

The only place that joins sources, admission and the store. `pipeline` decides when; `upstream.collapse` runs it once for many.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace

from edgecache.policy.coding import code, negotiated
from edgecache.policy.dates import format_date
from edgecache.policy.fields import freeze, without
from edgecache.policy.forwarding import to_client, to_source
from edgecache.policy.lookup import ERROR_STATUSES, Validate
from edgecache.policy.message import Headers, Request, Response, Timed
from edgecache.policy.storing import NoStore, NoStoreReason, Store, admit, strip, tags
from edgecache.policy.validation import head_update, selects, update
from edgecache.policy.variance import variant_key
from edgecache.serve.answer import Meter
from edgecache.serve.compressing import CodedBody
from edgecache.serve.purges import RecentPurges
from edgecache.serve.settings import ServeSettings
from edgecache.serve.spooling import SpoolingBody
from edgecache.serve.wire import encode_head
from edgecache.sites import OnError, Route, Site
from edgecache.source import Body, Culprit, Interim, Reply, Source, SourceError
from edgecache.store import Entry, Spool, StoredBody
from edgecache.store import Store as ResponseStore
from edgecache.upstream.body import ReplayableBody
from edgecache.upstream.collapse import Landing, Private, Settled, Shareable
from edgecache.upstream.predictor import Predictor

_log = logging.getLogger(__name__)
_AGE = frozenset({"age"})
_REQUEST_ID = frozenset({"x-request-id"})
_ACCEPT_ENCODING = frozenset({"accept-encoding"})
_MAX_MERGED_VARY = 16
_SPOOL_SECONDS = 5.0
"""How long a request waits for a long body that somebody else is fetching, before it fetches for itself."""
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
    on_interim: Interim | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """Which requests a landing answers, and the two heads it has: for the one who asked, and for everybody else."""

    vary: tuple[str, ...]
    variant: str
    original: Response
    stored: Response
    born: float
    detail: str


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a purge would see of an entry that is not made yet."""

    uri: str
    site: str
    tags: frozenset[str]


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
    ) -> None:
        self._store = store
        self._origins = origins
        self._generators = generators
        self._clock = clock
        self._settings = settings
        self._predictor = predictor
        self._replay_bytes = replay_bytes
        self.purges = RecentPurges()
        self._spooled: dict[tuple[str, str], asyncio.Event] = {}
        """URI and variant of the bodies that are being spooled, until they have ended: of several at once one is enough."""

    def forwarded(self, call: Call, *, whole: bool = False, conditional: Headers | None = None) -> Request:
        """The request as sources get it. Raises NotForwardable."""
        request = call.request
        headers = to_source(
            request,
            client_ip=call.client_ip,
            edge_id=self._settings.edge_id,
            whole=whole,
            conditional=conditional,
            max_passes=self._settings.max_loops,
        )
        coding = negotiated(request, call.route.rule.compress)
        # Where this edge compresses, sources see of Accept-Encoding what the variant key holds of it.
        replaced = _REQUEST_ID if coding is None else _REQUEST_ID | _ACCEPT_ENCODING
        own = without(headers, replaced)
        if coding is not None:
            own.append(("Accept-Encoding", coding))
        return Request(
            request.method, request.scheme, request.authority, request.target, freeze([*own, ("X-Request-Id", call.request_id)])
        )

    async def ask(self, call: Call, sent: Request, entry: Entry | None) -> Reply:
        """The source's answer; where a generator fails, what the route's `on_error` says. Raises SourceError."""
        route = call.route
        body = None if call.body is None else ReplayableBody(call.body, self._replay_bytes)
        if route.generator is None:
            return self._dated(await self._origins(route.site).fetch(sent, body, call.request_id, call.on_interim))
        try:
            return self._dated(await self._generators(call).fetch(sent, body, call.request_id))
        except SourceError as error:
            if error.culprit is not Culprit.GENERATOR or not self._falls_back(route, entry):
                raise
            if body is not None and not body.rewind():
                raise
            failure = error
        _log.info("generator %s failed, asking the origin: %s", route.generator.name, failure)
        try:
            reply = self._dated(await self._origins(route.site).fetch(sent, body, call.request_id, call.on_interim))
        except SourceError:
            raise failure from None
        return Reply(reply.response, reply.body, f"generator-{failure.reason}")

    async def produce(
        self, call: Call, sent: Request, entry: Entry | None, decision: Validate | None, key: Hashable | None
    ) -> Landing:
        """One exchange with the source, judged. `key`: what the predictor learns about, if anything. Raises SourceError."""
        since = self.purges.count
        asked = self._clock()
        reply = await self.ask(call, sent, entry)
        timed = Timed(reply.response, asked, self._clock())
        if decision is not None and entry is not None:
            status = reply.response.status
            if status == 304:
                await reply.body.close()
                if selects(entry.timed, timed):
                    return self._freshened(call, entry, timed, since)
                # RFC 9111 section 4.3.4: a 304 about something else updates nothing; ask for the whole.
                return await self.produce(call, self.forwarded(call, whole=True), None, None, key)
            if decision.stale_if_error and status in ERROR_STATUSES:
                await reply.body.close()
                raise SourceError(Culprit.ORIGIN, "error-status", f"status {status}", status=status)
        reply = coded(call, reply)
        return self._judged(call, reply, replace(timed, response=reply.response), entry=entry, key=key, since=since)

    async def produce_unsafe(self, call: Call, sent: Request, invalidate: Callable[[Response], Awaitable[None]]) -> Landing:
        """As `produce` for an unsafe request: `invalidate` is told of the answer before what it brought may be stored."""
        since = self.purges.count
        asked = self._clock()
        reply = await self.ask(call, sent, None)
        timed = Timed(reply.response, asked, self._clock())
        expected = _Expected(call.request.uri, call.route.site.name, tags(reply.response, call.route.rule))
        untouched = self.purges.allow(expected, since)
        await invalidate(reply.response)
        if untouched:
            since = self.purges.count
        reply = coded(call, reply)
        return self._judged(call, reply, replace(timed, response=reply.response), entry=None, key=None, since=since)

    def _judged(
        self, call: Call, reply: Reply, timed: Timed, *, entry: Entry | None, key: Hashable | None, since: int
    ) -> Landing:
        rule = call.route.rule
        admitted = admit(call.request, timed, rule)
        if isinstance(admitted, NoStore):
            self._refused(call, timed, entry, admitted.reason, key)
            return Private(reply, admitted.reason)
        stored = Timed(strip(reply.response), timed.request_time, timed.response_time)
        vary = self._merged_vary(call.request.uri, admitted.vary)
        variant = variant_key(call.request, vary, rule)

        def commit(body: bytes) -> None:
            self._keep(self._entry(call, stored, admitted, body, vary), since)
            if key is not None:
                self._predictor.forget(key)

        spooling = self._spooling(call, reply, stored, admitted=admitted, vary=vary, since=since)

        def spoiled() -> None:
            kept = spooling is not None and (spooling.kept() or (call.request.uri, variant) in self._spooled)
            if key is not None and not kept:
                self._predictor.remember(key, self._clock())

        return Shareable(
            reply.response,
            reply.body if spooling is None else spooling,
            rule.max_object_bytes if spooling is None else min(rule.max_object_bytes, spooling.above),
            commit,
            Selected(vary, variant, reply.response, stored.response, admitted.terms.born, reply.detail),
            content_length(reply.response),
            joinable=_reusable(admitted, timed.response_time),
            spoiled=spoiled,
            kept=_nowhere if spooling is None else spooling.kept,
        )

    def _spooling(
        self, call: Call, reply: Reply, stored: Timed, *, admitted: Store, vary: tuple[str, ...], since: int
    ) -> SpoolingBody | None:
        """The body, stored as it passes where it is, or may turn out, too long for memory."""
        above, length = self._store.spool_above, content_length(reply.response)
        if above is None or (length is not None and length <= above):
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
                self._spooled[where] = asyncio.Event()
            return opened

        def closed() -> None:
            self._spooled.pop(where).set()

        return SpoolingBody(
            reply.body,
            length=length,
            above=above,
            limit_bytes=call.route.rule.max_object_bytes,
            spool=spool,
            keep=keep,
            closed=closed,
        )

    async def spooled(self, uri: str) -> bool:
        """Wait for bodies of `uri` that are being spooled: nobody can join them any more. False: there are none."""
        under_way = [ended for (of, _), ended in self._spooled.items() if of == uri]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SPOOL_SECONDS):
                for ended in under_way:
                    await ended.wait()
        return bool(under_way)

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
        admitted = admit(_as_get(call.request), merged, call.route.rule)
        if isinstance(admitted, NoStore):
            self._store.discard(entry)
            return Settled(entry, joinable=False)
        vary = self._merged_vary(entry.uri, admitted.vary)
        fresh = self._entry(call, merged, admitted, entry.body, vary)
        if self.purges.allow(fresh, since):
            self._store.replace(entry, fresh)
        return Settled(fresh, joinable=_reusable(admitted, merged.response_time))

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
        return Reply(Response(response.status, response.reason, fields), reply.body, reply.detail)

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
    """What the source said in the coding that this edge applies for this client, if any."""
    response, coding = code(call.request, reply.response, call.route.rule.compress)
    if response is reply.response:
        return reply
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
