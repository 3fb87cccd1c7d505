"""RFC 9111 section 3.4, RFC 9110 section 15.3.7.3: which parts are joined, and which must not be."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest
from aiohttp import web

from tests.conformance.ranges import DATED, FORWARD, FRESH, LETTERS, STRONG, Ask, Row, Version, play, respond, span
from tests.integration.proxy_support import edge_for, origin_of

ROWS = [
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
        "RFC9111-3.4 the newer part's fields replace those of the older",
        (
            Ask("bytes=0-1", origin="bytes=0-1"),
            Ask("bytes=2-3", origin="bytes=2-3", version=Version(f"{STRONG} | X-A: 2 | Content-Type: text/x")),
            Ask("bytes=0-3", body=b"abcd", has="X-A: 2 | Content-Type: text/x | X-B: 1"),
        ),
        Version(f"{STRONG} | X-A: 1 | X-B: 1"),
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
            ("another tag", Version(), Version(f'{FRESH} | ETag: "2"', LETTERS.upper())),
            ("weak tags", Version(f'{FRESH} | ETag: W/"1"'), Version(f'{FRESH} | ETag: W/"1"', LETTERS.upper())),
            ("no validator", Version(FRESH), Version(FRESH, LETTERS.upper())),
            ("another length", Version(), Version(content=LETTERS + b"!")),
            ("other codings", Version(f"{STRONG} | Content-Encoding: x"), Version(f"{STRONG} | Content-Encoding: y")),
            (
                "a date of this very second",
                Version(f"{FRESH} | Last-Modified: {{now}}"),
                Version(f"{FRESH} | Last-Modified: {{now}}"),
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
        Version(DATED),
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
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_parts(row: Row) -> None:
    await play(row)


async def test_no_answer_mixes_two_versions() -> None:
    """RFC 9110 section 15.3.7.3. Whatever is asked while the origin changes, each answer is of the version that its tag names."""
    rng = random.Random(9110)
    versions = {f'"{at}"': bytes([65 + at]) * 40 for at in range(6)}
    current = '"0"'

    async def answer(request: web.BaseRequest) -> web.Response:
        response = respond(request, Version(f"Cache-Control: max-age=5 | ETag: {current}", versions[current]))
        response.headers["Date"] = formatdate(edge.clock.now, usegmt=True)
        return response

    async with origin_of(answer) as origin, edge_for(origin.url, rule=FORWARD) as edge:
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
            within = span(wanted, 40) if wanted else (0, 39)
            assert within is not None
            assert len(got.body) == within[1] - within[0] + 1
            hits += "hit" in got.cache
        assert hits > 50
