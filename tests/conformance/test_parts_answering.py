"""RFC 9111 section 3.3: which requests stored parts answer, and how."""

from __future__ import annotations

import pytest

from tests.conformance.ranges import LETTERS, STRONG, Ask, Row, Version, play

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
        "RFC9110-15.3.7.2 several ranges from parts",
        (
            Ask("bytes=0-1", origin="bytes=0-1"),
            Ask("bytes=10-11", origin="bytes=10-11"),
            Ask("bytes=0-0,10-10", status=206),
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
        "RFC9111-4.1 parts are kept by what Vary names",
        (
            Ask("bytes=0-4", origin="bytes=0-4", sends="X-A: 1"),
            Ask("bytes=0-4", origin="bytes=0-4", sends="X-A: 2"),
            Ask("bytes=0-4", sends="X-A: 1"),
            Ask("bytes=0-4", sends="X-A: 2"),
            Ask("bytes=0-4", origin="bytes=0-4"),
        ),
        Version(f"{STRONG} | Vary: X-A"),
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
            Ask("bytes=0-3", has="Repr-Digest: sha-256=:BB==:", lacks="Content-Digest"),
        ),
        Version(f"{STRONG} | Content-Digest: sha-256=:AA==: | Repr-Digest: sha-256=:BB==:"),
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_parts(row: Row) -> None:
    await play(row)
