"""Framing does not depend on how bytes are cut, and says what a request's head states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.serve.guard import BodyFraming, Head, HeadReader, RequestFault, Violation, find_head, parse_head
from edgecache.serve.settings import ServeSettings

SETTINGS = ServeSettings()


def head(*lines: str) -> Head:
    return parse_head(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), SETTINGS)


def refusal(*lines: str) -> RequestFault:
    with pytest.raises(Violation) as caught:
        head(*lines)
    return caught.value.fault


def test_a_head_is_read_as_it_stands() -> None:
    got = head("GET /a?b=%20 HTTP/1.1", "Host: Shop.Test:80", "X:  y z \t", "x: 2")
    assert (got.request.method, got.request.target, got.request.authority) == ("GET", "/a?b=%20", "shop.test")
    assert got.request.headers.getall("X") == ["y z", "2"]
    assert got.keep_alive and not got.has_body and not got.expect_continue


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [("1.1", None, True), ("1.1", "close", False), ("1.1", "x, CLOSE", False), ("1.0", None, False), ("1.0", "Keep-Alive", True)],
)
def test_persistence(version: str, connection: str | None, expected: bool) -> None:
    lines = [f"GET / HTTP/{version}", "Host: a", *([f"Connection: {connection}"] if connection else [])]
    assert head(*lines).keep_alive is expected


def test_framing_fields() -> None:
    assert head("POST / HTTP/1.1", "Host: a", "Content-Length: 007").content_length == 7
    assert head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: Chunked").chunked
    assert refusal("POST / HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 1") is RequestFault.CONTENT_LENGTH
    assert refusal("POST / HTTP/1.1", "Host: a", "Content-Length: " + "9" * 19) is RequestFault.CONTENT_LENGTH
    assert refusal("POST / HTTP/1.1", "Host: a", "Content-Length: " + "9" * 18) is RequestFault.BODY_TOO_LARGE
    assert refusal("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked") is RequestFault.TRANSFER_ENCODING


@pytest.mark.parametrize("host", ["a", "a:8", "[::1]", "[::1]:8", "", "A_b.c-d", "a:"])
def test_hosts(host: str) -> None:
    assert head("GET / HTTP/1.1", f"Host: {host}").request.authority == host.lower().removesuffix(":")


@pytest.mark.parametrize("host", ["a b", "a/b", "u@a", "a,b", "[::1", "a:b", "a:123456", "a#", "a?", "a\\b", "a<b>"])
def test_impossible_hosts(host: str) -> None:
    got = [refusal("GET / HTTP/1.1", f"Host: {host}")] if host != "a,b" else [RequestFault.HOST]
    assert got == [RequestFault.HOST]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_a_violation_or_unfinished(data: bytes) -> None:
    """Invariant: the guard ends every input in one of three ways, and never raises anything else."""
    try:
        found = find_head(data, 0, SETTINGS)
        if found is not None:
            parse_head(data[found[0] : found[1]], SETTINGS)
    except Violation:
        pass


PIECES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1", b"a: b", b"x" * 40]), max_size=14)


@given(PIECES, st.lists(st.integers(0, 120), max_size=20))
def test_in_however_small_pieces_a_head_comes_it_is_the_same_head(pieces: list[bytes], cuts: list[int]) -> None:
    def outcome(data: bytes, looked: int) -> object:
        try:
            return find_head(data, 0, SETTINGS, looked)
        except Violation as violation:
            return violation.fault

    data, looked = b"".join(pieces), 0
    for cut in sorted({*(cut for cut in cuts if cut < len(data)), len(data)}):
        found = outcome(data[:cut], looked)
        assert found == outcome(data[:cut], 0)
        if found is not None:
            return
        looked = cut


def test_what_was_searched_is_not_searched_again() -> None:
    """Else who sends a head byte by byte has all of it searched for each byte."""
    begun = b"GET / HTTP/1.1\r\nX: a\rb\n\r\n\r\n"
    with pytest.raises(Violation):
        find_head(begun[:-4], 0, SETTINGS)
    assert find_head(begun + b"Y: b", 0, SETTINGS, len(begun)) is None


TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
VALUE = frozenset({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)})


def is_field_line(line: bytes) -> bool:
    """RFC 9112 section 5, a byte at a time."""
    name, colon, value = line.partition(b":")
    return bool(name) and set(name) <= TOKEN and colon == b":" and set(value) <= VALUE


@given(
    st.lists(st.sampled_from([b"X", b":", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"X: y"]), max_size=16).map(
        b"".join
    )
)
def test_heads_whose_lines_are_no_fields_are_refused(text: bytes) -> None:
    lines = text.split(b"\r\n")
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n" + text + b"\r\n\r\n"
    if all(map(is_field_line, lines)):
        assert len(parse_head(whole, SETTINGS).request.headers) == 1 + len(lines)
    else:
        with pytest.raises(Violation) as caught:
            parse_head(whole, SETTINGS)
        assert caught.value.fault is RequestFault.FIELD


@pytest.mark.parametrize("text", [b"X:" + b" " * 200_000 + b"\n", b"X:y\r\n" * 40_000 + b"X", b"X" * 200_000])
def test_a_long_head_is_refused_at_its_last_byte(text: bytes) -> None:
    with pytest.raises(Violation):
        parse_head(b"GET / HTTP/1.1\r\n" + text + b"\r\n\r\n", SETTINGS)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=20), st.lists(st.integers(1, 30), max_size=40)
)
def test_chunked_bodies_end_at_the_same_byte_however_they_are_cut(chunks: list[bytes], rest: bytes, cuts: list[int]) -> None:
    """Invariant: the position after the body does not depend on the cuts."""
    body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    data = body + rest
    framing = BodyFraming(head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), 10_000)
    position = 0
    for cut in [*cuts, *([7] * len(data))]:
        if framing.complete:
            break
        piece = data[position : position + cut]
        position += framing.advance(piece, 0)
    assert framing.complete
    assert position == len(body)


@given(st.integers(1, 200), st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_sized_bodies_end_after_their_length(length: int, cuts: list[int]) -> None:
    framing = BodyFraming(head("POST / HTTP/1.1", "Host: a", f"Content-Length: {length}"), 10_000)
    taken = 0
    for cut in [*cuts, length]:
        taken += framing.advance(bytes(cut), 0)
    assert framing.complete
    assert taken == length


def test_chunks_count_against_the_body_limit() -> None:
    framing = BodyFraming(head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), 10)
    with pytest.raises(Violation) as caught:
        framing.advance(b"6\r\nabcdef\r\n5\r\n", 0)
    assert caught.value.fault is RequestFault.BODY_TOO_LARGE


def test_an_unfinished_head_that_cannot_become_one_is_refused_at_once() -> None:
    for data in (b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nX: a\rb"):
        with pytest.raises(Violation):
            find_head(data, 0, SETTINGS)
    assert find_head(b"GET / HTTP/1.1\r\nHost: a\r", 0, SETTINGS) is None
    assert find_head(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 0, SETTINGS) == (4, 22)


def test_heads_that_came_twice_are_known_and_those_with_bodies_read_every_time() -> None:
    reader = HeadReader(SETTINGS, capacity=2)
    plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    sized = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"
    assert reader.read(plain) is not reader.read(plain)
    assert reader.read(plain) is reader.read(plain)
    assert reader.read(sized) is not reader.read(sized)
