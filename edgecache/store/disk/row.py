"""The rows of the index: one stored response but for its body, as bytes that prove themselves. Pure.

`worker` encodes, lookups decode. Bytes that are not what was encoded raise CorruptRow, whatever they are.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from itertools import chain
from typing import Final

import msgspec

from edgecache.policy.cache_control import parse_response
from edgecache.policy.fields import freeze
from edgecache.policy.freshness import Lifetime, LifetimeSource, Terms
from edgecache.policy.message import Response, Timed
from edgecache.store.entry import Entry
from edgecache.store.stored_body import StoredBody

KEY_BYTES: Final = 32
URI_KEY_BYTES: Final = 16
_DIGEST_BYTES: Final = 16
_FIXED: Final = struct.Struct("<QQQIQBdI")
"""segment, offset, length, checksum, serial, flags, response time, length of the label."""
_LABEL_AT: Final = _DIGEST_BYTES + _FIXED.size
_STALE: Final = 1
_RENEWING: Final = 2


class CorruptRow(Exception):
    """The bytes are not a row that was written."""


class Unstorable(Exception):
    """The entry cannot be written as a row."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a body lies; `checksum` as `stored_body.checksums` makes it."""

    segment: int
    offset: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Label:
    """What names a stored response, and what purges look at."""

    uri: str
    variant: str
    site: str
    vary: tuple[str, ...]
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Fixed:
    """What can be read of a row without its texts."""

    place: Place
    serial: int
    """The last purge that it was held against."""
    stale: bool
    renewing: bool
    time: float
    """`response_time`: tells one response from the next under the same key."""


class _Head(msgspec.Struct, array_like=True, frozen=True):
    status: int
    reason: bytes
    fields: bytes
    request_time: float
    lifetime: float
    lifetime_source: str
    born: float
    head: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Head)


def uri_key(uri: str) -> bytes:
    """The beginning that the keys of all variants of one URI have in common."""
    return hashlib.blake2b(_bytes(uri), digest_size=URI_KEY_BYTES).digest()


def object_key(uri: str, variant: str) -> bytes:
    """KEY_BYTES bytes."""
    return uri_key(uri) + hashlib.blake2b(_bytes(variant), digest_size=KEY_BYTES - URI_KEY_BYTES).digest()


def encode(entry: Entry, place: Place, serial: int) -> bytes:
    """The row of `entry`, whose body lies at `place`. Raises Unstorable."""
    response = entry.timed.response
    texts = (entry.uri, entry.variant, entry.site, str(len(entry.vary)), *entry.vary, *sorted(entry.tags))
    pairs = response.headers.items()
    label, fields = "\0".join(texts), "\0".join(chain.from_iterable(pairs))
    if label.count("\0") != len(texts) - 1 or fields.count("\0") != max(0, 2 * len(pairs) - 1):
        raise Unstorable("a NUL in a name or a field")
    head = _Head(
        status=response.status,
        reason=_bytes(response.reason),
        fields=_bytes(fields),
        request_time=entry.timed.request_time,
        lifetime=entry.terms.lifetime.seconds,
        lifetime_source=entry.terms.lifetime.source,
        born=entry.terms.born,
        head=entry.head,
    )
    numbers = Fixed(place, serial, entry.marked_stale, entry.renewing, entry.timed.response_time)
    return _sealed(numbers, _bytes(label), _encoder.encode(head))


def fixed(row: bytes) -> Fixed:
    """Raises CorruptRow if `row` is too short to be one; its digest is not looked at."""
    if len(row) < _LABEL_AT:
        raise CorruptRow("short")
    segment, offset, length, checksum, serial, flags, time, _ = _FIXED.unpack_from(row, _DIGEST_BYTES)
    return Fixed(Place(segment, offset, length, checksum), serial, bool(flags & _STALE), bool(flags & _RENEWING), time)


def label(row: bytes) -> Label:
    """Raises CorruptRow; the digest is not looked at."""
    if len(row) < _LABEL_AT:
        raise CorruptRow("short")
    size = _FIXED.unpack_from(row, _DIGEST_BYTES)[-1]
    try:
        uri, variant, site, count, *names = _text(row[_LABEL_AT : _LABEL_AT + size]).split("\0")
        vary = int(count)
    except ValueError as error:
        raise CorruptRow("label") from error
    return Label(uri, variant, site, tuple(names[:vary]), frozenset(names[vary:]))


def changed(row: bytes, *, place: Place | None = None, serial: int, stale: bool, renewing: bool) -> bytes:
    """The same response, moved, marked or held against later purges. Raises CorruptRow: what is damaged is not made good."""
    if not proven(row):
        raise CorruptRow("digest")
    have = fixed(row)
    size = _FIXED.unpack_from(row, _DIGEST_BYTES)[-1]
    numbers = Fixed(place or have.place, serial, stale, renewing, have.time)
    return _sealed(numbers, row[_LABEL_AT : _LABEL_AT + size], row[_LABEL_AT + size :])


def proven(row: bytes) -> bool:
    """Whether the bytes are a row as it was written."""
    return (
        len(row) >= _LABEL_AT and hashlib.blake2b(row[_DIGEST_BYTES:], digest_size=_DIGEST_BYTES).digest() == row[:_DIGEST_BYTES]
    )


def entry_of(row: bytes, body: bytes | StoredBody, *, stale: bool, renewing: bool) -> Entry:
    """The stored response. Raises CorruptRow."""
    if not proven(row):
        raise CorruptRow("digest")
    named = label(row)
    size, time = _FIXED.unpack_from(row, _DIGEST_BYTES)[-1], fixed(row).time
    try:
        head = _decoder.decode(row[_LABEL_AT + size :])
        texts = _text(head.fields).split("\0") if head.fields else []
        headers = freeze(zip(texts[::2], texts[1::2], strict=True))
        source = LifetimeSource(head.lifetime_source)
        reason = _text(head.reason)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptRow("head") from error
    return Entry(
        uri=named.uri,
        variant=named.variant,
        vary=named.vary,
        site=named.site,
        timed=Timed(Response(head.status, reason, headers), head.request_time, time),
        body=body,
        terms=Terms(Lifetime(head.lifetime, source), head.born, parse_response(headers)),
        tags=named.tags,
        marked_stale=stale,
        renewing=renewing,
        head=head.head,
    )


def _sealed(have: Fixed, label_bytes: bytes, head: bytes) -> bytes:
    place, flags = have.place, _STALE * have.stale | _RENEWING * have.renewing
    numbers = (place.segment, place.offset, place.length, place.checksum, have.serial, flags, have.time, len(label_bytes))
    content = b"".join((_FIXED.pack(*numbers), label_bytes, head))
    return _digest(content) + content


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _bytes(text: str) -> bytes:
    # Fields that were no UTF-8 are held with lone surrogates.
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
