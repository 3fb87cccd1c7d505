"""A guest's edge calls: parsed strictly, kept to its own site, answered in bytes whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.generate.edge_calls import GeneratorEdgeCalls, parse_fetch
from edgecache.policy.message import Request, Response
from edgecache.source import Culprit, SourceError


def test_a_fetch_names_method_target_fields_and_body() -> None:
    request, body = parse_fetch(b"POST /api/x?y=1\nAccept: text/html\n\nabc", "https", "shop.test")
    assert (request.method, request.uri) == ("POST", "https://shop.test/api/x?y=1")
    assert request.headers["Accept"] == "text/html"
    assert (request.headers["Content-Length"], body) == ("3", b"abc")


def test_the_authority_is_the_sites_own_whatever_the_guest_says() -> None:
    request, _ = parse_fetch(b"GET /\r\nHost: internal.test\r\n\r\n", "http", "shop.test")
    assert request.headers.getall("Host") == ["shop.test"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET",
        b"GET http://o.test/",
        b"GET /a b",
        b"GET /a#b",
        b"GET /\nno colon",
        b"GET /\nA: \x00",
        b"G\x00T /",
        b"GET /" + b"a" * 9000,
    ],
)
def test_a_malformed_fetch_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        parse_fetch(data, "http", "shop.test")
    assert caught.value.status == 400


@pytest.mark.timeout(30)
@pytest.mark.parametrize("line", [b"A:" + b" " * 60_000 + b"\x01", b"A:x" + b" \t" * 30_000 + b"\x01", b"a" * 60_000 + b" "])
def test_a_long_malformed_line_is_refused_without_trying_every_way_to_read_it(line: bytes) -> None:
    """Cubic once: a guest had the whole edge stand still for hours."""
    with pytest.raises(SourceError):
        parse_fetch(b"GET /\n" + line, "http", "shop.test")


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    request, _ = parse_fetch(b"GET /\nA: \t b c\t \nB:\n", "http", "shop.test")
    assert (request.headers["A"], request.headers["B"]) == ("b c", "")


@given(st.binary(max_size=200))
def test_no_bytes_reach_another_authority(data: bytes) -> None:
    try:
        request, _ = parse_fetch(data, "http", "shop.test")
    except SourceError:
        return
    assert request.authority == "shop.test"
    assert request.target.startswith("/")


class Notes:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, bytes], bytes] = {}

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None:
        return self.kept.get((site, generator, key))

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        self.kept[site, generator, key] = value
        return True


async def test_an_answer_is_cgi_shaped_and_so_is_a_failure() -> None:
    async def origin(request: Request, body: bytes) -> tuple[Response, bytes]:
        if request.target == "/down":
            raise SourceError(Culprit.ORIGIN, "connect", status=502)
        return Response(200, "OK", CIMultiDictProxy(CIMultiDict({"X-A": "1"}))), b"body" + body

    notes = Notes()
    calls = GeneratorEdgeCalls("http", "shop.test", origin, "shop", "hello", notes)
    assert await calls.fetch(b"GET /x\n\n!") == b"Status: 200 OK\r\nX-A: 1\r\n\r\nbody!"
    assert await calls.fetch(b"GET /down") == b"Status: 502 connect\r\n\r\n"
    assert (await calls.fetch(b"nonsense")).startswith(b"Status: 400 ")
    assert await calls.kv_put(b"k", b"v")
    assert await calls.kv_get(b"k") == b"v"
    assert ("shop", "hello", b"k") in notes.kept
