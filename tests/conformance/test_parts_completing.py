"""RFC 9110 section 15.3.7.3: parts that become the whole, and what the origin is asked for where some is missing."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from tests.conformance.ranges import FORWARD, FRESH, LETTERS, Ask, Row, Version, play, respond
from tests.conformance.scenario import f
from tests.integration.proxy_support import edge_for, origin_of

ROWS = [
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
        Version(FRESH),
    ),
    Row(
        "RFC9110-13.1.5 If-Range: the origin has another representation",
        (
            Ask("bytes=0-9", origin="bytes=0-9"),
            Ask(status=200, body=LETTERS.upper(), origin="bytes=10-", version=Version(f'{FRESH} | ETag: "2"', LETTERS.upper())),
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
                version=Version(f'{FRESH} | ETag: "2"', LETTERS.upper(), compares=False),
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
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_parts(row: Row) -> None:
    await play(row)


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

    async with origin_of(answer) as origin, edge_for(origin.url, rule=FORWARD) as edge:
        assert (await edge.fetch("/", headers={"Range": "bytes=0-9"})).status == 206
        short = True
        with pytest.raises(aiohttp.ClientError):
            await edge.fetch("/")
        short = False
        assert (await edge.fetch("/")).body == LETTERS
