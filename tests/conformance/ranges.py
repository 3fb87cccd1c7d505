"""An origin of one file that serves the ranges it is asked for, of the version that it has then; rows of who is asked for what.

Played over real sockets; the clock is the edge's only fake.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from email.utils import formatdate

from aiohttp import web

from edgecache.policy.rule import CacheRule
from tests.conformance.scenario import f
from tests.integration.proxy_support import edge_for, origin_of

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
FRESH = "Cache-Control: max-age=60"
STRONG = f'{FRESH} | ETag: "1"'
FORWARD = CacheRule(forward_ranges=True)
DATED = f"{FRESH} | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"


@dataclass(frozen=True)
class Version:
    """What the origin has."""

    fields: str = STRONG
    content: bytes = LETTERS
    status: int | None = None
    """Answers so, whatever is asked."""
    ranges: bool = True
    """False: it ignores Range."""
    compares: bool = True
    """False: it ignores If-Range."""
    refuses: bool = False
    """Answers 416 to every Range."""
    claims: str = ""
    """A Content-Range that it sends instead of the right one."""


@dataclass(frozen=True)
class Ask:
    """One request and its answer. `origin`: the Range that the origin was sent; `-` if none was, None if it was not asked."""

    range: str = ""
    status: int = 206
    body: bytes | None = None
    origin: str | None = None
    has: str = ""
    sends: str = ""
    lacks: str = ""
    """A field that the answer does not have."""
    method: str = "GET"
    after: float = 0.0
    version: Version | None = None
    """The origin changes to this one first."""
    times: int = 1
    """How often the origin was asked, where it was."""


@dataclass(frozen=True)
class Row:
    name: str
    asks: tuple[Ask, ...]
    version: Version = field(default_factory=Version)
    rule: CacheRule = FORWARD


def span(text: str, length: int) -> tuple[int, int] | None:
    """First and last byte that a Range asks for, of so many; None where there are none."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, length - int(last)), length - 1
    if int(first) >= length:
        return None
    return int(first), min(int(last or length), length - 1)


def respond(request: web.BaseRequest, version: Version) -> web.Response:
    """A server of one file, as RFC 9110 has it: If-Range, If-None-Match, one range."""
    pairs = f(version.fields)
    fields = {name.lower(): value for name, value in pairs}
    wanted = request.headers.get("Range")
    condition = request.headers.get("If-Range")
    if version.compares and condition is not None and condition not in (fields.get("etag"), fields.get("last-modified")):
        wanted = None
    tags = request.headers.get("If-None-Match", "")
    if version.status is not None:
        response = web.Response(status=version.status, body=b"no")
    elif tags and fields.get("etag") == tags:
        response = web.Response(status=304)
    elif not version.ranges or wanted is None or "," in wanted:
        response = web.Response(body=version.content)
    elif version.refuses or (asked := span(wanted, len(version.content))) is None:
        response = web.Response(status=416, headers={"Content-Range": f"bytes */{len(version.content)}"})
    else:
        response = web.Response(status=206, body=version.content[asked[0] : asked[1] + 1])
        claims = version.claims or f"bytes {asked[0]}-{asked[1]}/{len(version.content)}"
        response.headers["Content-Range"] = claims
    for name, value in pairs:
        response.headers.add(name, value)
    return response


async def play(row: Row) -> None:
    """Ask as the row says. Raises AssertionError."""
    version = row.version

    async def answer(request: web.BaseRequest) -> web.Response:
        fields = version.fields.replace("{now}", formatdate(usegmt=True))
        response = respond(request, replace(version, fields=fields))
        response.headers["Date"] = formatdate(edge.clock.now, usegmt=True)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=row.rule) as edge:
        for number, ask in enumerate(row.asks, 1):
            version = ask.version or version
            edge.clock.advance(ask.after)
            before = origin.count
            sent = (*f(ask.sends), *((("Range", ask.range),) if ask.range else ()))
            got = await edge.fetch("/", ask.method, headers=sent, skip_auto_headers=("Accept-Encoding", "Accept"))
            where = f"request {number}: {got.status} {dict(got.headers)} {got.body!r}"
            assert got.status == ask.status, where
            if ask.body is not None:
                assert got.body == ask.body, where
            for name, value in f(ask.has):
                assert got.headers.get(name) == value, f"{where}: {name}"
            assert not ask.lacks or ask.lacks not in got.headers, where
            if ask.origin is None:
                assert origin.count == before, where
            else:
                assert origin.count - before >= ask.times, where
                assert origin.seen[-1].headers.get("Range", "-") == ask.origin, where
