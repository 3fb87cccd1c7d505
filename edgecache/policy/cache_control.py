"""Cache directives of requests and responses as values (RFC 9111 section 5.2, RFC 5861, RFC 8246, RFC 9213).

Reads Cache-Control, Pragma and the targeted fields; what follows from them is decided elsewhere. Called by freshness,
storing, lookup and coding, and by `store.disk.row` for what it reads back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import http_sf

from edgecache.policy.fields import MAX_SECONDS, OWS, delta_seconds, is_token, split_list, unquote
from edgecache.policy.message import Headers

TARGETED_FIELDS: Final = ("CDN-Cache-Control", "Surrogate-Control")
"""This cache's target list (RFC 9213 section 2.2): the first that is valid and not empty counts.

The second is older than the RFC, and read by its rules."""

_MEMO_LIMIT_CHARS = 512
"""Longer values are parsed each time, so that a hostile source cannot fill the memo with them."""

_TARGETED_LIMIT_CHARS = 4096
"""A longer targeted field counts as invalid: parsing structured fields is slow enough to be abused."""

_QUALIFIED: Final = frozenset({"no-cache", "private"})

Arguments = dict[str, str | None]
"""Directive name, lower case, to its raw argument; the first occurrence of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDirectives:
    """What a client asks of caches (RFC 9111 section 5.2.1). Times in seconds; None: not asked."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    """Accepted staleness; `MAX_SECONDS` where the client gave no bound."""
    stale_if_error: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseDirectives:
    """What a source allows caches (RFC 9111 section 5.2.2). Times in seconds; None: not given."""

    max_age: int | None = None
    s_maxage: int | None = None
    no_cache: bool = False
    """Without field names: no reuse without validation."""
    no_cache_fields: tuple[str, ...] = ()
    """Lower-case names of fields that may not be reused without validation: they are not stored."""
    private: bool = False
    private_fields: tuple[str, ...] = ()
    no_store: bool = False
    no_transform: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    public: bool = False
    immutable: bool = False
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    targeted: bool = False
    """Read from a targeted field: Cache-Control and Expires do not count (RFC 9213 section 2.1)."""

    @property
    def forbids_stale(self) -> bool:
        """A directive of its own forbids any use when stale (RFC 9111 section 4.2.4)."""
        return self.must_revalidate or self.proxy_revalidate or self.no_cache

    @property
    def allows_authorized(self) -> bool:
        """A response to a request with Authorization may be shared (RFC 9111 section 3.5)."""
        return self.must_revalidate or self.public or self.s_maxage is not None


_NO_REQUEST = RequestDirectives()
_NO_RESPONSE = ResponseDirectives()


def parse_request(headers: Headers) -> RequestDirectives:
    """Directives of a request. Invalid arguments count as if the directive were absent: request directives are advisory."""
    lines = headers.getall("Cache-Control", None)
    if lines is None:
        pragma = headers.getall("Pragma", None)
        if pragma is None or "no-cache" not in _arguments(pragma):
            return _NO_REQUEST
        # RFC 9111 section 5.4: Pragma counts only in the absence of Cache-Control.
        return RequestDirectives(no_cache=True)
    return _remembered_request(tuple(lines)) if _memorable(lines) else _request(tuple(lines))


def parse_response(headers: Headers) -> ResponseDirectives:
    """Directives of a response, from the first targeted field that is valid and not empty, else from Cache-Control.

    Of a repeated directive the first counts (RFC 9111 section 4.2.1); a lifetime that is no number counts as 0, already stale.
    """
    lines = headers.getall("Cache-Control", ())
    targeted = tuple([tuple(headers.getall(name)) for name in TARGETED_FIELDS if name in headers])
    if not lines and not targeted:
        return _NO_RESPONSE
    if _memorable(lines) and all(map(_memorable, targeted)):
        return _remembered_response(tuple(lines), targeted)
    return _response(tuple(lines), targeted)


def _memorable(lines: Iterable[str]) -> bool:
    return sum(map(len, lines)) <= _MEMO_LIMIT_CHARS


def _request(lines: tuple[str, ...]) -> RequestDirectives:
    given = _arguments(lines)
    return RequestDirectives(
        no_cache="no-cache" in given,
        no_store="no-store" in given,
        only_if_cached="only-if-cached" in given,
        max_age=_seconds(given, "max-age", None),
        min_fresh=_seconds(given, "min-fresh", None),
        max_stale=MAX_SECONDS if given.get("max-stale", "") is None else _seconds(given, "max-stale", None),
        stale_if_error=_seconds(given, "stale-if-error", None),
    )


def _response(lines: tuple[str, ...], targeted: tuple[tuple[str, ...], ...]) -> ResponseDirectives:
    for field in targeted:
        if (found := _targeted(field)) is not None:
            return found
    given = _arguments(lines)
    no_cache, no_cache_fields = _qualified(given, "no-cache")
    private, private_fields = _qualified(given, "private")
    return ResponseDirectives(
        max_age=_seconds(given, "max-age", 0),
        s_maxage=_seconds(given, "s-maxage", 0),
        no_cache=no_cache,
        no_cache_fields=no_cache_fields,
        private=private,
        private_fields=private_fields,
        no_store="no-store" in given,
        no_transform="no-transform" in given,
        must_revalidate="must-revalidate" in given,
        proxy_revalidate="proxy-revalidate" in given,
        must_understand="must-understand" in given,
        public="public" in given,
        immutable="immutable" in given,
        stale_while_revalidate=_seconds(given, "stale-while-revalidate", 0),
        stale_if_error=_seconds(given, "stale-if-error", 0),
    )


_remembered_request = lru_cache(maxsize=1024)(_request)
_remembered_response = lru_cache(maxsize=4096)(_response)


def _arguments(lines: Iterable[str]) -> Arguments:
    given: Arguments = {}
    for line in lines:
        for member in split_list(line):
            name, equals, argument = member.partition("=")
            key = name.rstrip(OWS).lower()
            # Space around "=" is no syntax; such an argument stays, and is invalid wherever a number is due.
            value = (" " + argument if key != name.lower() else argument) if equals else None
            if given.setdefault(key, value) != value and key in _QUALIFIED:
                # RFC 9111 section 4.2.1: of two readings the most restrictive, which is the one without field names.
                given[key] = None
    return given


def _seconds(given: Arguments, name: str, invalid: int | None) -> int | None:
    if name not in given:
        return None
    argument = given[name]
    if argument is None:
        return invalid
    # RFC 9111 section 5.2: recipients accept the quoted form too.
    seconds = delta_seconds(unquote(argument) or argument)
    return invalid if seconds is None else seconds


def _qualified(given: Arguments, name: str) -> tuple[bool, tuple[str, ...]]:
    if name not in given:
        return False, ()
    return _field_names(given[name])


def _field_names(argument: str | None) -> tuple[bool, tuple[str, ...]]:
    """(applies to the whole response, or to these fields); a list that is not one of names restricts the whole."""
    if argument is None:
        return True, ()
    listed = tuple(name.strip(OWS).lower() for name in (unquote(argument) or argument).split(",") if name.strip(OWS))
    if not listed or not all(map(is_token, listed)):
        return True, ()
    return False, listed


_TARGETED_SECONDS: Final = {
    "max-age": "max_age",
    "s-maxage": "s_maxage",
    "stale-while-revalidate": "stale_while_revalidate",
    "stale-if-error": "stale_if_error",
}
_TARGETED_FLAGS: Final = {
    "no-store": "no_store",
    "no-transform": "no_transform",
    "must-revalidate": "must_revalidate",
    "proxy-revalidate": "proxy_revalidate",
    "must-understand": "must_understand",
    "public": "public",
    "immutable": "immutable",
}
_NOT_ABOUT_CACHING: Final = frozenset({"content"})
"""Of Surrogate-Control: how the response is to be processed. A field of this alone leaves Cache-Control in force."""
_TARGETED_QUALIFIED: Final = {"no-cache": ("no_cache", "no_cache_fields"), "private": ("private", "private_fields")}


def _targeted(lines: tuple[str, ...]) -> ResponseDirectives | None:
    """RFC 9213 section 2.1: a Dictionary whose members have their directive's type; None: ignore the field."""
    if sum(map(len, lines)) > _TARGETED_LIMIT_CHARS:
        return None
    try:
        parsed = http_sf.parse(", ".join(lines).encode("ascii", "backslashreplace"), tltype="dictionary")
    except http_sf.StructuredFieldError:
        return None
    if not isinstance(parsed, dict) or not parsed.keys() - _NOT_ABOUT_CACHING:
        return None
    fields: dict[str, object] = {}
    for name, member in parsed.items():
        value = member[0] if isinstance(member, tuple) else member
        if name in _TARGETED_SECONDS:
            if not isinstance(value, int) or isinstance(value, bool):
                return None
            fields[_TARGETED_SECONDS[name]] = min(max(value, 0), MAX_SECONDS)
        elif name in _TARGETED_FLAGS:
            if not isinstance(value, bool):
                return None
            fields[_TARGETED_FLAGS[name]] = value
        elif name in _TARGETED_QUALIFIED:
            whole_name, names_name = _TARGETED_QUALIFIED[name]
            if isinstance(value, bool):
                fields[whole_name] = value
            elif isinstance(value, str):
                fields[whole_name], fields[names_name] = _field_names(value)
            else:
                return None
    return replace(ResponseDirectives(targeted=True), **fields)  # type: ignore[arg-type]
