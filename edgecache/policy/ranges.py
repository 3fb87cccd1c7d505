"""Which bytes of a stored body a Range asks for, and how they are framed (RFC 9110 section 14).

Pure: the caller holds the body and draws the boundary. Called for a 200 answer to a GET, after the preconditions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecache.policy.dates import date_field
from edgecache.policy.etag import entity_tag, parse_etag
from edgecache.policy.fields import OWS, freeze, without
from edgecache.policy.message import Headers, Request, Response

MAX_PARTS = 16
"""A request for more ranges is answered with the whole body (RFC 9110 section 17.15)."""

_UNIT = "bytes="
_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_MAX_DIGITS = 18
_ENDLESS = 10**_MAX_DIGITS

_OF_THE_CONTENT = frozenset({"content-digest", "content-length", "content-md5", "content-range"})
"""Speak of all bytes of one message (RFC 9530 section 2)."""

ByteSpan = tuple[int, int]
"""First and last byte position, both inclusive."""


@dataclass(frozen=True, slots=True)
class FullBody:
    """Answer as if there were no Range."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Answer 206 with these spans, which do not overlap, in the order asked for."""

    spans: tuple[ByteSpan, ...]
    multipart: bool
    length: int
    """Bytes of the whole body."""
    content_type: str | None
    """That of the whole body; each part of a multipart body repeats it."""


@dataclass(frozen=True, slots=True)
class NotSatisfiable:
    """Answer 416: no range overlaps the body of `length` bytes."""

    length: int


Selection = FullBody | Parts | NotSatisfiable


def select(request: Request, response: Response, length: int, *, max_parts: int = MAX_PARTS, served: bool = False) -> Selection:
    """What of the `length` bytes of `response` to send. A Range that is malformed, of another unit or too long does not count.

    `served`: its source has sent ranges of it.
    """
    if request.method != "GET" or response.status != 200:
        return FullBody()
    lines = request.headers.getall("Range", ())
    if len(lines) != 1 or not _range_applies(request.headers, response.headers, served):
        return FullBody()
    specs = _specs(lines[0], max_parts)
    if not specs:
        return FullBody()
    spans = [span for spec in specs if (span := _resolve(spec, length)) is not None]
    if not spans:
        # A suffix of an empty body is satisfiable, yet no Content-Range can say so (RFC 9110 section 14.1.2).
        return FullBody() if any(first is None and last for first, last in specs) else NotSatisfiable(length)
    merged = _coalesce(spans)
    return Parts(merged, len(merged) > 1, length, response.headers.get("Content-Type"))


def partial(response: Response, parts: Parts, boundary: str) -> Response:
    """The 206 head (RFC 9110 section 15.3.7). `boundary` is random, chosen by the caller; a single part does not use it."""
    kept = without(response.headers, _OF_THE_CONTENT | ({"content-type"} if parts.multipart else set()))
    if parts.multipart:
        kept.append(("Content-Type", f"multipart/byteranges; boundary={boundary}"))
    else:
        kept.append(("Content-Range", content_range(parts.spans[0], parts.length)))
    kept.append(("Content-Length", str(body_length(parts, boundary))))
    return Response(206, "Partial Content", freeze(kept))


def not_satisfiable(response: Response, length: int) -> Response:
    """The 416 head (RFC 9110 section 15.5.17), without content."""
    kept = [(name, value) for name, value in response.headers.items() if name.lower() in ("date", "etag", "via", "age", "vary")]
    return Response(
        416, "Range Not Satisfiable", freeze((*kept, ("Content-Range", f"bytes */{length}"), ("Content-Length", "0")))
    )


def content_range(span: ByteSpan, length: int) -> str:
    """The value of Content-Range (RFC 9110 section 14.4)."""
    return f"bytes {span[0]}-{span[1]}/{length}"


def part_head(parts: Parts, index: int, boundary: str) -> bytes:
    """The bytes before one part of a multipart/byteranges body (RFC 9110 section 14.6)."""
    lines = [f"--{boundary}" if index == 0 else f"\r\n--{boundary}"]
    if parts.content_type is not None:
        lines.append(f"Content-Type: {parts.content_type}")
    lines.append(f"Content-Range: {content_range(parts.spans[index], parts.length)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def closing(boundary: str) -> bytes:
    """The bytes after the last part."""
    return f"\r\n--{boundary}--\r\n".encode()


def body_length(parts: Parts, boundary: str) -> int:
    """Bytes of the 206 body, framing included."""
    content = sum(last - first + 1 for first, last in parts.spans)
    if not parts.multipart:
        return content
    return content + sum(len(part_head(parts, i, boundary)) for i in range(len(parts.spans))) + len(closing(boundary))


def _range_applies(asked: Headers, have: Headers, served: bool) -> bool:
    """If-Range (RFC 9110 section 13.1.5): ranges count only if the client's part is of this very representation."""
    offered = have.get("Accept-Ranges", "").strip(OWS).lower()
    if offered == "none":
        return False
    # What is coded anew each time it is sent has no bytes that could be joined, and who does that offers no ranges of it. A weak
    # tag says so to clients; a Last-Modified, which all codings share, says the contrary.
    dated = served or offered == "bytes" or "Content-Encoding" not in have
    conditions = asked.getall("If-Range", ())
    if not conditions:
        return dated or "ETag" in have
    if len(conditions) > 1:
        return False
    condition = conditions[0].strip(OWS)
    if condition.startswith(('"', "W/")):
        wanted, tag = parse_etag(condition), entity_tag(have)
        return wanted is not None and tag is not None and wanted.strongly_equals(tag)
    modified, made = date_field(have, "Last-Modified"), date_field(have, "Date")
    if not dated or modified is None or made is None or date_field(asked, "If-Range") != modified:
        return False
    # RFC 9110 section 8.8.2.2: Last-Modified is strong only if the response was made at least a second later.
    return made - modified >= 1


def _specs(line: str, max_parts: int) -> list[tuple[int | None, int | None]] | None:
    """(first, last) of each range asked for, None for the one left out; None if the set is malformed or too long."""
    line = line.strip(OWS)
    if line[: len(_UNIT)].lower() != _UNIT or line.count(",") >= max(1, max_parts) * 2:
        return None
    found: list[tuple[int | None, int | None]] = []
    for member in line[len(_UNIT) :].split(","):
        text = member.strip(OWS)
        if not text:
            continue
        match = _SPEC.fullmatch(text)
        if match is None or text == "-":
            return None
        first, last = _position(match[1]), _position(match[2])
        if first is not None and last is not None and last < first:
            return None
        found.append((first, last))
    return found if len(found) <= max_parts else None


def _position(digits: str) -> int | None:
    if not digits:
        return None
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= _MAX_DIGITS else _ENDLESS


def _resolve(spec: tuple[int | None, int | None], length: int) -> ByteSpan | None:
    """The span within a body of `length` bytes; None if it lies outside (RFC 9110 section 14.1.2)."""
    first, last = spec
    if first is None:
        suffix = min(last or 0, length)
        return (length - suffix, length - 1) if suffix else None
    if first >= length:
        return None
    return first, length - 1 if last is None else min(last, length - 1)


def _coalesce(spans: list[ByteSpan]) -> tuple[ByteSpan, ...]:
    """Overlapping and adjoining spans joined, each at the place of its first (RFC 9110 section 15.3.7.2)."""
    joined: list[tuple[int, ByteSpan]] = []
    for position, (first, last) in sorted(enumerate(spans), key=lambda item: item[1]):
        if joined and first <= joined[-1][1][1] + 1:
            earlier, (start, end) = joined[-1]
            joined[-1] = min(earlier, position), (start, max(end, last))
        else:
            joined.append((position, (first, last)))
    return tuple(span for _, span in sorted(joined))
