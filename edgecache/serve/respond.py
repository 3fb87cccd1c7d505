"""Makes answers: heads as clients see them, Age, Cache-Status, request ID, problem documents. Neither looks up nor fetches.

`pipeline` decides which answer it is and calls this.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from edgecache.policy.cache_status import FIELD, CacheStatus, forward_of
from edgecache.policy.errorpage import MEDIA_TYPE, POLICY, error_page, filled_page, prefers_page
from edgecache.policy.esi import is_template
from edgecache.policy.fields import freeze, without
from edgecache.policy.forwarding import CONDITIONAL_FIELDS, to_client
from edgecache.policy.freshness import age_field
from edgecache.policy.lookup import Decision, Miss, MissReason
from edgecache.policy.message import Headers, Request, Response, content_length
from edgecache.policy.problem import problem, reason_of
from edgecache.policy.validation import STATE_FIELDS, wants_state
from edgecache.serve.answer import Answer, HeldBody, Meter
from edgecache.serve.call import Call, Selected
from edgecache.serve.file_body import FileBody, whole
from edgecache.serve.settings import ServeSettings
from edgecache.serve.shape import is_plain, shape_parts, shape_stored, shape_stream
from edgecache.serve.upgrading import OpenTunnel
from edgecache.serve.wire import encode_fields
from edgecache.source import Body, Reply, SourceError, Trailers
from edgecache.store import Entry
from edgecache.upstream.flights.collapse import Seat

_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_FAILURES = {
    "connect": "The origin could not be reached.",
    "timeout": "The source did not answer in time.",
    "reset": "The origin closed the connection before its answer was complete.",
    "protocol": "The origin's answer was not usable HTTP.",
    "body-timeout": "The request body did not arrive in time.",
    "body-too-large": "The request body is too large.",
    "bad-chunk": "The request body is not valid chunked coding.",
    "purge-not-recorded": "The purge is in force, but the disk did not take its record: a restart would undo it.",
    "shutting-down": "This edge is shutting down.",
    "leader-gone": "The process that leads this edge has ended; this one ends too.",
    "no-memory": "This edge has no memory left to run this now.",
    "queue-full": "Too many requests wait for the program that makes this page.",
    "quarantined": "The program that makes this page keeps failing, and rests for a while.",
    "nul-in-path": "The path holds an encoded NUL (%00), which no program's environment can hold.",
}
_MAX_LINES = 1024
"""Prepared: one for each version of a generator that answers."""

Fields = tuple[tuple[str, str], ...]


class CacheOutcome(NamedTuple):
    """What the record of an answer says about it."""

    cache: str
    reason: str = ""
    collapsed: bool = False


class Responder:
    """Answers in the name of one edge."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self.hit_member = CacheStatus(hit=True, name=settings.edge_id).line().encode()
        """Cache-Status of a hit, before its `; ttl=`."""
        self._stored_lines: dict[tuple[MissReason, str], bytes] = {}

    def hit(self, call: Call, entry: Entry, age: float, left: float) -> Answer:
        status = CacheStatus(hit=True, ttl=int(left), name=self._settings.edge_id)
        return self._from_entry(call, entry, age, status, CacheOutcome("hit"))

    def stale(self, call: Call, entry: Entry, reason: str) -> Answer:
        """Stored, past its lifetime, and allowed to answer; `reason` says why."""
        age = entry.terms.age(self._clock())
        left = int(entry.terms.lifetime.seconds - age)
        status = CacheStatus(hit=True, ttl=left, detail=reason, name=self._settings.edge_id)
        return self._from_entry(call, entry, age, status, CacheOutcome("stale", reason))

    def revalidated(self, call: Call, entry: Entry, decision: Decision, *, collapsed: bool, stored: bool) -> Answer:
        age = entry.terms.age(self._clock())
        status = CacheStatus(
            fwd=forward_of(decision),
            fwd_status=304,
            ttl=int(entry.terms.lifetime.seconds - age) if stored else None,
            stored=stored,
            collapsed=collapsed,
            name=self._settings.edge_id,
        )
        return self._from_entry(call, entry, age, status, CacheOutcome("revalidated", collapsed=collapsed))

    def passed(self, call: Call, decision: Decision, reply: Reply, body: Body, outcome: CacheOutcome) -> Answer:
        """A response for this client alone, whose preconditions are evaluated here where they were kept from the source."""
        response = Response(reply.response.status, reply.response.reason, self._to_client(reply.response))
        status = CacheStatus(fwd=forward_of(decision), detail=reply.detail or None, name=self._settings.edge_id)
        return self._streamed(call, response, body, self._own_fields(call, status), outcome, trailers=reply.trailers)

    def switched(self, call: Call, decision: Decision, opened: OpenTunnel, outcome: CacheOutcome) -> Answer:
        """A 101, and what the connection is for after it."""
        response = Response(101, opened.head.reason, self._to_client(opened.head))
        status = CacheStatus(fwd=forward_of(decision), name=self._settings.edge_id)
        return Answer(
            response=response,
            body=b"",
            extra=self._own_fields(call, status),
            cache=outcome.cache,
            reason=outcome.reason,
            site=call.route.site.name,
            tunnel=opened,
        )

    def brought(self, call: Call, decision: Decision, entry: Entry, selected: Selected) -> Answer:
        """A response that is stored by now, for the one who asked for it first; `entry` suits the call."""
        return Answer(
            response=entry.timed.response,
            body=entry.body if isinstance(entry.body, bytes) else b"",
            length=len(entry.body),
            extra=self._miss_fields(call, decision, selected, collapsed=False),
            head=entry.head,
            cache="miss",
            site=call.route.site.name,
            generator=_generator(call),
            meter=call.meter,
        )

    def stored_fields(self, decision: Miss, request_id: str, detail: str) -> bytes:
        """The lines of Cache-Status and request ID that `brought` adds, for a miss nobody else waited for."""
        line = self._stored_lines.get((decision.reason, detail))
        if line is None:
            if len(self._stored_lines) >= _MAX_LINES:
                self._stored_lines.clear()
            status = CacheStatus(fwd=forward_of(decision), stored=True, detail=detail or None, name=self._settings.edge_id)
            line = self._stored_lines[decision.reason, detail] = encode_fields(((FIELD, status.line()),))
        return b"%bX-Request-Id: %b\r\n" % (line, request_id.encode())

    def streamed(self, call: Call, decision: Decision, seat: Seat, body: Body, selected: Selected) -> Answer:
        """A response that is being stored."""
        source = selected.original if seat.first else selected.stored
        response = Response(source.status, source.reason, self._to_client(source, without_age=True))
        extra = self._miss_fields(call, decision, selected, collapsed=not seat.first)
        partly = (
            not is_plain(call.request)
            and shape_stream(_asked(call, response), response, body, content_length(response))[0].status != response.status
        )
        held = HeldBody(body, partial(seat.leave, finish=partly))
        return self._streamed(call, response, held, extra, CacheOutcome("miss", collapsed=not seat.first))

    def failed(self, call: Call, error: SourceError) -> Answer:
        text = _FAILURES.get(error.reason, f"The {error.culprit} failed: {error.reason}.")
        fields = () if error.retry_after is None else (("Retry-After", str(error.retry_after)),)
        return self.refused(call, error.status, text, fields, outcome=CacheOutcome("error", error.reason))

    def refused(self, call: Call, status: int, text: str, fields: Fields = (), *, outcome: CacheOutcome) -> Answer:
        """This edge's own error, for a request that has a site."""
        own = CacheStatus(detail=outcome.reason or None, name=self._settings.edge_id)
        return self.problem(status, text, call.request_id, (*fields, (FIELD, own.line())), outcome=outcome, call=call)

    def not_allowed(self, call: Call) -> Answer:
        method = call.request.method
        text = f"{method} is not answered here."
        if method == "PURGE":
            text = "PURGE is answered to the addresses that the site's access.purge names, and to nobody else."
        return self.refused(
            call, HTTPStatus.METHOD_NOT_ALLOWED, text, (("Allow", _ALLOWED),), outcome=CacheOutcome("none", "method")
        )

    def purged(self, call: Call, count: int) -> Answer:
        """What the method PURGE did."""
        body = json.dumps({"purged": count}).encode() + b"\n"
        fields = (("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"))
        return Answer(
            response=Response(200, "OK", freeze(fields)),
            body=body,
            length=len(body),
            extra=_request_id(call.request_id),
            reason="purge",
            site=call.route.site.name,
        )

    def own_options(self, call: Call) -> Answer:
        """OPTIONS meant for this edge (RFC 9110 sections 7.6.2 and 9.3.7)."""
        response = Response(204, "No Content", freeze((("Allow", _ALLOWED),)))
        return Answer(response=response, body=b"", extra=_request_id(call.request_id), site=call.route.site.name)

    def problem(
        self,
        status: int,
        text: str,
        request_id: str,
        fields: Fields = (),
        *,
        outcome: CacheOutcome,
        call: Call | None = None,
        accept: str = "",
    ) -> Answer:
        """An error answer: RFC 9457, or a page for browsers. `accept`: what the client would have, where there is no `call`."""
        if call is not None:
            accept = call.request.headers.get("Accept", "")
        if prefers_page(accept):
            response, document = _page(status, text, request_id, fields, self._settings.error_page)
        else:
            response, document = problem(status, text, extensions={"request_id": request_id} if request_id else None)
        return Answer(
            response=response,
            body=document,
            length=len(document),
            extra=(*fields, *_request_id(request_id)),
            cache=outcome.cache,
            reason=outcome.reason,
            site=call.route.site.name if call else "",
            generator=_generator(call) if call else None,
            meter=call.meter if call else Meter(),
        )

    def _from_entry(self, call: Call, entry: Entry, age: float, status: CacheStatus, outcome: CacheOutcome) -> Answer:
        response, stored, head = entry.timed.response, entry.body, b""
        length: int | None = len(stored)
        template = is_template(response, call.route.rule)
        if call.prepared and is_plain(call.request) and not template:
            head = entry.head
            body: bytes | FileBody = stored if isinstance(stored, bytes) else whole(stored)
        else:
            client_ready = Response(response.status, response.reason, self._to_client(response, without_age=True))
            asked = _asked(call, response)
            if response.status == 206 and isinstance(stored, bytes):
                response, body, length = shape_parts(asked, client_ready, stored, self._settings.max_ranges)
            else:
                response, body, length = shape_stored(asked, client_ready, stored, self._settings.max_ranges)
        return Answer(
            response=response,
            body=body,
            length=length,
            extra=(("Age", age_field(age)), *self._own_fields(call, status)),
            head=head,
            cache=outcome.cache,
            reason=outcome.reason,
            site=call.route.site.name,
            generator=_generator(call),
            collapsed=outcome.collapsed,
            template=template,
            meter=call.meter,
        )

    def _streamed(
        self,
        call: Call,
        response: Response,
        body: Body,
        extra: Fields,
        outcome: CacheOutcome,
        *,
        trailers: Trailers | None = None,
    ) -> Answer:
        shaped, content, length = response, body, content_length(response)
        if not is_plain(call.request):
            shaped, content, length = shape_stream(_asked(call, response), response, body, length)
        return Answer(
            response=shaped,
            body=content,
            length=length,
            extra=extra,
            cache=outcome.cache,
            reason=outcome.reason,
            site=call.route.site.name,
            generator=_generator(call),
            collapsed=outcome.collapsed,
            template=is_template(response, call.route.rule),
            meter=call.meter,
            trailers=trailers if shaped.status == response.status else None,
        )

    def _miss_fields(self, call: Call, decision: Decision, selected: Selected, *, collapsed: bool) -> Fields:
        status = CacheStatus(
            fwd=forward_of(decision),
            stored=True,
            collapsed=collapsed,
            detail=selected.detail or None,
            name=self._settings.edge_id,
        )
        extra = self._own_fields(call, status)
        age = self._clock() - selected.born
        return (("Age", age_field(age)), *extra) if age >= 1 else extra

    def _own_fields(self, call: Call, status: CacheStatus) -> Fields:
        return ((FIELD, status.line()), *_request_id(call.request_id))

    def _to_client(self, response: Response, *, without_age: bool = False) -> Headers:
        headers = to_client(response, edge_id=self._settings.edge_id)
        if without_age and "Age" in headers:
            headers = freeze((name, value) for name, value in headers.items() if name.lower() != "age")
        return headers


def suits(call: Call, entry: Entry) -> bool:
    """Whether the prepared head of `entry` will do for the request that brought it: nothing was left out of it that this client
    may have."""
    return is_plain(call.request) and suits_plain(call, entry)


def suits_plain(call: Call, entry: Entry) -> bool:
    """As `suits`, where the request is known to be plain."""
    directives = entry.terms.directives
    stripped = directives.no_cache_fields or directives.private_fields
    if stripped or not call.prepared or not isinstance(entry.body, bytes):
        return False
    rule = call.route.rule
    return not (rule.esi and is_template(entry.timed.response, rule))


def _asked(call: Call, response: Response) -> Request:
    """The request that `response` is shaped for: without Range and preconditions where it is a template, of which there is no
    representation yet; without If-Match and If-Unmodified-Since where an origin has judged them. For a generator this edge is the
    origin."""
    request = call.request
    if is_template(response, call.route.rule):
        dropped = CONDITIONAL_FIELDS
    elif call.route.generator is None and wants_state(request):
        dropped = STATE_FIELDS
    else:
        return request
    fields = freeze(without(request.headers, dropped))
    return Request(request.method, request.scheme, request.authority, request.target, fields)


def _request_id(request_id: str) -> Fields:
    return (("X-Request-Id", request_id),) if request_id else ()


def _generator(call: Call) -> str | None:
    return call.route.generator.name if call.route.generator else None


def _page(status: int, text: str, request_id: str, fields: Fields, template: str) -> tuple[Response, bytes]:
    """Head and body of an error for people: the operator's page, or without one our own."""
    reason = reason_of(status)
    head: Fields = (("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
    if template:
        body = filled_page(template, status, reason, text, request_id=request_id)
    else:
        wait = next((int(value) for name, value in fields if name == "Retry-After" and value.isdigit()), None)
        body = error_page(status, reason, text, request_id=request_id, retry_after=wait)
        head = (*head, ("Content-Security-Policy", POLICY))
    return Response(status, reason, freeze((*head, ("Content-Length", str(len(body)))))), body
