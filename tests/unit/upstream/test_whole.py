"""Responses that are read in one step: what is taken, aiohttp's parser would have read alike; what is doubtful is left to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

from edgecache.upstream.http1.response import unusable_field
from edgecache.upstream.http1.whole import read_whole

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
_NAMES = st.sampled_from(
    [
        "Content-Length",
        "content-length",
        "Connection",
        "Date",
        "ETag",
        "x-own",
        "X-OWN",
        "Transfer-Encoding",
        "Upgrade",
        "Keep-Alive",
    ]
) | st.text("abcXYZ-!#09 \t:\x00\xe9", max_size=8)
_VALUES = st.sampled_from(
    ["0", "2", "5", "02", "+2", "close", "keep-alive", "Keep-Alive, x", "chunked", "a, b", " a", "a ", ""]
) | st.text('ab,;=" \t:\r\n\x00\x1f\x7f\xe9', max_size=8)
_LINES = st.lists(st.tuples(_NAMES, st.sampled_from([": ", ":", " : ", ":  "]), _VALUES), max_size=5)


def by_aiohttp(data: bytes) -> tuple[Any, bytes, bool]:
    """The one message that aiohttp's parser finds, its body, and whether that is complete. Raises what it raises."""

    async def parsed() -> tuple[Any, bytes, bool]:
        loop = asyncio.get_running_loop()
        parser = HttpResponseParser(BaseProtocol(loop), loop, 1 << 16, read_until_eof=True, auto_decompress=False)
        messages, _, tail = parser.feed_data(data)
        assert len(messages) == 1 and not tail
        message, content = messages[0]
        return message, content.read_nowait() if content.total_bytes else b"", content.is_eof()

    return asyncio.run(parsed())


def assert_alike(data: bytes) -> None:
    whole = read_whole(data, 8190, 128)
    if whole is None:
        return
    message, body, complete = by_aiohttp(data)
    assert complete
    assert (whole.status, whole.reason, whole.body) == (message.code, message.reason, body)
    assert list(whole.headers.items()) == list(message.headers.items())
    assert whole.keep_alive is not message.should_close
    assert not (message.chunked or message.upgrade)
    assert unusable_field(whole.headers) is None


@given(
    line=st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 503 ", "HTTP/1.1 299 a  b", "HTTP/1.1 200"])
    | st.from_regex(r"HTTP/1\.[01] [0-9]{3}( [a-z\t\x7f\xe9]{0,4})?", fullmatch=True),
    lines=_LINES,
    body=st.sampled_from([b"", b"hi", b"hello", b"\r\n", b"\r\n\r\nx"]),
    end=st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"]),
)
def test_what_is_taken_aiohttp_reads_alike(line: str, lines: list[tuple[str, str, str]], body: bytes, end: str) -> None:
    head = end.join((line, *("".join(parts) for parts in lines), "", ""))
    assert_alike(head.encode("latin-1") + body)


@given(
    names=st.lists(st.sampled_from(["Date", "etag", "X-Own", "cache-control", "KEEP-alive", "Age"]), max_size=6),
    value=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20),
    body=st.binary(max_size=40),
    connection=st.sampled_from([[], ["keep-alive"], ["close"], ["Close"]]),
)
def test_plain_responses_are_taken_and_read_alike(names: list[str], value: str, body: bytes, connection: list[str]) -> None:
    lines = [f"{name}: {value}" for name in names] + [f"Connection: {option}" for option in connection]
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines, "", ""))
    data = head.encode() + body
    assert read_whole(data, 8190, 128) is not None
    assert_alike(data)


@pytest.mark.parametrize(
    "doubtful",
    [
        HEAD[:-1],
        HEAD + b"!",
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HEAD.replace(b"200", b"204"),
        HEAD.replace(b"200", b"304"),
        HEAD.replace(b"200", b"101"),
        HEAD.replace(b"200", b"600"),
        HEAD.replace(b"200 OK", b"2000"),
        HEAD.replace(b"Length: 2", b"Length: 02"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nContent-Length: 2"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nTransfer-Encoding: chunked"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nUpgrade: h2c"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nX: a\tb"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nX : a"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nX: a\r\n b"),
        HEAD.replace(b"Length: 2", b"Length: 2\nX: a"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nX: \xe9"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nX: a\0"),
        HEAD.replace(b"Length: 2", b"Length: 2\r\nConnection: close, x"),
    ],
)
def test_what_is_doubtful_is_left_to_aiohttp(doubtful: bytes) -> None:
    assert read_whole(HEAD, 8190, 128) is not None
    assert read_whole(doubtful, 8190, 128) is None


def test_limits_are_those_of_the_head() -> None:
    assert read_whole(HEAD, 38, 128) is not None and read_whole(HEAD, 37, 128) is None
    assert read_whole(HEAD, 8190, 1) is not None and read_whole(HEAD, 8190, 0) is None
