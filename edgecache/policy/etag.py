"""Entity tags and their two comparisons (RFC 9110 section 8.8.3). Called by validation, ranges, partial and coding."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecache.policy.message import Headers

_TAG = re.compile(r'(W/)?"([^"]*)"')
_LISTED = re.compile(r'(W/)?"([^"]*)"|([^\s,"]+)')


@dataclass(frozen=True, slots=True)
class EntityTag:
    """An opaque validator."""

    opaque: str
    weak: bool = False

    def strongly_equals(self, other: EntityTag) -> bool:
        """Byte for byte the same representation (RFC 9110 section 8.8.3.2)."""
        return not self.weak and not other.weak and self.opaque == other.opaque

    def weakly_equals(self, other: EntityTag) -> bool:
        """Equivalent representations (RFC 9110 section 8.8.3.2)."""
        return self.opaque == other.opaque


def parse_etag(text: str) -> EntityTag | None:
    """One entity tag. Unquoted text, which some origins send, counts as a weak tag; empty text is none."""
    text = text.strip(" \t")
    if match := _TAG.fullmatch(text):
        return EntityTag(match[2], weak=match[1] is not None)
    return EntityTag(text, weak=True) if text else None


def entity_tag(headers: Headers) -> EntityTag | None:
    """The ETag of a response, or None."""
    text = headers.get("ETag")
    return None if text is None else parse_etag(text)


def listed_tags(headers: Headers, name: str) -> tuple[EntityTag, ...]:
    """The entity tags of If-Match or If-None-Match, over all lines; `*` is the caller's to see."""
    found = (match for line in headers.getall(name, ()) for match in _LISTED.finditer(line))
    return tuple(EntityTag(m[3], weak=True) if m[3] is not None else EntityTag(m[2], weak=m[1] is not None) for m in found)


def any_representation(headers: Headers, name: str) -> bool:
    """Whether If-Match or If-None-Match is `*` (RFC 9110 sections 13.1.1, 13.1.2)."""
    return any(line.strip(" \t") == "*" for line in headers.getall(name, ()))
