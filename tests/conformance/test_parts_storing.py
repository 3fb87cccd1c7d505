"""RFC 9111 section 3, RFC 9110 section 15.3.7: which parts are stored, how much of them, and what ends them."""

from __future__ import annotations

import pytest

from edgecache.policy.rule import CacheRule
from tests.conformance.ranges import LETTERS, STRONG, Ask, Row, Version, play

ROWS = [
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
        "RFC9111-4.4 an unsafe request ends parts",
        (
            Ask("bytes=0-4", origin="bytes=0-4"),
            Ask(status=200, method="POST", origin="-"),
            Ask("bytes=0-4", origin="bytes=0-4"),
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
        Version(f"{STRONG} | Content-Type: multipart/byteranges; boundary=b", status=206),
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
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_parts(row: Row) -> None:
    await play(row)
