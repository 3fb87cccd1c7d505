"""Edge Side Includes (W3C note "ESI Language Specification 1.0"): which responses are templates, what is in one, its head.

The subset: `include` (src, alt, onerror), `remove`, `comment` and `<!--esi -->`. Pure: the parser turns bytes into bytes and
`Include`s, and fetches nothing. Called by serve.assembling, and by serve.asking, serve.pipeline and serve.respond to tell
templates apart.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Final

from edgecache.policy.fields import OWS, freeze, members, unquote, without
from edgecache.policy.message import Response
from edgecache.policy.rule import CacheRule

CAPABILITY: Final = "ESI/1.0"
"""As it stands in Surrogate-Capability and Surrogate-Control (W3C note "Edge Architecture Specification")."""

MAX_TAG_BYTES: Final = 4096
"""A longer ESI tag is text."""

_TYPES: Final = frozenset({"application/xhtml+xml", "application/xml", "text/html", "text/xml"})
_STATUSES: Final = frozenset({200, 203, 404, 410})

_OF_THE_TEMPLATE: Final = frozenset(
    {
        "accept-ranges",
        "age",
        "cache-control",
        "cdn-cache-control",
        "content-digest",
        "content-length",
        "content-md5",
        "digest",
        "etag",
        "expires",
        "last-modified",
        "pragma",
        "repr-digest",
        "surrogate-control",
    }
)
"""What an origin says of the template's bytes and of how long they may be kept is not true of the page made of them."""

_MARKERS: Final = (b"<esi:", b"</esi:", b"<!--", b"<![CDATA[")
_MARKER = re.compile(rb"</?esi:|<!--|<!\[CDATA\[")
_MARKER_OR_END = re.compile(rb"</?esi:|<!--|<!\[CDATA\[|-->")
_ESI_COMMENT: Final = b"<!--esi"
_REMOVE_END: Final = b"</esi:remove"
_QUOTE_OR_END = re.compile(rb"[\"'>]")
_NAME = re.compile(rb"[a-zA-Z][a-zA-Z0-9_-]*")
_ATTRIBUTE = re.compile(rb"\s+([a-zA-Z][a-zA-Z0-9_-]*)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});")
"""Of XML alone: in `?a=1&copy=2` nothing is an entity."""


@dataclass(frozen=True, slots=True)
class Include:
    """A fragment wanted at this place. `src` None: the tag names none."""

    src: str | None
    alt: str | None = None
    """Wanted where `src` fails."""
    continues: bool = False
    """onerror="continue": where all fails, nothing stands here."""


Piece = bytes | Include


def declared(response: Response) -> bool:
    """Whether the response says that it is for an ESI processor: Surrogate-Control: content="ESI/1.0"."""
    for member in members(response.headers, "Surrogate-Control"):
        name, _, value = member.partition("=")
        if name.strip(OWS).lower() == "content" and CAPABILITY in (unquote(value.strip(OWS)) or value).split():
            return True
    return False


def is_template(response: Response, rule: CacheRule) -> bool:
    """Whether this edge is to assemble the response. What came coded is not: it would have to be decoded first."""
    if not rule.esi or response.status not in _STATUSES or "Content-Encoding" in response.headers:
        return False
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip(OWS).lower()
    return kind in _TYPES and (rule.esi_undeclared or declared(response))


def assembled_head(template: Response) -> Response:
    """The head of the page: without validators, and not to be kept by anybody.

    How long the page may be kept would follow from all its fragments; they are not known yet when the head is sent.
    """
    kept = without(template.headers, _OF_THE_TEMPLATE)
    return Response(template.status, template.reason, freeze((*kept, ("Cache-Control", "private, no-cache"))))


class Parser:
    """A template in any chunks to its pieces. Holds at most a tag; time is linear in what is fed.

    Tags of ESI that are not of the subset are dropped, and what they enclose stays. Comments and CDATA sections are text.
    """

    def __init__(self) -> None:
        self._held = b""
        """Not yet told apart: shorter than a marker, but inside a tag."""
        self._state = self._text
        self._in_esi_comment = False
        self._scanned = 0
        """How much of a held tag has been looked at."""
        self._quote = b""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        self._held += data
        return self._run(last=False)

    def finish(self) -> list[Piece]:
        """The pieces that the end completes. A tag without its end is text."""
        return self._run(last=True)

    def _run(self, *, last: bool) -> list[Piece]:
        """A state puts what it can tell into the pieces, and says where the next one begins; None: it waits for more."""
        pieces: list[Piece] = []
        position: int | None = 0
        while position is not None:
            position = self._state(pieces, position, last)
        return _merged(pieces)

    def _rest(self, start: int) -> None:
        self._held = self._held[start:]

    def _text(self, pieces: list[Piece], start: int, last: bool) -> int | None:
        """Outside of everything: to the next marker."""
        held = self._held
        found = (_MARKER_OR_END if self._in_esi_comment else _MARKER).search(held, start)
        if found is None:
            markers = (*_MARKERS, b"-->") if self._in_esi_comment else _MARKERS
            keep = 0 if last else _started(held, start, markers)
            _put(pieces, held[start : len(held) - keep])
            self._rest(len(held) - keep)
            return None
        at, marker = found.start(), found[0]
        _put(pieces, held[start:at])
        if marker == b"-->":
            self._in_esi_comment = False
            return found.end()
        if marker == b"<!--":
            return self._comment_begins(pieces, at, last)
        if marker == b"<![CDATA[":
            self._state = self._cdata
            _put(pieces, marker)
            return found.end()
        self._state, self._scanned, self._quote = self._tag, len(marker), b""
        return at

    def _comment_begins(self, pieces: list[Piece], at: int, last: bool) -> int | None:
        """Whether it is `<!--esi`, which the byte after it tells from other words."""
        end = at + len(_ESI_COMMENT)
        seen = self._held[at : end + 1]
        if len(seen) <= len(_ESI_COMMENT) and not last and _ESI_COMMENT.startswith(seen):
            self._rest(at)
            return None
        if seen.startswith(_ESI_COMMENT) and not self._in_esi_comment and (seen[-1:].isspace() or seen[-1:] == b"<"):
            self._in_esi_comment = True
            return end
        self._state = self._comment
        _put(pieces, b"<!--")
        return at + 4

    def _comment(self, pieces: list[Piece], start: int, last: bool) -> int | None:
        return self._verbatim(pieces, start, b"-->", last)

    def _cdata(self, pieces: list[Piece], start: int, last: bool) -> int | None:
        return self._verbatim(pieces, start, b"]]>", last)

    def _verbatim(self, pieces: list[Piece], start: int, end: bytes, last: bool) -> int | None:
        held = self._held
        at = held.find(end, start)
        if at < 0:
            keep = 0 if last else _started(held, start, (end,))
            _put(pieces, held[start : len(held) - keep])
            self._rest(len(held) - keep)
            return None
        _put(pieces, held[start : at + len(end)])
        self._state = self._text
        return at + len(end)

    def _tag(self, pieces: list[Piece], start: int, last: bool) -> int | None:
        """A tag of ESI: to the `>` that is in no quotes."""
        held, limit = self._held, start + MAX_TAG_BYTES
        scan = start + self._scanned
        while True:
            at = held.find(self._quote, scan, limit) if self._quote else _find(_QUOTE_OR_END, held, scan, limit)
            if at < 0:
                break
            scan = at + 1
            if self._quote:
                self._quote = b""
            elif held[at:scan] == b">":
                self._end_of_tag(pieces, held[start:scan])
                return scan
            else:
                self._quote = held[at:scan]
        if len(held) >= limit or last:
            self._state = self._text
            _put(pieces, held[start:limit])
            return min(limit, len(held))
        self._rest(start)
        self._scanned = len(self._held)
        return None

    def _end_of_tag(self, pieces: list[Piece], tag: bytes) -> None:
        self._state = self._text
        begin = len(b"</esi:") if tag.startswith(b"</") else len(b"<esi:")
        name = _NAME.match(tag, begin)
        if name is None or tag.startswith(b"</"):
            return
        if name[0] == b"include":
            pieces.append(_include(tag, name.end()))
        elif name[0] == b"remove" and not tag.endswith(b"/>"):
            self._state = self._removed

    def _removed(self, pieces: list[Piece], start: int, last: bool) -> int | None:
        """What is dropped, to `</esi:remove`; the end of that tag is dropped with it."""
        held = self._held
        at = held.find(_REMOVE_END, start)
        if at < 0:
            self._rest(len(held) - (0 if last else _started(held, start, (_REMOVE_END,))))
            return None
        self._state, self._scanned, self._quote = self._tag, len(_REMOVE_END), b""
        return at


def _put(pieces: list[Piece], text: bytes) -> None:
    if text:
        pieces.append(text)


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Text that is not interrupted in one piece."""
    merged: list[Piece] = []
    texts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            texts.append(piece)
            continue
        _put(merged, b"".join(texts))
        texts.clear()
        merged.append(piece)
    _put(merged, b"".join(texts))
    return merged


def _find(pattern: re.Pattern[bytes], held: bytes, start: int, limit: int) -> int:
    found = pattern.search(held, start, limit)
    return -1 if found is None else found.start()


def _started(held: bytes, start: int, markers: tuple[bytes, ...]) -> int:
    """How many bytes at the end may be the beginning of a marker."""
    longest = max(map(len, markers)) - 1
    for count in range(min(longest, len(held) - start), 0, -1):
        end = held[len(held) - count :]
        if any(marker.startswith(end) for marker in markers):
            return count
    return 0


def _include(tag: bytes, position: int) -> Include:
    """The attributes of an include, as far as they are well formed; the first of a name counts."""
    found: dict[bytes, str] = {}
    while (match := _ATTRIBUTE.match(tag, position)) is not None:
        value = match[2] if match[2] is not None else match[3]
        found.setdefault(match[1], _ENTITY.sub(lambda entity: html.unescape(entity[0]), value.decode("utf-8", "replace")))
        position = match.end()
    return Include(found.get(b"src"), found.get(b"alt"), found.get(b"onerror") == "continue")
