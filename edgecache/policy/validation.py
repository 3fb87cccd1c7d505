"""What validation changes: stored responses by a 304 or a HEAD answer, and answers by a client's own preconditions.

RFC 9111 sections 3.2, 4.3 and RFC 9110 section 13. Called after the source answered, and before an answer is sent.
"""

from __future__ import annotations

import enum
from typing import Final

from edgecache.policy.coding import as_stored
from edgecache.policy.connection import hop_by_hop
from edgecache.policy.dates import date_field, format_date
from edgecache.policy.etag import any_representation, entity_tag, listed_tags
from edgecache.policy.fields import freeze, without
from edgecache.policy.message import Headers, Request, Response, Timed
from edgecache.policy.storing import strip

_OF_THE_STORED_BODY = frozenset(
    {"content-digest", "content-encoding", "content-length", "content-md5", "content-range", "digest", "transfer-encoding"}
)
"""Describe the bytes that are stored; those of a message without content say nothing about them (RFC 9111 section 3.2)."""

_OF_THE_STORED_RECEIPT = frozenset({"age", "date"})
"""Belong to the exchange that brought them: an old value would age what was just validated."""

_REPRESENTATION = frozenset(
    {
        "content-digest",
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-range",
        "content-type",
        "digest",
        "repr-digest",
        "transfer-encoding",
    }
)
"""Not sent with 304 (RFC 9110 section 15.4.5)."""


STATE_FIELDS: Final = frozenset({"if-match", "if-unmodified-since"})
"""The origin's to evaluate."""


class Precondition(enum.StrEnum):
    """What the client's preconditions make of an answer."""

    NONE = "none"
    NOT_MODIFIED = "not-modified"
    FAILED = "failed"


def selects(stored: Timed, not_modified: Timed) -> bool:
    """Whether a 304 speaks of this stored response (RFC 9111 section 4.3.4): its validators, if any, are the stored ones.

    A strong tag speaks of the bytes that have it, not of those that have its weak form. But who codes a response on its way
    weakens the tag, and the source behind says 304 with its own.
    """
    old, new = stored.response.headers, not_modified.response.headers
    if (tag := entity_tag(new)) is not None:
        have = entity_tag(old)
        if have is None or not have.weakly_equals(tag):
            return False
        return tag.weak or not have.weak or "Content-Encoding" in old
    return new.get("Last-Modified") in (None, old.get("Last-Modified"))


def update(stored: Timed, not_modified: Timed) -> Timed:
    """The stored response with the fields of a 304 in place of its own (RFC 9111 sections 3.2 and 4.3.4).

    Whether the result may still be stored is a question for `storing.admit`: the 304 may bring no-store or Set-Cookie.
    """
    new = not_modified.response.headers
    ignored = hop_by_hop(new) | _OF_THE_STORED_BODY
    brought = without(new, ignored)
    replaced = {name.lower() for name, _ in brought} | _OF_THE_STORED_RECEIPT
    merged = without(stored.response.headers, replaced) + brought
    if "Date" not in new:
        merged.append(("Date", format_date(not_modified.response_time)))
    response = as_stored(stored.response, Response(stored.response.status, stored.response.reason, freeze(merged)))
    return Timed(strip(response), not_modified.request_time, not_modified.response_time)


def head_update(stored: Timed, head: Timed) -> Timed | None:
    """The stored response with the fields of a 200 answer to HEAD; None if that speaks of other content: the stored response is
    then stale (RFC 9111 section 4.3.5)."""
    old, new = stored.response.headers, head.response.headers
    if head.response.status != stored.response.status:
        return None
    if any(name in new and new[name] != old.get(name) for name in ("ETag", "Last-Modified", "Content-Length")):
        return None
    if "Content-Encoding" in new and not any(name in new for name in ("ETag", "Last-Modified", "Content-Length")):
        # Coded here, which takes the length away: nothing is left that would tell other content.
        return None
    return update(stored, head)


def wants_state(request: Request) -> bool:
    """Whether the client asks that the resource be in a certain state (RFC 9110 sections 13.1.1 and 13.1.4)."""
    return "If-Match" in request.headers or "If-Unmodified-Since" in request.headers


def expected_state(request: Request, response: Response) -> bool:
    """Whether a response is of the state that the client asks for. Any is where that does not count (section 13.2.1)."""
    return not 200 <= response.status < 300 or _state_is_as_expected(request.headers, response.headers)


def evaluate(request: Request, response: Response) -> Precondition:
    """The client's preconditions against the response it would get, in the order of RFC 9110 section 13.2.2.

    They do not count where the answer would be neither 2xx nor 412 (section 13.2.1), nor for other methods than GET and HEAD,
    whose preconditions only the origin can judge. Caches leave If-Match and If-Unmodified-Since out of `request`: these are the
    origin's to evaluate (RFC 9111 section 4.3.2).
    """
    asked = request.headers
    if request.method not in ("GET", "HEAD") or not 200 <= response.status < 300:
        return Precondition.NONE
    if not _state_is_as_expected(asked, response.headers):
        return Precondition.FAILED
    if "If-None-Match" in asked:
        unchanged = _none_match_fails(asked, response.headers)
    else:
        unchanged = _unmodified_since(asked, "If-Modified-Since", response.headers)
    return Precondition.NOT_MODIFIED if unchanged else Precondition.NONE


def not_modified(response: Response) -> Response:
    """The 304 that stands for `response` (RFC 9110 section 15.4.5)."""
    return Response(304, "Not Modified", freeze(without(response.headers, _REPRESENTATION)))


def _state_is_as_expected(asked: Headers, have: Headers) -> bool:
    if "If-Match" in asked:
        tag = entity_tag(have)
        if any_representation(asked, "If-Match"):
            return True
        return tag is not None and any(tag.strongly_equals(other) for other in listed_tags(asked, "If-Match"))
    if "If-Unmodified-Since" not in asked or date_field(have, "Last-Modified") is None:
        return True
    if date_field(asked, "If-Unmodified-Since") is None:
        return True
    return _unmodified_since(asked, "If-Unmodified-Since", have)


def _none_match_fails(asked: Headers, have: Headers) -> bool:
    if any_representation(asked, "If-None-Match"):
        return True
    tag = entity_tag(have)
    return tag is not None and any(tag.weakly_equals(other) for other in listed_tags(asked, "If-None-Match"))


def _unmodified_since(asked: Headers, name: str, have: Headers) -> bool:
    """RFC 9111 section 4.3.2: without Last-Modified, the time at which the response was made takes its place."""
    if name not in asked:
        return False
    made = date_field(have, "Date")
    modified = date_field(have, "Last-Modified", made)
    since = date_field(asked, name, made)
    changed = made if modified is None else modified
    return since is not None and changed is not None and changed <= since
