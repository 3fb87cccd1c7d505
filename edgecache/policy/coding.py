"""Content codings that this edge applies (RFC 9110 section 8.4): which one a client gets, and what it makes of a head.

Pure; the bytes are coded in `serve.compressing`. Called by variance for the key, by serve for heads, by validation for 304s.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from edgecache.policy.cache_control import parse_response
from edgecache.policy.etag import entity_tag, listed_tags, parse_etag
from edgecache.policy.fields import OWS, delta_seconds, freeze, names, weighted
from edgecache.policy.message import Headers, Request, Response


class Coding(enum.StrEnum):
    """Codings of the IANA registry that are written here."""

    GZIP = "gzip"
    BR = "br"
    ZSTD = "zstd"


IDENTITY: Final = "identity"
"""What RFC 9110 section 12.5.3 calls no coding."""

MIN_BYTES: Final = 1024
"""Less fits into one packet anyway."""

_MEMO_LIMIT_CHARS: Final = 256
"""Longer values are read each time, so that a hostile client cannot fill the memo with them."""

_WITHOUT_CONTENT: Final = frozenset({204, 205, 206, 304})
"""No content, or a part whose positions count in the uncoded bytes."""

_ABOUT_THE_BYTES: Final = ("Content-Digest", "Content-Encoding", "Content-MD5", "Content-Range", "Digest", "Repr-Digest")
"""The source coded the bytes itself, counts positions in them, or vouches for them (RFC 9530): they stay."""

_TYPES: Final = frozenset(
    {
        "application/javascript",
        "application/json",
        "application/manifest+json",
        "application/rtf",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/svg+xml",
        "image/x-icon",
    }
)
_STREAMS: Final = frozenset({"text/event-stream"})
"""Each event is to arrive at once; compressors hold bytes back."""


def negotiated(request: Request, offered: tuple[Coding, ...]) -> str | None:
    """What this client gets where the edge offers these codings: one of them, or `identity` (RFC 9110 section 12.5.3).

    None: nothing is offered, or the client accepts neither these nor `identity`; its Accept-Encoding then stands as it is. Of
    codings wanted alike the first offered wins. A request's no-transform (RFC 9111 section 5.2.1.6) asks for `identity`.
    """
    if not offered:
        return None
    if "no-transform" in names(request.headers, "Cache-Control"):
        return IDENTITY
    lines = tuple(request.headers.getall("Accept-Encoding", ()))
    return _remembered(lines, offered) if sum(map(len, lines)) <= _MEMO_LIMIT_CHARS else _choose(lines, offered)


def code(request: Request, response: Response, offered: tuple[Coding, ...]) -> tuple[Response, Coding | None]:
    """The head as it goes on, and the coding to apply to the body, if any.

    What one client could get coded says so to all, in Vary. A coded head has no length (nobody knows it yet), no Accept-Ranges
    (its ranges could not be joined), and a weak ETag: the same tag must not name different bytes (RFC 9110 section 8.8.3).
    """
    if response.status == 304:
        return _as_the_client_knows_it(request, response, offered), None
    if not offered or not _compressible(response):
        return response, None
    varying = _varying(response)
    coding = negotiated(request, offered)
    if coding is None or coding == IDENTITY:
        return varying, None
    pairs = [(name, value) for name, value in varying.headers.items() if name.lower() not in ("accept-ranges", "content-length")]
    coded = Response(response.status, response.reason, freeze((*pairs, ("Content-Encoding", coding))))
    return _weakened(coded), Coding(coding)


def as_stored(stored: Response, merged: Response) -> Response:
    """`merged`, a stored head with the fields of a 304, as far as those speak of the uncoded representation.

    The source knows nothing of the coding applied here: its strong ETag would name other bytes, its Vary lack Accept-Encoding.
    """
    if "accept-encoding" in names(stored.headers, "Vary"):
        merged = _varying(merged)
    tag = entity_tag(stored.headers)
    return _weakened(merged) if "Content-Encoding" in stored.headers and tag is not None and tag.weak else merged


def _compressible(response: Response) -> bool:
    headers = response.headers
    if response.status < 200 or response.status in _WITHOUT_CONTENT or any(name in headers for name in _ABOUT_THE_BYTES):
        return False
    length = delta_seconds(headers.get("Content-Length", "").strip(OWS))
    if length is not None and length < MIN_BYTES:
        return False
    # RFC 9111 section 5.2.2.6; in whichever of the fields it stands.
    if "no-transform" in names(headers, "Cache-Control") or parse_response(headers).no_transform:
        return False
    kind = headers.get("Content-Type", "").partition(";")[0].strip(OWS).lower()
    if kind in _STREAMS:
        return False
    return kind in _TYPES or kind.startswith("text/") or kind.endswith(("+json", "+xml"))


def _varying(response: Response) -> Response:
    listed = names(response.headers, "Vary")
    if "*" in listed or "accept-encoding" in listed:
        return response
    return Response(response.status, response.reason, freeze((*response.headers.items(), ("Vary", "Accept-Encoding"))))


def _weakened(response: Response) -> Response:
    pairs = ((name, _weak(value) if name.lower() == "etag" else value) for name, value in response.headers.items())
    return Response(response.status, response.reason, freeze(pairs))


def _weak(text: str) -> str:
    tag = parse_etag(text)
    return text if tag is None or tag.weak else f'W/"{tag.opaque}"'


def _as_the_client_knows_it(request: Request, response: Response, offered: tuple[Coding, ...]) -> Response:
    """A source's 304 to the client's own condition: with the weak tag by which the client holds a coded response."""
    tag = entity_tag(response.headers)
    if not offered or tag is None:
        return response
    held = listed_tags(request.headers, "If-None-Match")
    return _weakened(_varying(response)) if any(other.weak and other.weakly_equals(tag) for other in held) else response


def weak_and_strong(headers: Headers) -> str | None:
    """The ETag of a stored response for If-None-Match. Of a coded one with a weak tag both forms: this edge may have weakened it,
    and there are sources that compare letter by letter."""
    text, tag = headers.get("ETag"), entity_tag(headers)
    if text is None or tag is None or not tag.weak or "Content-Encoding" not in headers or not text.startswith("W/"):
        return text
    return f'{text}, "{tag.opaque}"'


def _choose(lines: Iterable[str], offered: tuple[Coding, ...]) -> str | None:
    weights: dict[str, float] = {}
    for item, weight in weighted(lines):
        weights.setdefault("gzip" if item == "x-gzip" else item, weight)
    others = weights.get("*", 0.0)
    best = max(offered, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    if weight > 0 and weight >= weights.get(IDENTITY, 0.0):
        return best
    return IDENTITY if weights.get(IDENTITY, weights.get("*", 1.0)) > 0 else None


_remembered = lru_cache(maxsize=2048)(_choose)
