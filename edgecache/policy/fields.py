"""Generic syntax of field values (RFC 9110 section 5.6): lists, quoted strings, seconds, frozen header sections.

No field's meaning lives here. Called by whoever reads particular fields, in this package and others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.policy.message import Headers

MAX_SECONDS = 1 << 31
"""What a delta-seconds value too large to represent counts as (RFC 9111 section 1.2.2)."""

OWS = " \t"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_MEMBER = re.compile(r'[^",]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^",]*)*', re.DOTALL)
_DIGITS = re.compile(r"[0-9]+")
_CONTROLS = bytes({*range(0x20), 0x7F} - {ord("\t")})


def is_token(text: str) -> bool:
    """Whether `text` is a token (RFC 9110 section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def unquote(text: str) -> str | None:
    """The content of a quoted-string, or None if `text` is not one (RFC 9110 section 5.6.4)."""
    match = _QUOTED.fullmatch(text)
    return _QUOTED_PAIR.sub(r"\1", match[1]) if match else None


def quote(text: str) -> str:
    """`text` as a token where it is one, else as a quoted-string."""
    if is_token(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def delta_seconds(text: str) -> int | None:
    """Non-negative whole seconds, at most `MAX_SECONDS`; None if `text` is anything else (RFC 9111 section 1.2.2)."""
    if not _DIGITS.fullmatch(text):
        return None
    digits = text.lstrip("0")
    return MAX_SECONDS if len(digits) > 10 else min(int(digits or "0"), MAX_SECONDS)


def split_list(line: str) -> Iterator[str]:
    """Members of one line of a comma-separated list, empty ones dropped (RFC 9110 section 5.6.1).

    Commas in quoted strings do not separate. A quote that is never closed is an ordinary character: what follows it must not hide
    a restrictive member.
    """
    position = 0
    last_quote = line.rfind('"')
    while position <= last_quote:
        match = _MEMBER.match(line, position)
        end = match.end() if match else position
        if end < len(line) and line[end] != ",":
            break
        if member := line[position:end].strip(OWS):
            yield member
        position = end + 1
    for part in line[position:].split(","):
        if member := part.strip(OWS):
            yield member


def members(headers: Headers, name: str) -> Iterator[str]:
    """Members of a list-valued field over all its lines, in order."""
    for line in headers.getall(name, ()):
        yield from split_list(line)


def names(headers: Headers, name: str) -> tuple[str, ...]:
    """Members of a field that lists field names or tokens, lower case, in order, once each."""
    return tuple(dict.fromkeys(member.lower() for member in members(headers, name)))


def freeze(pairs: Iterable[tuple[str, str]] = ()) -> Headers:
    """A header section of these field lines."""
    return CIMultiDictProxy(CIMultiDict(pairs))


def without(headers: Headers, dropped: frozenset[str] | set[str]) -> list[tuple[str, str]]:
    """The field lines whose lower-case name is not in `dropped`."""
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]


def encode_lines(lines: Sequence[str]) -> bytes:
    """Start and field lines as bytes, each ended. Raises ValueError where a control character would break their framing."""
    block = "\r\n".join((*lines, "")).encode("utf-8", "surrogateescape")
    # A tab may stand in a field's value, and of line ends there are as many as lines (RFC 9110 section 5.5).
    if len(block) - len(block.translate(None, _CONTROLS)) != 2 * len(lines):
        raise ValueError("a control character in a head")
    return block


def weighted(lines: Iterable[str]) -> list[tuple[str, float]]:
    """Items, lower case and without whitespace, with their weights (RFC 9110 section 12.4.2)."""
    found: list[tuple[str, float]] = []
    for line in lines:
        for member in split_list(line.lower()):
            item, *parameters = (part.strip(OWS) for part in member.split(";"))
            weight = 1.0
            kept = [item]
            for parameter in parameters:
                if parameter.startswith("q="):
                    weight = _weight(parameter[2:])
                else:
                    kept.append(parameter)
            found.append((";".join(kept), weight))
    return found


def _weight(text: str) -> float:
    digits = text.replace(".", "", 1)
    if len(text) > 5 or not digits.isascii() or not digits.isdigit():
        return 1.0
    return min(float(text), 1.0)
