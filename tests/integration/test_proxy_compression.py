"""Compression by the edge, over real sockets: negotiated, stored once a coding, never against the client's word."""

from __future__ import annotations

import asyncio
import gzip

import brotli
import pytest
import zstandard
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.coding import Coding
from edgecache.policy.rule import CacheRule
from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import Edge, Got, Handler, edge_for, origin_of, raw_origin, read_head, until

RULE = CacheRule(compress=(Coding.ZSTD, Coding.BR, Coding.GZIP))
TEXT = "".join(f"line {number} of a page\n" for number in range(2000)).encode()


def page(body: bytes = TEXT, **fields: str) -> Handler:
    headers = {"Cache-Control": "max-age=60", "Content-Type": "text/plain", "ETag": '"v"', "Accept-Ranges": "bytes"}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.headers.get("If-None-Match") in ('"v"', 'W/"v"', 'W/"v", "v"'):
            return web.Response(status=304, headers={"ETag": '"v"', "Cache-Control": "max-age=600"})
        return web.Response(body=body, headers=headers)

    return answer


def decoded(got: Got) -> bytes:
    match got.headers.get("Content-Encoding"):
        case None:
            return got.body
        case "gzip":
            return gzip.decompress(got.body)
        case "br":
            return brotli.decompress(got.body)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(got.body)
        case other:
            raise AssertionError(other)


async def get(edge: Edge, accepts: str, method: str = "GET", **fields: str) -> Got:
    headers = {"Accept-Encoding": accepts} | {name.replace("_", "-"): value for name, value in fields.items()}
    return await edge.fetch("/a", method, headers=headers)


async def test_each_coding_is_stored_once_and_answers_those_who_accept_it() -> None:
    async with origin_of(page()) as origin, edge_for(origin.url, rule=RULE) as edge:
        for accepts, coding in (
            ("gzip", "gzip"),
            ("br, gzip", "br"),
            ("zstd, br", "zstd"),
            ("deflate", None),
            ("gzip, x", "gzip"),
        ):
            for _ in range(2):
                got = await get(edge, accepts)
                assert got.headers.get("Content-Encoding") == coding
                assert decoded(got) == TEXT
                assert got.headers["ETag"] == ('W/"v"' if coding else '"v"')
                assert got.headers.getall("Vary") == ["Accept-Encoding"]
            assert "; hit" in got.cache
            assert got.headers["Content-Length"] == str(len(got.body))
        assert origin.count == 4
        assert [request.headers["Accept-Encoding"] for request in origin.seen] == ["gzip", "br", "zstd", "identity"]


async def test_without_the_switch_bytes_and_fields_pass_as_they_come() -> None:
    async with origin_of(page()) as origin, edge_for(origin.url) as edge:
        got = await get(edge, "gzip, br")
        assert got.body == TEXT
        assert "Vary" not in got.headers and got.headers["ETag"] == '"v"'
        assert origin.seen[0].headers["Accept-Encoding"] == "gzip, br"


@pytest.mark.parametrize(
    "fields",
    [{"Cache_Control": "max-age=60, no-transform"}, {"Content_Type": "image/png"}, {"Content_Encoding": "x-own"}],
    ids=["no-transform", "type", "coded already"],
)
async def test_what_must_not_be_coded_passes_as_it_comes(fields: dict[str, str]) -> None:
    async with origin_of(page(**fields)) as origin, edge_for(origin.url, rule=RULE) as edge:
        for _ in range(2):
            got = await get(edge, "gzip")
            assert got.body == TEXT
            assert "Vary" not in got.headers and got.headers["ETag"] == '"v"'
        assert origin.count == 1


async def test_a_request_with_no_transform_gets_the_uncoded_bytes() -> None:
    async with origin_of(page()) as origin, edge_for(origin.url, rule=RULE) as edge:
        assert (await get(edge, "gzip")).headers["Content-Encoding"] == "gzip"
        for _ in range(2):
            got = await get(edge, "gzip", Cache_Control="no-transform")
            assert got.body == TEXT and "Content-Encoding" not in got.headers
        assert origin.count == 2


async def test_head_says_what_get_would() -> None:
    async with origin_of(page()) as origin, edge_for(origin.url, rule=RULE) as edge:
        before = await get(edge, "gzip", "HEAD")
        assert (before.headers["Content-Encoding"], before.headers["ETag"]) == ("gzip", 'W/"v"')
        assert "Content-Length" not in before.headers
        full = await get(edge, "gzip")
        after = await get(edge, "gzip", "HEAD")
        assert after.body == b"" and after.headers["Content-Length"] == str(len(full.body))
        assert after.headers["Content-Encoding"] == "gzip"
        assert origin.count == 2


async def test_conditions_compare_weakly_and_ranges_are_of_the_coded_bytes() -> None:
    async with origin_of(page()) as origin, edge_for(origin.url, rule=RULE) as edge:
        full = await get(edge, "gzip")
        for tag in ('W/"v"', '"v"'):
            got = await get(edge, "gzip", If_None_Match=tag)
            assert (got.status, got.headers["ETag"], got.headers["Vary"]) == (304, 'W/"v"', "Accept-Encoding")
            assert "Content-Encoding" not in got.headers
        part = await get(edge, "gzip", Range="bytes=2-9")
        assert (part.status, part.body, part.headers["Content-Encoding"]) == (206, full.body[2:10], "gzip")
        assert "Accept-Ranges" not in full.headers
        # RFC 9110 section 13.1.5: a weak tag never lets ranges be joined.
        for tag in ('W/"v"', '"v"'):
            joined = await get(edge, "gzip", Range="bytes=2-9", If_Range=tag)
            assert (joined.status, joined.body) == (200, full.body)
        plain = await get(edge, "identity", Range="bytes=2-9", If_Range='"v"')
        assert plain.status in (200, 206) and plain.body in (TEXT, TEXT[2:10])
        assert origin.count == 2


@pytest.mark.parametrize("if_range", [{}, {"If_Range": "Sat, 01 Jan 2000 00:00:00 GMT"}], ids=["Range", "If-Range"])
async def test_a_date_does_not_let_ranges_of_what_is_coded_here_be_joined(if_range: dict[str, str]) -> None:
    """RFC 9110 section 8.8.2.2: all codings share it, and no two runs of a coder need make the same bytes."""

    async def dated(_request: web.BaseRequest) -> web.Response:
        fields = {"Cache-Control": "max-age=60", "Last-Modified": "Sat, 01 Jan 2000 00:00:00 GMT", "Content-Type": "text/plain"}
        return web.Response(body=TEXT, headers=fields)

    async with origin_of(dated) as origin, edge_for(origin.url, rule=RULE) as edge:
        full = await get(edge, "gzip")
        assert "ETag" not in full.headers
        part = await get(edge, "gzip", Range="bytes=2-9", **if_range)
        assert (part.status, part.body) == (200, full.body)
        plain = await get(edge, "identity")
        assert plain.body == TEXT
        part = await get(edge, "identity", Range="bytes=2-9", **if_range)
        assert (part.status, part.body) == (206, TEXT[2:10])


async def test_a_coded_entry_that_was_validated_is_still_coded_weak_and_varying() -> None:
    async with origin_of(page()) as origin, edge_for(origin.url, rule=RULE) as edge:
        await get(edge, "gzip")
        edge.clock.advance(90)
        for expected in ("fwd=stale", "; hit"):
            got = await get(edge, "gzip")
            assert expected in got.cache
            assert decoded(got) == TEXT
            assert (got.headers["ETag"], got.headers["Vary"], got.headers["Content-Encoding"]) == (
                'W/"v"',
                "Accept-Encoding",
                "gzip",
            )
        assert origin.seen[1].headers["If-None-Match"] == 'W/"v", "v"'
        assert (await get(edge, "")).body == TEXT


async def test_what_is_not_stored_is_coded_too() -> None:
    async with origin_of(page(Cache_Control="private")) as origin, edge_for(origin.url, rule=RULE) as edge:
        for method in ("GET", "POST"):
            got = await get(edge, "br", method)
            assert got.headers["Content-Encoding"] == "br" and decoded(got) == TEXT
        again = await get(edge, "br", If_None_Match='W/"v"')
        assert (again.status, again.headers["ETag"]) == (304, 'W/"v"')
        assert origin.count == 3


async def test_collapsed_clients_each_get_what_they_accept() -> None:
    gate = asyncio.Event()

    async def slow(_request: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response(body=TEXT, headers={"Cache-Control": "max-age=60", "Content-Type": "text/plain"})

    async with origin_of(slow) as origin, edge_for(origin.url, rule=RULE) as edge:
        accepts = ["gzip", "br", "identity", "gzip, deflate", "zstd", "gzip;q=0"]
        asked = [asyncio.create_task(get(edge, each)) for each in accepts]
        await until(lambda: origin.count == 1)
        gate.set()
        answers = await asyncio.gather(*asked)
        assert [got.headers.get("Content-Encoding") for got in answers] == ["gzip", "br", None, "gzip", "zstd", None]
        assert all(decoded(got) == TEXT for got in answers)
        assert origin.count == 4


async def test_a_large_body_is_coded_while_the_edge_goes_on_answering() -> None:
    big = TEXT * 200
    async with origin_of(page(big)) as origin, edge_for(origin.url, rule=RULE) as edge:
        for accepts in ("gzip", "br", "zstd"):
            got = await get(edge, accepts)
            assert decoded(got) == big
            assert got.headers["Transfer-Encoding"] == "chunked"
            stored = await get(edge, accepts)
            assert stored.body == got.body


async def test_a_body_that_breaks_off_is_neither_completed_nor_stored() -> None:
    asked = 0

    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_head(reader)
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=60\r\nContent-Length: 90000\r\n\r\n")
        writer.write(TEXT[:20000])
        await writer.drain()

    async with raw_origin(breaking) as origin, edge_for(origin, rule=RULE) as edge:
        for _ in range(2):
            said = await edge.raw(b"GET /a HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
            assert not said.endswith(b"0\r\n\r\n")
        assert asked == 2
        assert edge.store.stats().entries == 0


async def test_a_slow_stream_arrives_as_it_is_made() -> None:
    gate = asyncio.Event()

    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)  # type: ignore[arg-type]
        await response.write(b"first")
        await gate.wait()
        await response.write(b"second")
        await response.write_eof()
        return response

    async with (
        origin_of(drip) as origin,
        edge_for(origin.url, rule=RULE) as edge,
        edge.client.get(edge.url("/a"), headers={"Accept-Encoding": "br"}) as response,
        asyncio.timeout(10),
    ):
        decoder = brotli.Decompressor()
        assert decoder.process(await response.content.readany()) == b"first"
        gate.set()
        assert decoder.process(await response.content.read()) == b"second"


_requests = st.lists(
    st.tuples(
        st.sampled_from(["GET", "GET", "HEAD"]),
        st.sampled_from(["gzip", "br, gzip", "zstd;q=0.1, br", "identity", "", "*", "deflate", "*;q=0, identity"]),
        st.sampled_from([{}, {"If-None-Match": 'W/"v"'}, {"Range": "bytes=5-"}, {"Cache-Control": "no-transform"}]),
    )
    | st.integers(1, 70),
    min_size=1,
    max_size=20,
)


@settings(max_examples=15, deadline=None)
@given(_requests, st.sampled_from([0, 64]))
def test_whatever_is_asked_in_whatever_order_the_client_can_decode_it(steps: list[object], heads: int) -> None:
    async def run() -> None:
        fast = ServeSettings(fast_lane_heads=heads)
        async with origin_of(page()) as origin, edge_for(origin.url, rule=RULE, settings=fast) as edge:
            whole: dict[str | None, bytes] = {}
            for step in steps:
                if isinstance(step, int):
                    edge.clock.advance(step)
                    continue
                method, accepts, fields = step  # type: ignore[misc]
                got = await edge.fetch("/a", method, headers={"Accept-Encoding": accepts, **fields})
                coding = got.headers.get("Content-Encoding")
                assert coding is None or coding in accepts or accepts == "*"
                if coding is not None:
                    assert got.headers["ETag"] == 'W/"v"' and "no-transform" not in fields.values()
                assert "Accept-Encoding" in got.headers["Vary"]
                if method == "GET" and got.status == 200:
                    assert decoded(got) == TEXT
                    whole[coding] = got.body
                elif got.status == 206 and coding in whole:
                    assert got.body == whole[coding][5:]

    asyncio.run(run())
