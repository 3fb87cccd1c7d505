"""RFC 9110 sections 14 and 15.3.7, RFC 9111 sections 3.3 and 3.4: ranges, stored parts, and joining them.

The origin serves the ranges it is asked for, of whatever version it has at that moment, over real sockets.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from email.utils import formatdate

import aiohttp
import pytest
from aiohttp import web

from edgecache.policy.rule import CacheRule
from tests.conformance.scenario import f
from tests.integration.proxy_support import edge_for, origin_of

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_FRESH = "Cache-Control: max-age=60"
_STRONG = f'{_FRESH} | ETag: "1"'
_FORWARD = CacheRule(forward_ranges=True)
_DATES = f"{_FRESH} | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"


@dataclass(frozen=True)
class Version:
    """What the origin has."""

    fields: str = _STRONG
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
    rule: CacheRule = _FORWARD


def _span(text: str, length: int) -> tuple[int, int] | None:
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
    elif version.refuses or (span := _span(wanted, len(version.content))) is None:
        response = web.Response(status=416, headers={"Content-Range": f"bytes */{len(version.content)}"})
    else:
        response = web.Response(status=206, body=version.content[span[0] : span[1] + 1])
        claims = version.claims or f"bytes {span[0]}-{span[1]}/{len(version.content)}"
        response.headers["Content-Range"] = claims
    for name, value in pairs:
        response.headers.add(name, value)
    return response


ROWS = [
    Row(
        "RFC9111-3.3 a part answers the same range",
        (
            Ask("bytes=4-8", body=b"efghi", origin="bytes=4-8"),
            Ask("bytes=4-8", body=b"efghi", has="Content-Range: bytes 4-8/26 | Content-Length: 5", after=7),
        ),
    ),
    Row(
        "RFC9111-3.3 and ranges inside it",
        (
            Ask("bytes=-6", body=b"uvwxyz", origin="bytes=-6"),
            Ask("bytes=22-24", body=b"wxy", has="Content-Range: bytes 22-24/26"),
            Ask("bytes=22-", body=b"wxyz"),
            Ask("bytes=22-99", body=b"wxyz"),
            Ask("bytes=-1", body=b"z", has="Content-Range: bytes 25-25/26"),
        ),
    ),
    Row(
        "RFC9111-5.1 with an Age",
        (Ask("bytes=0-1", origin="bytes=0-1"), Ask("bytes=0-0", body=b"a", has="Age: 9", after=9)),
    ),
    Row(
        "RFC9111-3.3 ranges beyond it go to the origin",
        (
            Ask("bytes=4-8", body=b"efghi", origin="bytes=4-8"),
            Ask("bytes=3-8", body=b"defghi", origin="bytes=3-8"),
            Ask("bytes=-1", body=b"z", origin="bytes=-1"),
        ),
    ),
    Row(
        "RFC9111-3.4 parts of one strong tag are joined",
        (
            Ask("bytes=4-8", origin="bytes=4-8"),
            Ask("bytes=9-12", origin="bytes=9-12"),
            Ask("bytes=7-10", body=b"hijk"),
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=0-12", body=LETTERS[:13]),
        ),
    ),
    Row(
        "RFC9111-3.4 parts that lie apart are kept apart",
        (
            Ask("bytes=0-1", origin="bytes=0-1"),
            Ask("bytes=10-11", origin="bytes=10-11"),
            Ask("bytes=0-1", body=b"ab"),
            Ask("bytes=10-11", body=b"kl"),
            Ask("bytes=1-10", origin="bytes=1-10"),
            Ask("bytes=0-11", body=LETTERS[:12]),
        ),
    ),
    Row(
        "RFC9110-15.3.7.2 several ranges from parts",
        (
            Ask("bytes=0-1", origin="bytes=0-1"),
            Ask("bytes=10-11", origin="bytes=10-11"),
            Ask("bytes=0-0,10-10", status=206),
        ),
    ),
    Row(
        "RFC9111-3.4 the newer part's fields replace those of the older",
        (
            Ask("bytes=0-1", origin="bytes=0-1"),
            Ask("bytes=2-3", origin="bytes=2-3", version=Version(f"{_STRONG} | X-A: 2 | Content-Type: text/x")),
            Ask("bytes=0-3", body=b"abcd", has="X-A: 2 | Content-Type: text/x | X-B: 1"),
        ),
        Version(f"{_STRONG} | X-A: 1 | X-B: 1"),
    ),
    *(
        Row(
            f"RFC9110-15.3.7.3 parts are not joined: {why}",
            (
                Ask("bytes=0-4", origin="bytes=0-4"),
                Ask("bytes=5-9", body=changed.content[5:10], origin="bytes=5-9", version=changed),
                Ask("bytes=5-9", body=changed.content[5:10]),
                Ask("bytes=0-4", body=changed.content[:5], origin="bytes=0-4"),
            ),
            first,
        )
        for why, first, changed in (
            ("another tag", Version(), Version(f'{_FRESH} | ETag: "2"', LETTERS.upper())),
            ("weak tags", Version(f'{_FRESH} | ETag: W/"1"'), Version(f'{_FRESH} | ETag: W/"1"', LETTERS.upper())),
            ("no validator", Version(_FRESH), Version(_FRESH, LETTERS.upper())),
            ("another length", Version(), Version(content=LETTERS + b"!")),
            ("other codings", Version(f"{_STRONG} | Content-Encoding: x"), Version(f"{_STRONG} | Content-Encoding: y")),
            (
                "a date of this very second",
                Version(f"{_FRESH} | Last-Modified: {{now}}"),
                Version(f"{_FRESH} | Last-Modified: {{now}}"),
            ),
        )
    ),
    Row(
        "RFC9110-8.8.2.2 an old date is strong: parts are joined",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=5-9", origin="bytes=5-9"),
            Ask("bytes=3-6", body=b"defg"),
        ),
        Version(_DATES),
    ),
    Row(
        "RFC9111-3.4 overlapping bytes that differ: the tag lied, the newer counts",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=4-9", body=b"EFGHIJ", origin="bytes=4-9", version=Version(content=LETTERS.upper())),
            Ask("bytes=4-5", body=b"EF"),
            Ask("bytes=0-4", body=b"ABCDE", origin="bytes=0-4"),
        ),
    ),
    Row(
        "RFC9111-3.3 a part answers no request without Range; the rest is asked for with If-Range",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(status=200, body=LETTERS, origin="bytes=10-", has="Content-Length: 26"),
            Ask(status=200, body=LETTERS),
            Ask("bytes=3-4", body=b"de"),
        ),
    ),
    *(
        Row(
            f"RFC9110-15.3.7.3 what is missing is asked for: {asks}",
            (
                *(Ask(part, origin=part) for part in parts),
                Ask(status=200, body=LETTERS, origin=asks),
                Ask(status=200, body=LETTERS),
            ),
        )
        for parts, asks in (
            (("bytes=20-25",), "bytes=0-19"),
            (("bytes=-1", "bytes=0-0"), "bytes=1-24"),
            (("bytes=0-1", "bytes=5-6"), "-"),
            (("bytes=5-6",), "-"),
        )
    ),
    Row(
        "RFC9110-15.3.7.3 parts without a strong validator are not completed",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(status=200, body=LETTERS, origin="-"),
            Ask(status=200, body=LETTERS),
        ),
        Version(_FRESH),
    ),
    Row(
        "RFC9110-13.1.5 If-Range: the origin has another representation",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(status=200, body=LETTERS.upper(), origin="bytes=10-", version=Version(f'{_FRESH} | ETag: "2"', LETTERS.upper())),
            Ask(status=200, body=LETTERS.upper()),
        ),
    ),
    Row(
        "RFC9110-13.1.5 an origin that sends a part of another representation all the same",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(
                status=200,
                body=LETTERS.upper(),
                origin="-",
                version=Version(f'{_FRESH} | ETag: "2"', LETTERS.upper(), compares=False),
                times=2,
            ),
            Ask(status=200, body=LETTERS.upper()),
        ),
    ),
    Row(
        "RFC9110-14.4 an origin that sends other bytes than those asked for",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(status=200, body=LETTERS, origin="-", version=Version(claims="bytes 9-24/26"), times=2),
            Ask(status=200, body=LETTERS),
        ),
    ),
    Row(
        "RFC9110-15.5.17 an origin that says 416 to the rest is asked for the whole",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(status=200, body=LETTERS, origin="-", version=Version(refuses=True), times=2),
            Ask(status=200, body=LETTERS),
        ),
    ),
    Row(
        "RFC9111-3.4 one range of all bytes is the representation",
        (Ask("bytes=0-", origin="bytes=0-"), Ask(status=200, body=LETTERS)),
    ),
    Row(
        "RFC9111-3.4 all bytes of a representation are the representation",
        (
            Ask("bytes=0-12", origin="bytes=0-12"),
            Ask("bytes=13-25", origin="bytes=13-25"),
            Ask(status=200, body=LETTERS, has="Content-Length: 26"),
            Ask("bytes=12-13", body=b"mn"),
        ),
    ),
    Row(
        "RFC9110-14.2 HEAD knows no ranges, and parts do not answer it",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=0-4", status=206, method="HEAD", origin="bytes=0-4"),
            Ask(status=200, method="HEAD", origin="-"),
        ),
    ),
    Row(
        "RFC9111-4.3.4 a part that is stale is validated, and 304 makes it fresh",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(
                "bytes=0-4",
                body=b"abcde",
                origin="bytes=0-4",
                after=61,
                has="Cache-Status: edgecache; fwd=stale; fwd-status=304; ttl=60; stored",
            ),
            Ask("bytes=0-9", body=LETTERS[:10], after=59),
            Ask("bytes=0-9", body=LETTERS[:10], origin="bytes=0-9", after=2, has="Content-Range: bytes 0-9/26"),
        ),
    ),
    Row(
        "RFC9111-4.3.3 a part that is not current any more is replaced by the range asked for",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(
                "bytes=0-4",
                body=b"ABCDE",
                origin="bytes=0-4",
                after=61,
                version=Version(f'{_FRESH} | ETag: "2"', LETTERS.upper()),
            ),
            Ask("bytes=0-4", body=b"ABCDE"),
            Ask("bytes=0-9", body=LETTERS[:10].upper(), origin="bytes=0-9"),
        ),
    ),
    Row(
        "RFC9110-13.1.5 validating a part for a client with If-Range",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(
                "bytes=0-4",
                status=200,
                body=LETTERS.upper(),
                origin="bytes=0-4",
                sends='If-Range: "1"',
                after=61,
                version=Version(f'{_FRESH} | ETag: "2"', LETTERS.upper()),
            ),
            Ask(status=200, body=LETTERS.upper()),
        ),
    ),
    Row(
        "RFC9111-4.2 a stale part without validator goes to the origin, and what comes back replaces it",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask("bytes=0-4", body=b"abcde", origin="bytes=0-4", after=61),
            Ask("bytes=0-4", body=b"abcde", after=59),
            Ask("bytes=0-9", body=LETTERS[:10], origin="bytes=0-9"),
        ),
        Version(_FRESH),
    ),
    *(
        Row(
            f"RFC5861-4 a stale part where the origin answers 503: {directive}",
            (
                Ask("bytes=0-9", origin="bytes=0-9"),
                Ask("bytes=0-4", status=status, origin="bytes=0-4", after=61, version=Version(_STRONG, status=503)),
            ),
            Version(f'Cache-Control: max-age=60, {directive} | ETag: "1"'),
        )
        for directive, status in (("stale-if-error=60", 206), ("public", 503), ("stale-if-error=60, must-revalidate", 503))
    ),
    Row(
        "RFC9111-5.2.2.5 a 304 with no-store ends a part",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask("bytes=0-4", body=b"abcde", origin="bytes=0-4", after=61, version=Version('Cache-Control: no-store | ETag: "1"')),
            Ask("bytes=0-4", body=b"abcde", origin="bytes=0-4"),
        ),
    ),
    Row(
        "RFC9111-5.2.1.4 no-cache of a client goes to the origin",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask("bytes=0-4", body=b"abcde", origin="bytes=0-4", sends="Cache-Control: no-cache"),
        ),
    ),
    Row(
        "RFC9111-5.2.1.7 only-if-cached",
        (
            Ask("bytes=0-4", status=504, sends="Cache-Control: only-if-cached"),
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=0-4", body=b"abcde", sends="Cache-Control: only-if-cached"),
            Ask("bytes=0-5", status=504, sends="Cache-Control: only-if-cached"),
            Ask(status=504, sends="Cache-Control: only-if-cached"),
        ),
    ),
    Row(
        "RFC9111-5.2.2.5 a part with no-store is not stored",
        (Ask("bytes=0-4", origin="bytes=0-4"), Ask("bytes=0-4", origin="bytes=0-4")),
        Version('Cache-Control: no-store | ETag: "1"'),
    ),
    Row(
        "RFC9111-3.4 a part of another representation that is not stored ends what is",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=5-9", origin="bytes=5-9", version=Version('Cache-Control: no-store | ETag: "2"')),
            Ask("bytes=0-4", origin="bytes=0-4"),
        ),
    ),
    Row(
        "RFC9111-5.2.2.7 a part with private is not stored",
        (Ask("bytes=0-4", origin="bytes=0-4"), Ask("bytes=0-4", origin="bytes=0-4")),
        Version('Cache-Control: private, max-age=60 | ETag: "1"'),
    ),
    Row(
        "RFC9111-5.2.2.3 must-understand: 206 is understood",
        (Ask("bytes=0-4", origin="bytes=0-4"), Ask("bytes=0-4")),
        Version('Cache-Control: must-understand, no-store, max-age=60 | ETag: "1"'),
    ),
    Row(
        "RFC9110-15.1 206 is heuristically cacheable",
        (Ask("bytes=0-4", origin="bytes=0-4"), Ask("bytes=0-4", after=60)),
        Version("Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"),
    ),
    Row(
        "RFC9111-4.1 parts are kept by what Vary names",
        (
            Ask("bytes=0-4", origin="bytes=0-4", sends="X-A: 1"),
            Ask("bytes=0-4", origin="bytes=0-4", sends="X-A: 2"),
            Ask("bytes=0-4", sends="X-A: 1"),
            Ask("bytes=0-4", sends="X-A: 2"),
            Ask("bytes=0-4", origin="bytes=0-4"),
        ),
        Version(f"{_STRONG} | Vary: X-A"),
    ),
    Row(
        "RFC9111-4.4 an unsafe request ends parts",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask(status=200, method="POST", origin="-"),
            Ask("bytes=0-4", origin="bytes=0-4"),
        ),
    ),
    Row(
        "RFC9110-13.2.2 preconditions go before ranges",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=0-4", status=304, sends='If-None-Match: "1"'),
            Ask("bytes=0-4", body=b"abcde", sends='If-None-Match: "2"'),
        ),
    ),
    Row(
        "RFC9110-13.1.5 If-Range against a stored part",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=0-4", body=b"abcde", sends='If-Range: "1"'),
            Ask("bytes=0-4", status=200, body=LETTERS, origin="bytes=0-4", sends='If-Range: "2"'),
        ),
    ),
    Row(
        "RFC9110-15.5.17 a range outside is known to be outside",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask("bytes=26-", status=416, has="Content-Range: bytes */26"),
        ),
    ),
    *(
        Row(
            f"RFC9110-15.3.7 not stored: {claims}",
            (Ask("bytes=0-4", origin="bytes=0-4"), Ask("bytes=0-4", origin="bytes=0-4")),
            Version(claims=claims),
        )
        for claims in (
            "bytes 0-4/*",
            "bytes 0-5/26",
            "bytes 0-3/26",
            "bytes 4-0/26",
            "bytes 0-4/4",
            "bytes 0-4",
            "0-4/26",
            "lines 0-4/26",
        )
    ),
    Row(
        "RFC9110-15.3.7.2 several ranges at once are not stored",
        (
            Ask("bytes=0-1,4-5", origin="bytes=0-1,4-5", status=206),
            Ask("bytes=0-1", origin="bytes=0-1"),
        ),
        Version(f"{_STRONG} | Content-Type: multipart/byteranges; boundary=b", status=206),
    ),
    Row(
        "RFC9110-14.2 an origin without ranges: the whole is stored, and answers with ranges",
        (
            Ask("bytes=0-4", origin="bytes=0-4", body=b"abcde"),
            Ask("bytes=2-3", body=b"cd"),
            Ask(status=200, body=LETTERS),
        ),
        Version(ranges=False),
    ),
    Row(
        "RFC9111-3 where ranges are not forwarded, the whole is asked for and stored",
        (
            Ask("bytes=4-8", body=b"efghi", origin="-"),
            Ask(status=200, body=LETTERS),
            Ask("bytes=0-1", body=b"ab"),
        ),
        rule=CacheRule(),
    ),
    Row(
        "RFC9111-3 what is too large to be stored whole is asked for in parts",
        (
            Ask("bytes=4-8", body=b"efghi", origin="bytes=4-8", times=2),
            Ask("bytes=5-6", body=b"fg"),
            Ask("bytes=9-12", body=b"jklm", origin="bytes=9-12"),
            Ask("bytes=4-12", body=LETTERS[4:13]),
        ),
        rule=CacheRule(max_object_bytes=20),
    ),
    Row(
        "RFC9111-3 parts that are too large together replace each other",
        (
            Ask("bytes=0-14", origin="bytes=0-14"),
            Ask("bytes=15-25", origin="bytes=15-25"),
            Ask("bytes=15-25"),
            Ask("bytes=0-14", origin="bytes=0-14"),
        ),
        rule=CacheRule(forward_ranges=True, max_object_bytes=20),
    ),
    Row(
        "RFC9111-3 a part that is too large is not stored",
        (Ask("bytes=0-24", origin="bytes=0-24"), Ask("bytes=0-24", origin="bytes=0-24")),
        rule=CacheRule(forward_ranges=True, max_object_bytes=20),
    ),
    Row(
        "RFC9211-2.2 partial: fwd says so",
        (
            Ask("bytes=0-4", origin="bytes=0-4", has="Cache-Status: edgecache; fwd=uri-miss; stored"),
            Ask("bytes=0-5", origin="bytes=0-5", has="Cache-Status: edgecache; fwd=partial; stored"),
            Ask("bytes=0-5", has="Cache-Status: edgecache; hit; ttl=60"),
            Ask(
                "bytes=0-5",
                origin="bytes=0-5",
                has="Cache-Status: edgecache; fwd=stale; fwd-status=304; ttl=60; stored",
                after=61,
            ),
        ),
    ),
    Row(
        "RFC9530-2 a digest of the part does not speak of other parts",
        (
            Ask("bytes=0-4", origin="bytes=0-4", has="Content-Digest: sha-256=:AA==:"),
            Ask("bytes=0-3", has="Repr-Digest: sha-256=:BB==:", sends="X-Lacks: Content-Digest"),
        ),
        Version(f"{_STRONG} | Content-Digest: sha-256=:AA==: | Repr-Digest: sha-256=:BB==:"),
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_parts(row: Row) -> None:
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
            for name, value in f(ask.sends):
                assert name != "X-Lacks" or value not in got.headers, where
            if ask.origin is None:
                assert origin.count == before, where
            else:
                assert origin.count - before >= ask.times, where
                assert origin.seen[-1].headers.get("Range", "-") == ask.origin, where


async def test_no_answer_mixes_two_versions() -> None:
    """RFC 9110 section 15.3.7.3. Whatever is asked while the origin changes, each answer is of the version that its tag names."""
    rng = random.Random(9110)
    versions = {f'"{at}"': bytes([65 + at]) * 40 for at in range(6)}
    current = '"0"'

    async def answer(request: web.BaseRequest) -> web.Response:
        response = respond(request, Version(f"Cache-Control: max-age=5 | ETag: {current}", versions[current]))
        response.headers["Date"] = formatdate(edge.clock.now, usegmt=True)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=_FORWARD) as edge:
        hits = 0
        for _ in range(400):
            if rng.random() < 0.05:
                current = rng.choice(list(versions))
            edge.clock.advance(rng.random())
            first = rng.randrange(40)
            last = rng.randrange(first, 40)
            wanted = rng.choice([f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last + 1}", ""])
            got = await edge.fetch("/", headers={"Range": wanted} if wanted else {})
            content = versions[got.headers["ETag"]]
            assert got.status == (206 if wanted else 200)
            assert set(got.body) == set(content[:1]), (wanted, got.headers, got.body)
            span = _span(wanted, 40) if wanted else (0, 39)
            assert span is not None
            assert len(got.body) == span[1] - span[0] + 1
            hits += "hit" in got.cache
        assert hits > 50


@pytest.mark.parametrize("sent", [b"klm", LETTERS[10:] + b"more"])
async def test_an_origin_that_sends_other_than_it_says_does_not_complete_anything(sent: bytes) -> None:
    """RFC 9112 section 8: what ends early is never taken for the whole."""
    short = False

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if not short:
            return respond(request, Version())
        response = web.StreamResponse(
            status=206, headers=dict(f('Content-Range: bytes 10-25/26 | ETag: "1" | Cache-Control: max-age=60'))
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(sent)
        await response.write_eof()
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=_FORWARD) as edge:
        assert (await edge.fetch("/", headers={"Range": "bytes=0-9"})).status == 206
        short = True
        with pytest.raises(aiohttp.ClientError):
            await edge.fetch("/")
        short = False
        assert (await edge.fetch("/")).body == LETTERS
