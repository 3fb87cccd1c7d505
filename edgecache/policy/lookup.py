"""What to do with a request, given what is stored for it (RFC 9111 section 4, RFC 5861): one value of a closed union.

Pure: the caller finds the stored response, tells the time and acts. Called once for each request.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never

from edgecache.policy.cache_control import RequestDirectives, ResponseDirectives, parse_request
from edgecache.policy.coding import weak_and_strong
from edgecache.policy.dates import date_field
from edgecache.policy.fields import freeze
from edgecache.policy.freshness import Terms, stale_if_error, stale_while_revalidate, terms
from edgecache.policy.message import Headers, Request, Response, Timed
from edgecache.policy.rule import CacheRule
from edgecache.policy.validation import expected_state, wants_state


class BypassReason(enum.StrEnum):
    """Why the cache is not involved at all."""

    METHOD = "method"
    BODY = "body"
    AUTHORIZATION = "authorization"
    REQUEST_NO_STORE = "request-no-store"
    UPGRADE = "upgrade"


class MissReason(enum.StrEnum):
    """Why nothing stored can answer."""

    ABSENT = "absent"
    AUTHORIZATION = "authorization"
    HEAD = "head"
    PARTIAL = "partial"
    """Parts are stored, but not all that was asked for."""
    STALE = "stale"
    """What is stored has all that was asked for, but may not answer as it is."""
    PRECONDITION = "precondition"
    """The client asks that the resource be in a state that is not the stored one: the source's to judge."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """To the source as it is; the answer is neither stored nor shared with other requests."""

    reason: BypassReason


@dataclass(frozen=True, slots=True)
class Miss:
    """To the source; the answer is offered to `storing.admit`."""

    reason: MissReason = MissReason.ABSENT
    collapse: bool = True
    """Whether identical requests may wait for this one's answer."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """Answer with the stored response. Seconds; `lifetime_left` is positive."""

    age: float
    lifetime_left: float


@dataclass(frozen=True, slots=True)
class StaleWhileRevalidate:
    """Answer with the stored response, and revalidate it afterwards."""

    age: float


@dataclass(frozen=True, slots=True)
class Validate:
    """Ask the source before using the stored response."""

    headers: Headers
    """Conditional fields to send instead of the client's; none without a validator: the answer then replaces the stored one."""
    stale_if_error: bool
    """The stored response may answer if the source cannot be reached or answers 500, 502, 503 or 504."""
    must: bool
    """If the source cannot be reached the answer is an error, best 504 (RFC 9111 section 5.2.2.2)."""
    refused: bool = False
    """The client's own directives ask for validation, not the state of the stored response."""
    stale_if_unreachable: bool = False
    """The stored response may answer if the source cannot be reached: this cache is disconnected (RFC 9111 section 4.2.4)."""


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """The client accepts stored responses only, and none will do: 504 (RFC 9111 section 5.2.1.7)."""


Decision = Bypass | Miss | Fresh | StaleWhileRevalidate | Validate | Unsatisfiable

ERROR_STATUSES = frozenset({500, 502, 503, 504})
"""Answers of a source in whose place stale-if-error allows a stored response (RFC 5861 section 4)."""


def decide(
    request: Request,
    stored: Timed | None,
    rule: CacheRule,
    now: float,
    *,
    known: Terms | None = None,
    marked_stale: bool = False,
    renewing: bool = False,
) -> Decision:
    """What to do with `request`.

    `known` are the terms of `stored`, if the caller kept them; `marked_stale` says that it was purged softly or is
    to be refreshed, and `renewing` that it is only to be refreshed: within its lifetime nothing forbids it to answer meanwhile.
    """
    if request.method not in ("GET", "HEAD"):
        return Bypass(BypassReason.METHOD)
    asked = parse_request(request.headers)
    if stored is None:
        return _without_stored(request, asked, rule)
    if _has_content(request):
        return Bypass(BypassReason.BODY)
    known = known or terms(stored, rule)
    if "Authorization" in request.headers and not known.directives.allows_authorized:
        # Stricter than RFC 9111 section 3.5: an origin that forgot Vary would otherwise show one client's view to another.
        return Unsatisfiable() if asked.only_if_cached else Bypass(BypassReason.AUTHORIZATION)
    decision = _with_stored(stored.response, asked, rule, known, _Moment.of(known, now, marked_stale, renewing))
    if not wants_state(request):
        return decision
    judged = _judged_there(request, stored.response, decision)
    return Unsatisfiable() if asked.only_if_cached and isinstance(judged, Miss) else judged


def _judged_there(request: Request, stored: Response, decision: Decision) -> Decision:
    """If-Match and If-Unmodified-Since are not for caches to evaluate (RFC 9111 section 4.3.2), who may ignore them (RFC 9110
    sections 13.1.1 and 13.1.4): so this one does where what is stored meets them. Else the source gets them, and may refuse."""
    match decision:
        case Fresh() | StaleWhileRevalidate() if expected_state(request, stored):
            return decision
        case Fresh() | StaleWhileRevalidate():
            return Miss(MissReason.PRECONDITION, collapse=False)
        case Validate():
            return Miss(MissReason.STALE, collapse=False)
        case Bypass() | Miss() | Unsatisfiable():
            return decision
        case _:
            assert_never(decision)


def _without_stored(request: Request, asked: RequestDirectives, rule: CacheRule) -> Decision:
    if asked.only_if_cached:
        return Unsatisfiable()
    if _has_content(request):
        return Bypass(BypassReason.BODY)
    if asked.no_store and rule.honour_client_reload:
        return Bypass(BypassReason.REQUEST_NO_STORE)
    if "Authorization" in request.headers:
        return Miss(MissReason.AUTHORIZATION, collapse=False)
    if request.method == "HEAD":
        return Miss(MissReason.HEAD, collapse=False)
    return Miss(collapse=not wants_state(request))


def _has_content(request: Request) -> bool:
    """Content in a GET has no defined meaning (RFC 9110 section 9.3.1) and is no part of the key: such requests are not answered
    from the cache, nor do they fill it."""
    headers = request.headers
    return request.unsized or headers.get("Content-Length", "0").strip() != "0" or "Transfer-Encoding" in headers


@dataclass(frozen=True, slots=True)
class _Moment:
    """How a stored response stands now. Seconds."""

    age: float
    left: float
    fresh: bool
    renewing: bool

    @property
    def staleness(self) -> float:
        return max(0.0, -self.left)

    @staticmethod
    def of(known: Terms, now: float, marked_stale: bool, renewing: bool) -> _Moment:
        age = known.age(now)
        left = known.lifetime.seconds - age
        return _Moment(age, left, left > 0 and not marked_stale, left > 0 and renewing)


def _with_stored(response: Response, asked: RequestDirectives, rule: CacheRule, known: Terms, moment: _Moment) -> Decision:
    directives = known.directives
    refused = rule.honour_client_reload and _refused_by_client(asked, directives, moment)
    if not refused and not directives.no_cache:
        if moment.fresh:
            return Fresh(moment.age, moment.left)
        if moment.renewing or _may_answer_stale(asked, directives, rule, moment):
            return StaleWhileRevalidate(moment.age)
    if asked.only_if_cached:
        return Unsatisfiable()
    return Validate(
        conditions(response),
        stale_if_error=_may_answer_on_error(asked, directives, rule, moment),
        must=directives.forbids_stale or directives.s_maxage is not None,
        refused=refused,
        stale_if_unreachable=_may_answer_disconnected(asked, directives, rule, moment),
    )


def _refused_by_client(asked: RequestDirectives, directives: ResponseDirectives, moment: _Moment) -> bool:
    """RFC 9111 sections 5.2.1.1, 5.2.1.3, 5.2.1.4."""
    if asked.no_cache:
        return True
    if (moment.fresh or moment.renewing) and asked.min_fresh is not None and moment.left < asked.min_fresh:
        return True
    if asked.max_age is None or (asked.max_age > 0 and moment.age <= asked.max_age):
        return False
    # RFC 8246 section 2: a reload does not validate what is immutable and fresh; only no-cache does.
    return not (moment.fresh and directives.immutable)


def _may_answer_stale(asked: RequestDirectives, directives: ResponseDirectives, rule: CacheRule, moment: _Moment) -> bool:
    if rule.honour_client_reload and _wants_fresh(asked):
        return False
    return _covers(stale_while_revalidate(directives, rule), asked.max_stale, directives, moment)


def _wants_fresh(asked: RequestDirectives) -> bool:
    """Who names an age or the lifetime left wants nothing stale, unless by max-stale (RFC 9111 sections 5.2.1.1, 5.2.1.3)."""
    return asked.min_fresh is not None or (asked.max_age is not None and asked.max_stale is None)


def _may_answer_on_error(asked: RequestDirectives, directives: ResponseDirectives, rule: CacheRule, moment: _Moment) -> bool:
    if asked.no_cache and rule.honour_client_reload:
        return False
    return _covers(stale_if_error(directives, rule), asked.stale_if_error, directives, moment)


def _may_answer_disconnected(asked: RequestDirectives, directives: ResponseDirectives, rule: CacheRule, moment: _Moment) -> bool:
    """RFC 9111 section 4.2.4: a disconnected cache may, unless a directive or the client says no.

    Where the source gave stale-if-error it has said for how long, and the rule does not add to it.
    """
    if directives.stale_if_error is not None:
        return False
    if (asked.no_cache and rule.honour_client_reload) or directives.forbids_stale or directives.s_maxage is not None:
        return False
    return moment.staleness <= rule.stale_if_unreachable


def _covers(allowed: float, accepted: int | None, directives: ResponseDirectives, moment: _Moment) -> bool:
    """Whether the staleness is within what source or operator allow, or what the client accepts where nothing forbids it."""
    if accepted is not None and not directives.forbids_stale and directives.s_maxage is None:
        allowed = max(allowed, accepted)
    return allowed > 0 and moment.staleness <= allowed


def conditions(response: Response) -> Headers:
    """If-None-Match and If-Modified-Since that ask whether `response` is still current (RFC 9111 section 4.3.1)."""
    found: list[tuple[str, str]] = []
    if etag := weak_and_strong(response.headers):
        found.append(("If-None-Match", etag))
    if date_field(response.headers, "Last-Modified") is not None:
        found.append(("If-Modified-Since", response.headers["Last-Modified"]))
    return freeze(found)
