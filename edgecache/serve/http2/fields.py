"""From HTTP/2's field lists to requests, and from responses to field lists (RFC 9113 section 8). Values in, values out; no I/O.

`connection` and `writer` call it. What holds for requests of every protocol is `guard`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from lru import LRU
from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.policy.authority import authority_of
from edgecache.policy.connection import HOP_BY_HOP
from edgecache.policy.message import Response
from edgecache.policy.upgrading import from_extended_connect
from edgecache.serve.guard import STATUS, Head, RequestFault, Violation, assemble
from edgecache.serve.http2.hpack import CONTENT_LENGTH, PREPARED, Fields, encode
from edgecache.serve.settings import ServeSettings

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
"""RFC 9113 section 8.2.1: a token without capitals."""
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
"""No control characters, and no white space around it."""
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e]+")
_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
_CONNECTION_SPECIFIC: Final = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_ENTRY_OVERHEAD: Final = 32
"""RFC 9113 section 6.5.2: what each field counts besides its bytes."""
_DROPPED: Final = HOP_BY_HOP | {"content-length"}
_MAX_KNOWN_BYTES: Final = 2 << 10
_UNSAFE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Malformed(Exception):
    """Not a request at all: its stream is reset with PROTOCOL_ERROR (RFC 9113 section 8.1.1)."""


class FieldReader:
    """Reads the field lists of one scheme's requests, and remembers short ones, as `guard.HeadReader` does heads."""

    def __init__(self, settings: ServeSettings, scheme: str, capacity: int = 4096) -> None:
        self._settings = settings
        self.scheme = scheme
        self._known: LRU[tuple[tuple[bytes, bytes], ...], Head] = LRU(capacity)

    def read(self, fields: Fields, *, ended: bool) -> Head:
        """As `request_head`."""
        if not ended:
            return request_head(fields, self._settings, self.scheme, ended=False)
        key = tuple(fields)
        known = self._known.get(key)
        if known is not None:
            return known
        head = request_head(fields, self._settings, self.scheme, ended=True)
        if list_bytes(fields) <= _MAX_KNOWN_BYTES:
            self._known[key] = head
        return head


def list_bytes(fields: Fields) -> int:
    """The size of a field list (RFC 9113 section 6.5.2)."""
    return sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in fields)


def request_head(fields: Fields, settings: ServeSettings, scheme: str, *, ended: bool) -> Head:
    """The request that a field list states; `ended`: no body follows. Raises Malformed, or Violation where an answer says why."""
    pseudo, regular = _split(fields)
    own: tuple[tuple[str, str], ...] = ()
    if b":protocol" in pseudo:
        own = _extended(pseudo, ended=ended)
        regular = [field for field in regular if field[0] != b"sec-websocket-key"]
    method, target, authority = _addressed(pseudo)
    if len(target) > settings.max_target_bytes:
        raise Violation(RequestFault.TARGET_TOO_LONG, f"the request target may have {settings.max_target_bytes} bytes")
    if list_bytes(fields) > settings.max_head_bytes:
        raise Violation(RequestFault.HEAD_TOO_LARGE, f"the request head may have {settings.max_head_bytes} bytes")
    if len(regular) > settings.max_fields:
        raise Violation(RequestFault.HEAD_TOO_LARGE, f"a request may have {settings.max_fields} fields")
    headers: CIMultiDict[str] = CIMultiDict()
    host = _agreed(authority, regular, scheme)
    headers.add("Host", host)
    cookies: list[str] = []
    for name, value in regular:
        text = value.decode("utf-8", "surrogateescape")
        if name == b"cookie":
            cookies.append(text)
        elif name == CONTENT_LENGTH:
            headers.add("Content-Length", text)
        elif name != b"host":
            headers.add(name.decode("ascii"), text)
    if cookies:
        # RFC 9113 section 8.2.3.
        headers.add("Cookie", "; ".join(cookies))
    headers.extend(own)
    try:
        head = assemble(method, target, False, CIMultiDictProxy(headers), settings, scheme=scheme, version="2.0")
    except Violation as violation:
        if STATUS[violation.fault] == 400:
            raise Malformed(str(violation)) from violation
        raise
    if ended and head.content_length:
        raise Malformed("Content-Length promises a body, and none follows")
    unsized = not ended and "Content-Length" not in headers
    return replace(head, request=replace(head.request, unsized=True)) if unsized else head


def trailer_fields(fields: Fields) -> list[tuple[str, str]]:
    """A trailer section. Raises Malformed."""
    pseudo, regular = _split(fields)
    if pseudo:
        raise Malformed("a pseudo-header field in trailers")
    return [(name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in regular if name != CONTENT_LENGTH]


def _split(fields: Fields) -> tuple[dict[bytes, bytes], Fields]:
    """Pseudo-header fields and the others, each of valid syntax (RFC 9113 sections 8.2 and 8.3)."""
    pseudo: dict[bytes, bytes] = {}
    regular: Fields = []
    for name, value in fields:
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise Malformed("a pseudo-header field that is unknown, repeated, or after the others")
            pseudo[name] = value
            continue
        if name != CONTENT_LENGTH and _NAME.fullmatch(name) is None:
            raise Malformed("a field name is not a token in lower case")
        if _VALUE.fullmatch(value) is None:
            raise Malformed("a field value holds a control character, or white space around it")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed("a field of HTTP/1.1 connections")
        regular.append((name, value))
    return pseudo, regular


def _extended(pseudo: dict[bytes, bytes], *, ended: bool) -> tuple[tuple[str, str], ...]:
    """An extended CONNECT (RFC 8441 section 4) becomes in `pseudo` the request that says the same in HTTP/1.1, by these fields.

    One for a protocol that is not known stays a CONNECT, which nobody answers with 2xx.
    """
    if pseudo.get(b":method") != b"CONNECT":
        raise Malformed(":protocol is for CONNECT")
    if ended or not pseudo.get(b":authority"):
        raise Malformed("an extended CONNECT has :authority, and goes on")
    if pseudo.pop(b":protocol").lower() != b"websocket":
        pseudo.pop(b":scheme", None)
        pseudo.pop(b":path", None)
        return ()
    pseudo[b":method"] = b"GET"
    return from_extended_connect(os.urandom(16))


def _addressed(pseudo: dict[bytes, bytes]) -> tuple[str, str, bytes | None]:
    """Method, target and :authority (RFC 9113 sections 8.3.1 and 8.5)."""
    method, path, authority = pseudo.get(b":method", b""), pseudo.get(b":path", b""), pseudo.get(b":authority")
    if _METHOD.fullmatch(method) is None:
        raise Malformed(":method is not a token")
    if method == b"CONNECT":
        if b":path" in pseudo or b":scheme" in pseudo or not authority:
            raise Malformed("CONNECT has :authority alone")
        path = authority
    elif pseudo.get(b":scheme", b"").lower() not in (b"http", b"https"):
        raise Malformed(":scheme is neither http nor https")
    elif path[:1] != b"/" and (path != b"*" or method != b"OPTIONS"):
        raise Malformed(":path is not an absolute path")
    if _TARGET.fullmatch(path) is None:
        raise Malformed(":path is not visible ASCII without a fragment")
    return method.decode("ascii"), path.decode("ascii"), authority


def _agreed(authority: bytes | None, regular: Fields, scheme: str) -> str:
    """The one authority of a request: :authority and Host may both be there, and must then say the same."""
    hosts = [value for name, value in regular if name == b"host"]
    named = [authority] if authority is not None else []
    if not named and not hosts:
        raise Malformed("a request has :authority or Host")
    said = [value.decode("latin-1") for value in (*named, *hosts)]
    if len(hosts) > 1 or len({authority_of(text, scheme) for text in said}) > 1:
        raise Malformed(":authority and Host differ")
    return said[0]


def response_fields(response: Response, *, length: int | None, extra: Iterable[tuple[str, str]] = ()) -> Fields:
    """A response's field list; `length` becomes Content-Length. Raises ValueError where a value is not fit to be sent."""
    fields = [_status(response.status)]
    fields += _encoded((name, value) for name, value in response.headers.items() if name.lower() not in _DROPPED)
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    fields += _encoded(extra)
    return fields


def stored_fields(status: int, head: bytes, extra: bytes) -> Fields:
    """As `response_fields`, of a stored response's prepared HTTP/1.1 head, which has its Content-Length; `extra` is encoded."""
    block = _known_block(head) if len(head) <= _MAX_KNOWN_BYTES else _block(head)
    return [_status(status), (PREPARED, block + extra)]


def encoded(fields: Iterable[tuple[str, str]]) -> Fields:
    """Fields as they are sent. Raises ValueError where a value is not fit to be sent."""
    return _encoded(fields)


@lru_cache(1024)
def _status(status: int) -> tuple[bytes, bytes]:
    return (b":status", b"%d" % status)


def _block(head: bytes) -> bytes:
    lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:] if line)
    return encode([(name.lower(), value.strip(b" \t")) for name, _, value in lines])


_known_block = lru_cache(4096)(_block)


def _encoded(fields: Iterable[tuple[str, str]]) -> Fields:
    found: Fields = []
    for name, text in fields:
        value = text.strip(" \t").encode("utf-8", "surrogateescape")
        if _UNSAFE.search(value):
            raise ValueError("a control character in a response head")
        found.append((name.lower().encode("ascii"), value))
    return found
