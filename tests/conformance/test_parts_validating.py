"""RFC 9111 section 4.3: parts that are stale, and what becomes of them."""

from __future__ import annotations

import pytest

from tests.conformance.ranges import FRESH, LETTERS, STRONG, Ask, Row, Version, play

ROWS = [
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
                version=Version(f'{FRESH} | ETag: "2"', LETTERS.upper()),
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
                version=Version(f'{FRESH} | ETag: "2"', LETTERS.upper()),
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
        Version(FRESH),
    ),
    *(
        Row(
            f"RFC5861-4 a stale part where the origin answers 503: {directive}",
            (
                Ask("bytes=0-9", origin="bytes=0-9"),
                Ask("bytes=0-4", status=status, origin="bytes=0-4", after=61, version=Version(STRONG, status=503)),
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
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_parts(row: Row) -> None:
    await play(row)
