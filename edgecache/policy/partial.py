"""Stored parts of a representation: what a 206 brings, which requests they answer, how they join, and what they lack.

Pure. RFC 9110 section 15.3.7, RFC 9111 sections 3.3 and 3.4. A stored head of parts has status 206 and one Content-Range line for
each span, in order; its body is the bytes of those spans, one after the other. Called by storing and serve.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from edgecache.policy.dates import date_field
from edgecache.policy.etag import entity_tag
from edgecache.policy.fields import OWS, delta_seconds, freeze, without
from edgecache.policy.message import Headers, Request, Response
from edgecache.policy.ranges import ByteSpan, FullBody, NotSatisfiable, Parts, content_range, select

MAX_SPANS: Final = 64
"""Spans of one representation that are kept apart; what would make more replaces them."""

MAX_JOINED_BYTES: Final = 16 << 20
"""Joining copies: parts that together are larger are not joined, and the newer replaces the older."""

_VARIANT = "=206;"
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE)
_OF_ONE_PART = frozenset({"content-digest", "content-length", "content-md5", "content-range"})


@dataclass(frozen=True, slots=True)
class Held:
    """Parts of one representation of `length` bytes: spans in order, at least a byte apart, and their bytes."""

    spans: tuple[ByteSpan, ...]
    length: int
    content: bytes

    @property
    def whole(self) -> bool:
        return self.spans == ((0, self.length - 1),)


def variant(of_whole: str) -> str:
    """The secondary key under which parts are stored beside the complete response of this key: no request has it as its own."""
    return _VARIANT + of_whole


def incoming(response: Response) -> tuple[ByteSpan, int] | None:
    """Which bytes of how many a 206 brings; None if it cannot be kept.

    Several ranges at once are not, nor are bytes of a length that is not known; a head that contradicts itself is not trusted.
    """
    headers = response.headers
    if response.status != 206 or headers.get("Content-Type", "").strip(OWS).lower().startswith("multipart/byteranges"):
        return None
    lines = headers.getall("Content-Range", ())
    found = _content_range(lines[0]) if len(lines) == 1 else None
    if found is None:
        return None
    (first, last), _ = found
    declared = headers.get("Content-Length")
    return found if declared is None or delta_seconds(declared.strip(OWS)) == last - first + 1 else None


def parts_of(stored: Response) -> tuple[tuple[ByteSpan, ...], int] | None:
    """The spans of a stored head, and the length of the whole; None if it is no head of parts."""
    found = [_content_range(line) for line in stored.headers.getall("Content-Range", ())] if stored.status == 206 else []
    spans = [each[0] for each in found if each is not None]
    lengths = {each[1] for each in found if each is not None}
    in_order = all(earlier[1] + 1 < later[0] for earlier, later in pairwise(spans))
    if len(spans) != len(found) or len(lengths) != 1 or not in_order:
        return None
    return tuple(spans), lengths.pop()


def held(stored: Response, content: bytes) -> Held | None:
    """The parts that a stored head and body are; None if they do not belong together."""
    found = parts_of(stored)
    if found is None or sum(last - first + 1 for first, last in found[0]) != len(content):
        return None
    return Held(*found, content)


def head_of(response: Response, parts: Held) -> Response:
    """The head to store for `parts`, from that of a response which brought some of them."""
    lines = (("Content-Range", content_range(span, parts.length)) for span in parts.spans)
    return Response(206, "Partial Content", freeze((*without(response.headers, _OF_ONE_PART), *lines)))


def complete_head(stored: Response, length: int) -> Response:
    """The 200 that stands for the whole representation of which `stored` has parts (RFC 9110 section 15.3.7.3)."""
    kept = without(stored.headers, _OF_ONE_PART)
    return Response(200, "OK", freeze((*kept, ("Content-Length", str(length)))))


def answerable(request: Request, stored: Response, max_parts: int) -> Parts | NotSatisfiable | None:
    """What of the stored parts answers `request`; None if they do not have all that it asks for, or it asks for the whole.

    That no range overlaps the representation is known from its length (RFC 9110 section 15.5.17).
    """
    found = parts_of(stored)
    if found is None:
        return None
    spans, length = found
    match select(request, complete_head(stored, length), length, max_parts=max_parts, served=True):
        case FullBody():
            return None
        case NotSatisfiable() as outside:
            return outside
        case Parts() as asked:
            return asked if all(any(a <= first and last <= b for a, b in spans) for first, last in asked.spans) else None


def cut(parts: Held, span: ByteSpan) -> bytes:
    """The bytes of `span`, which lies within one of the spans of `parts`. ValueError if it does not."""
    start = 0
    for first, last in parts.spans:
        if first <= span[0] and span[1] <= last:
            return parts.content[start + span[0] - first : start + span[1] - first + 1]
        start += last - first + 1
    raise ValueError(f"bytes {span[0]}-{span[1]} are not among the stored parts")


def same_representation(stored: Headers, new: Headers) -> bool:
    """Whether two responses have the same strong validator (RFC 9110 sections 8.8.1 and 15.3.7.3).

    The codings must be the same too: there are sources that give all codings of a page one tag.
    """
    if stored.get("Content-Encoding") != new.get("Content-Encoding"):
        return False
    old_tag, new_tag = entity_tag(stored), entity_tag(new)
    if old_tag is not None or new_tag is not None:
        return old_tag is not None and new_tag is not None and old_tag.strongly_equals(new_tag)
    modified = _strong_date(stored)
    return modified is not None and modified == _strong_date(new)


def resumable(response: Response) -> int | None:
    """The length of a representation whose beginning, if no more comes, is worth keeping (RFC 9111 section 3.3).

    Its source must serve ranges, and a strong validator say which representation it is; None otherwise.
    """
    headers = response.headers
    if response.status != 200 or headers.get("Accept-Ranges", "").strip(OWS).lower() != "bytes":
        return None
    length = delta_seconds(headers.get("Content-Length", "").strip(OWS))
    return length if length is not None and same_representation(headers, headers) else None


def join(older: Held, newer: Held, limit_bytes: int = MAX_JOINED_BYTES) -> Held | None:
    """Both, of one representation; None if they contradict each other, or are too many or too large to be joined."""
    if older.length != newer.length or len(older.content) + len(newer.content) > min(limit_bytes, MAX_JOINED_BYTES):
        return None
    spans: list[ByteSpan] = []
    pieces: list[memoryview] = []
    for first, last, content, other in sorted((*_pieces(older, newer), *_pieces(newer, older)), key=lambda piece: piece[:2]):
        if not spans or first > spans[-1][1] + 1:
            spans.append((first, last))
            pieces.append(content)
            continue
        end = min(spans[-1][1], last)
        # What has been seen of these bytes is all the other's: its own parts lie apart from each other.
        if first <= end and content[: end - first + 1] != cut(other, (first, end)):
            return None
        pieces.append(content[end - first + 1 :])
        spans[-1] = spans[-1][0], max(spans[-1][1], last)
    return Held(tuple(spans), older.length, b"".join(pieces)) if len(spans) <= MAX_SPANS else None


def gap(parts: Held) -> ByteSpan | None:
    """The bytes that are missing, where they lie together and one request can bring them all."""
    edges = [(-1, -1), *parts.spans, (parts.length, parts.length)]
    gaps = [(before + 1, after - 1) for (_, before), (after, _) in pairwise(edges) if after > before + 1]
    return gaps[0] if len(gaps) == 1 else None


def completing(stored: Response, missing: ByteSpan, length: int) -> Headers | None:
    """Range and If-Range that ask for the missing bytes of this very representation; None if no validator can say which it is."""
    tag = entity_tag(stored.headers)
    if tag is not None:
        validator = None if tag.weak else f'"{tag.opaque}"'
    else:
        validator = stored.headers["Last-Modified"].strip(OWS) if _strong_date(stored.headers) is not None else None
    if validator is None:
        return None
    first, last = missing
    wanted = f"bytes={first}-" if last == length - 1 else f"bytes={first}-{last}"
    return freeze((("Range", wanted), ("If-Range", validator)))


def _content_range(line: str) -> tuple[ByteSpan, int] | None:
    match = _CONTENT_RANGE.fullmatch(line.strip(OWS))
    if match is None:
        return None
    first, last, length = int(match[1]), int(match[2]), int(match[3])
    return ((first, last), length) if first <= last < length else None


def _strong_date(headers: Headers) -> float | None:
    """RFC 9110 section 8.8.2.2: Last-Modified is strong only if the response was made at least a second later."""
    modified, made = date_field(headers, "Last-Modified"), date_field(headers, "Date")
    return modified if modified is not None and made is not None and made - modified >= 1 else None


def _pieces(parts: Held, other: Held) -> list[tuple[int, int, memoryview, Held]]:
    """First and last position and bytes of each span, and the parts that it is compared with."""
    found: list[tuple[int, int, memoryview, Held]] = []
    content, start = memoryview(parts.content), 0
    for first, last in parts.spans:
        end = start + last - first + 1
        found.append((first, last, content[start:end], other))
        start = end
    return found
