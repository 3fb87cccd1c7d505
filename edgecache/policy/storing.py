"""Whether a response may be stored, and as what (RFC 9111 section 3). Every refusal has a reason.

Called when a response head has arrived, and again for one freshened by a 304.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from edgecache.policy.cache_control import parse_request, parse_response
from edgecache.policy.connection import hop_by_hop
from edgecache.policy.dates import format_date
from edgecache.policy.fields import delta_seconds, freeze, members, without
from edgecache.policy.freshness import (
    HEURISTIC_STATUSES,
    Lifetime,
    LifetimeSource,
    Terms,
    stale_if_error,
    stale_while_revalidate,
    terms,
)
from edgecache.policy.invalidation import names_target
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.partial import incoming
from edgecache.policy.rule import CacheRule
from edgecache.policy.variance import MAX_VARY_NAMES, selecting_names, vary_names

MAX_TAGS = 256
"""A response with more tags is not stored: one that a purge by tag would miss must not be kept."""


_NO_TAGS: Final[frozenset[str]] = frozenset()
"""One for all: an empty set takes 216 bytes."""


class NoStoreReason(enum.StrEnum):
    """Why a response is not stored; the same word in logs, metrics and Cache-Status."""

    METHOD = "method"
    STATUS = "status"
    PARTIAL = "partial"
    NOT_UNDERSTOOD = "not-understood"
    REQUEST_NO_STORE = "request-no-store"
    NO_STORE = "no-store"
    PRIVATE = "private"
    AUTHORIZATION = "authorization"
    SET_COOKIE = "set-cookie"
    VARY_STAR = "vary-star"
    VARY_CLIENT = "vary-client"
    VARY_LIMIT = "vary-limit"
    TAG_LIMIT = "tag-limit"
    TOO_LARGE = "too-large"
    NO_FRESHNESS = "no-freshness"
    UNUSABLE = "unusable"


@dataclass(slots=True, init=False, unsafe_hash=True)
class Storable:
    """The response may be stored, once `strip` has been applied to it."""

    vary: Final[tuple[str, ...]]
    """Lower-case names of the request fields that select it, sorted: those of Vary and of the rule."""
    terms: Final[Terms]
    tags: Final[frozenset[str]]

    def __init__(self, vary: tuple[str, ...], terms: Terms, tags: frozenset[str]) -> None:
        self.vary = vary
        self.terms = terms
        self.tags = tags

    @property
    def lifetime(self) -> Lifetime:
        return self.terms.lifetime


@dataclass(frozen=True, slots=True)
class NoStore:
    """The response passes through only."""

    reason: NoStoreReason


NEVER_STORED: Final = frozenset({304, 407, 412, 416, 417, 428, 429, 431, 511})
"""Answers to one request's conditions, ranges or proxy rather than about the resource; those of RFC 6585, which forbids it."""

IDENTIFYING_FIELDS: Final = frozenset({"forwarded", "x-forwarded-for", "x-request-id"})
"""What sources get in these fields is written by this edge, and differs for each client: no key tells the clients apart."""

UNDERSTOOD: Final = frozenset(
    {200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 414, 415, 421, 422, 451}
    | {500, 501, 502, 503, 504, 505}
)
"""Statuses whose caching requirements this cache implements (must-understand, RFC 9111 section 5.2.2.3)."""


def admit(request: Request, timed: Timed, rule: CacheRule) -> Storable | NoStore:
    """Whether the response to `request` may be stored (RFC 9111 section 3).

    Set-Cookie does not forbid storing (RFC 9111 section 7.3). But a guessed lifetime, or the operator's, is not enough for a
    response that sets a cookie: its origin must have given one, or have said `public`, or `no-cache="set-cookie"` or
    `private="set-cookie"` (which store it without the cookie). With `store_set_cookie` off only those words count.
    """
    response = timed.response
    found = terms(timed, rule)
    refusal = _refused_by_exchange(request, response, found, rule) or _refused_as_useless(timed, found, rule)
    if refusal is not None:
        return NoStore(refusal)
    vary = vary_names(response)
    if vary is None:
        return NoStore(NoStoreReason.VARY_STAR)
    if not IDENTIFYING_FIELDS.isdisjoint(vary):
        return NoStore(NoStoreReason.VARY_CLIENT)
    store = Storable(selecting_names(vary, rule), found, tags(response, rule))
    refusal = _refused_by_limits(store, response, rule)
    return store if refusal is None else NoStore(refusal)


def strip(response: Response, received: float | None = None) -> Response:
    """The head as it is stored: without what ends at this hop and without fields that no-cache or private names.

    `received` (seconds since the epoch) becomes the Date of a response that has none (RFC 9110 section 6.6.1).
    """
    directives = parse_response(response.headers)
    dropped = hop_by_hop(response.headers).union(directives.no_cache_fields, directives.private_fields)
    kept = without(response.headers, dropped)
    if received is not None and "Date" not in response.headers:
        kept.append(("Date", format_date(received)))
    return Response(response.status, response.reason, freeze(kept))


def tags(response: Response, rule: CacheRule) -> frozenset[str]:
    """Names under which the response can be purged: Cache-Tag (commas), Surrogate-Key (spaces), and the rule's."""
    listed = members(response.headers, "Cache-Tag")
    keys = (key for line in response.headers.getall("Surrogate-Key", ()) for key in line.split())
    return frozenset((*listed, *keys, *rule.tags)) or _NO_TAGS


def _refused_by_exchange(request: Request, response: Response, found: Terms, rule: CacheRule) -> NoStoreReason | None:
    directives = found.directives
    if request.method != "GET" and not _answers_get(request, response, found):
        return NoStoreReason.METHOD
    if response.status < 200 or response.status in NEVER_STORED:
        return NoStoreReason.STATUS
    if response.status == 206 and ("Range" not in request.headers or incoming(response) is None):
        return NoStoreReason.PARTIAL
    if directives.must_understand and response.status not in UNDERSTOOD:
        return NoStoreReason.NOT_UNDERSTOOD
    if rule.honour_client_reload and parse_request(request.headers).no_store:
        return NoStoreReason.REQUEST_NO_STORE
    # RFC 9111 section 5.2.2.3: where must-understand is met, no-store does not count.
    if directives.no_store and not directives.must_understand:
        return NoStoreReason.NO_STORE
    if directives.private:
        return NoStoreReason.PRIVATE
    if "Authorization" in request.headers and not directives.allows_authorized:
        return NoStoreReason.AUTHORIZATION
    if "Set-Cookie" in response.headers and not _cookie_is_shared(found, rule):
        return NoStoreReason.SET_COOKIE
    return None


def _answers_get(request: Request, response: Response, found: Terms) -> bool:
    """RFC 9110 section 9.3.3: a later GET may be answered by what a POST brought, if the origin says that it is the target's
    representation, and how long it is fresh."""
    if request.method != "POST" or response.status != 200 or found.lifetime.source is not LifetimeSource.EXPLICIT:
        return False
    locations = response.headers.getall("Content-Location", ())
    return len(locations) == 1 and names_target(request, locations[0])


def _cookie_is_shared(found: Terms, rule: CacheRule) -> bool:
    directives = found.directives
    if "set-cookie" in directives.no_cache_fields or "set-cookie" in directives.private_fields:
        return True
    if directives.public or directives.s_maxage is not None or directives.targeted:
        return True
    return rule.store_set_cookie and found.lifetime.source is LifetimeSource.EXPLICIT


def _refused_by_limits(store: Storable, response: Response, rule: CacheRule) -> NoStoreReason | None:
    if len(store.vary) > MAX_VARY_NAMES:
        return NoStoreReason.VARY_LIMIT
    if len(store.tags) > MAX_TAGS:
        return NoStoreReason.TAG_LIMIT
    length = delta_seconds(response.headers.get("Content-Length", "0").strip(" \t"))
    if length is not None and length > rule.max_object_bytes:
        return NoStoreReason.TOO_LARGE
    return None


def _refused_as_useless(timed: Timed, found: Terms, rule: CacheRule) -> NoStoreReason | None:
    """RFC 9111 section 3, last condition; and what could never be used again is not worth its memory."""
    directives = found.directives
    given = found.lifetime.source is not LifetimeSource.NONE
    status = timed.response.status
    if not given and status not in HEURISTIC_STATUSES and not directives.public:
        return NoStoreReason.STATUS
    if "ETag" in timed.response.headers or "Last-Modified" in timed.response.headers:
        return None
    if not given:
        return NoStoreReason.NO_FRESHNESS
    if directives.no_cache:
        return NoStoreReason.UNUSABLE
    grace = max(stale_while_revalidate(directives, rule), stale_if_error(directives, rule))
    usable_for = found.lifetime.seconds + grace - found.age(timed.response_time)
    return None if usable_for > 0 else NoStoreReason.UNUSABLE
