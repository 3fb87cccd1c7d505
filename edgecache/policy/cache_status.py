"""What the cache did with a request, as one member of the Cache-Status field (RFC 9211).

Called by serve for each answer; the words are those of the reasons in lookup and storing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never

from edgecache.policy.fields import freeze, is_token
from edgecache.policy.lookup import (
    Bypass,
    BypassReason,
    Decision,
    Fresh,
    Miss,
    MissReason,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
)
from edgecache.policy.message import Headers

FIELD = "Cache-Status"
DEFAULT_NAME = "edgecache"


class Forward(enum.StrEnum):
    """Why a request went to the source: those words of RFC 9211 section 2.2 that this edge says."""

    BYPASS = "bypass"
    METHOD = "method"
    URI_MISS = "uri-miss"
    REQUEST = "request"
    STALE = "stale"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus:
    """Parameters of RFC 9211 section 2; `hit` and `fwd` exclude each other, and `hit` wins."""

    hit: bool = False
    fwd: Forward | None = None
    fwd_status: int | None = None
    """What the source answered, where the client gets something else."""
    ttl: int | None = None
    """Seconds of freshness left, negative when stale."""
    stored: bool = False
    collapsed: bool = False
    key: str | None = None
    detail: str | None = None
    """A reason of this package, or what a generator's run says of itself."""
    name: str = DEFAULT_NAME

    def line(self) -> str:
        """The list member, e.g. `edgecache; fwd=uri-miss; stored`."""
        parts = [_bare_item(self.name)]
        if self.hit:
            parts.append("hit")
        elif self.fwd is not None:
            parts.append(f"fwd={self.fwd.value}")
            if self.fwd_status is not None:
                parts.append(f"fwd-status={self.fwd_status}")
        if self.ttl is not None:
            parts.append(f"ttl={self.ttl}")
        if self.stored:
            parts.append("stored")
        if self.collapsed and not self.hit:
            parts.append("collapsed")
        if self.key is not None:
            parts.append(f"key={_string(self.key)}")
        if self.detail is not None:
            parts.append(f"detail={_bare_item(self.detail)}")
        return "; ".join(parts)


def append(headers: Headers, status: CacheStatus) -> Headers:
    """The header section with this cache's member after those of caches nearer to the origin (RFC 9211 section 2)."""
    return freeze((*headers.items(), (FIELD, status.line())))


def forward_of(decision: Decision) -> Forward | None:
    """The `fwd` parameter for a decision; None if it did not go to the source."""
    match decision:
        case Bypass(BypassReason.METHOD):
            return Forward.METHOD
        case Bypass(BypassReason.REQUEST_NO_STORE):
            return Forward.REQUEST
        case Bypass():
            return Forward.BYPASS
        case Miss(MissReason.PARTIAL):
            return Forward.PARTIAL
        case Miss(MissReason.STALE):
            return Forward.STALE
        case Miss(MissReason.PRECONDITION):
            return Forward.REQUEST
        case Miss():
            return Forward.URI_MISS
        case Validate(refused=True):
            return Forward.REQUEST
        case Validate():
            return Forward.STALE
        case Fresh() | StaleWhileRevalidate() | Unsatisfiable():
            return None
        case _:
            assert_never(decision)


def _bare_item(text: str) -> str:
    """A Token where that holds `text`, else a String (RFC 9651 sections 3.3.3, 3.3.4)."""
    starts_as_token = text[:1].isascii() and (text[:1].isalpha() or text[:1] == "*")
    return text if starts_as_token and is_token(text) else _string(text)


def _string(text: str) -> str:
    """A String: characters outside printable ASCII become `?`."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
