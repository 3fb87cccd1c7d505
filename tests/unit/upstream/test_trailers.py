"""Trailers are found however the bytes are cut, and only where the chunked coding is exactly right."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.upstream.http1.trailers import TrailerReader


def read(*pieces: bytes) -> tuple[tuple[str, str], ...]:
    reader = TrailerReader()
    reader.begin()
    for piece in pieces:
        reader.feed(piece)
    return reader.fields()


chunks = st.lists(st.binary(min_size=1, max_size=60), max_size=6)
fields = st.lists(
    st.tuples(st.sampled_from(["X-A", "x-b", "Grpc-Status"]), st.from_regex(r"([!-~]([ -~]{0,20}[!-~])?)?", fullmatch=True)),
    max_size=4,
)


@given(chunks, fields, st.binary(max_size=20), st.lists(st.integers(0, 500), max_size=10))
def test_cutting_changes_nothing(chunks: list[bytes], fields: list[tuple[str, str]], rest: bytes, cuts: list[int]) -> None:
    coded = b"".join(b"%X;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    coded += b"0\r\n" + b"".join(f"{name}: {value} \r\n".encode() for name, value in fields) + b"\r\n"
    points = sorted({0, *(cut for cut in cuts if cut < len(coded)), len(coded)})
    pieces = [coded[start:end] for start, end in pairwise(points)]
    assert read(*pieces, rest) == tuple(fields)
    assert read(coded[:-1]) == (), "the body has not ended"


@pytest.mark.timeout(30)
def test_long_malformed_lines_are_given_up_without_trying_every_way_to_read_them() -> None:
    """Cubic once: an origin had the whole edge stand still."""
    assert read(b"0\r\nA:" + b" " * 4000 + b"\x01\r\n\r\n") == ()


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    assert all(name and "\n" not in value for name, value in read(data))


@pytest.mark.parametrize(
    "coded",
    [
        b"3\r\nabcd\r\n0\r\nX: y\r\n\r\n",
        b"3\nabc\n0\nX: y\n\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"0\r\nX: \x01\r\n\r\n",
        b"0\r\nX:" + b" " * 4000 + b"\x01\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 65 + b"\r\n",
        b"0\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
        b"z\r\n",
    ],
)
def test_what_is_not_exactly_right_has_none(coded: bytes) -> None:
    assert read(coded) == ()


def test_what_must_be_known_before_the_body_is_not_passed_on() -> None:
    said = b"Content-Length: 5\r\nSet-Cookie: a\r\nCache-Control: no-store\r\nIf-Match: a\r\nConnection: x\r\nX-Sum: 1\r\n"
    assert read(b"0\r\n" + said + b"\r\n") == (("X-Sum", "1"),)


def test_without_a_chunked_body_there_are_none() -> None:
    reader = TrailerReader()
    reader.feed(b"0\r\nX: y\r\n\r\n")
    assert reader.fields() == ()
