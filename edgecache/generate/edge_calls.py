"""What a guest may ask of the edge while it serves a request: sub-requests and its key-value store.

The monitor counts and limits the calls; here they are parsed, done, and answered in bytes. A refusal is an answer too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.policy.connection import hop_by_hop
from edgecache.policy.fields import OWS, without
from edgecache.policy.message import Headers, Request, Response
from edgecache.source import Culprit, SourceError

MAX_FETCH_BYTES: Final = 8 << 20
"""A sub-request's answer is held whole for the guest; a larger one is refused."""

_REQUEST_LINE: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) (/[\x21\x22\x24-\x7e]{0,8191})")
_FIELD: Final = re.compile("([!#$%&'*+\\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\U0010ffff]*)")
"""One way to match a line: a guest must not have the loop that serves everybody try many."""
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_MAX_FIELDS: Final = 64


class KeyValue(Protocol):
    """A generator's store: what outlives a request."""

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None: ...

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        """False when the generator's quota, or the disk, has no room for it."""


FetchThrough = Callable[[Request, bytes], Awaitable[tuple[Response, bytes]]]
"""Answers a request through the edge's cache from the site's own origins; raises SourceError."""


@dataclass(frozen=True, slots=True)
class SubRequests:
    """Sub-requests of a guest during one request, which go to its site's own `authority`."""

    scheme: str
    authority: str
    fetch_through: FetchThrough

    async def fetch(self, data: bytes) -> bytes:
        """`METHOD SP target`, fields, blank line, body; CGI-shaped answer: the origin's, or the edge's 4xx/5xx."""
        try:
            request, body = parse_fetch(data, self.scheme, self.authority)
            response, content = await self.fetch_through(request, body)
        except SourceError as error:
            return _answer(error.status, error.reason, CIMultiDictProxy(CIMultiDict()), b"")
        return _answer(response.status, response.reason, response.headers, content)


@dataclass(frozen=True, slots=True)
class GeneratorEdgeCalls(SubRequests):
    """All edge calls of one generator during one request. Implements `sandbox.EdgeCalls`."""

    site: str
    generator: str
    store: KeyValue

    async def kv_get(self, key: bytes) -> bytes | None:
        return await self.store.kv_get(self.site, self.generator, key)

    async def kv_put(self, key: bytes, value: bytes) -> bool:
        return await self.store.kv_put(self.site, self.generator, key, value)


def parse_fetch(data: bytes, scheme: str, authority: str) -> tuple[Request, bytes]:
    """The sub-request in `data`. Raises SourceError (culprit generator, 400) for anything malformed.

    The authority is the site's own, whatever the guest says: a guest reaches its origins and nothing else.
    """
    end = _HEAD_END.search(data)
    head, body = (data[: end.start()], data[end.end() :]) if end else (data.rstrip(b"\r\n"), b"")
    lines = head.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        raise SourceError(Culprit.GENERATOR, "bad-fetch", "the first line is not `METHOD /target`", status=400)
    if len(lines) > _MAX_FIELDS:
        raise SourceError(Culprit.GENERATOR, "bad-fetch", f"more than {_MAX_FIELDS} fields", status=400)
    headers: CIMultiDict[str] = CIMultiDict()
    for text in lines[1:]:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise SourceError(Culprit.GENERATOR, "bad-fetch", f"not a field line: {text[:60]!a}", status=400)
        if field[1].lower() not in {"host", "content-length", "transfer-encoding"}:
            headers.add(field[1], field[2].strip(OWS))
    if "Connection" in headers:
        # As in clients' requests: what the source does not get must not select what is stored (RFC 9110 section 7.6.1).
        given = CIMultiDictProxy(headers)
        headers = CIMultiDict(without(given, hop_by_hop(given)))
    headers.add("Host", authority)
    if body:
        headers.add("Content-Length", str(len(body)))
    return Request(line[1], scheme, authority, line[2], CIMultiDictProxy(headers)), body


def _answer(status: int, reason: str, headers: Headers, body: bytes) -> bytes:
    lines = [f"Status: {status} {reason}".rstrip()]
    lines += (f"{name}: {value}" for name, value in headers.items())
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body
