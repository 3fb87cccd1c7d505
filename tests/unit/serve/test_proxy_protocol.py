"""PROXY headers of both versions: what they say, where they end, and what is none."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.serve.accepting.proxy_protocol import MAX_BYTES, Announced, NotProxied, decode, measure

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(addresses: bytes, family: int = 0x11, command: int = 0x21, additions: bytes = b"") -> bytes:
    body = addresses + additions
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)) + body


def addition(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack("!H", len(value)) + value


ports = st.integers(0, 65_535)
v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
lines = st.one_of(
    st.builds(lambda a, b, p, q: (f"PROXY TCP4 {a} {b} {p} {q}\r\n".encode(), str(a)), v4, v4, ports, ports),
    st.builds(lambda a, b, p, q: (f"PROXY TCP6 {a} {b} {p} {q}\r\n".encode(), str(a)), v6, v6, ports, ports),
    st.just((b"PROXY UNKNOWN\r\n", None)),
    st.just((b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None)),
)
additions = st.lists(st.builds(addition, st.integers(0, 255), st.binary(max_size=100)), max_size=5).map(b"".join)
binaries = st.one_of(
    st.builds(
        lambda a, b, more: (v2(a.packed + b.packed + b"\x01\x02\x03\x04", 0x11, additions=more), str(a)), v4, v4, additions
    ),
    st.builds(
        lambda a, b, more: (v2(a.packed + b.packed + b"\x01\x02\x03\x04", 0x21, additions=more), str(a)), v6, v6, additions
    ),
    st.builds(lambda family, junk: (v2(junk, family, 0x20), None), st.integers(0, 255), st.binary(max_size=300)),
    st.builds(lambda more: (v2(b"", 0x00, additions=more), None), additions),
    st.builds(lambda more: (v2(bytes(216), 0x31, additions=more), None), additions),
)


@given(st.one_of(lines, binaries), st.binary(max_size=50))
def test_a_header_is_found_whatever_follows_and_says_who_the_client_is(said: tuple[bytes, str | None], rest: bytes) -> None:
    header, client = said
    assert measure(header + rest) == len(header)
    got = decode(header)
    expected = None if client is None else str(ipaddress.ip_address(client))
    assert got == Announced(expected)
    for end in range(len(header)):
        length = measure(header[:end])
        assert length is None or length == len(header)


@given(
    st.one_of(
        st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: SIGNATURE + rest), st.binary().map(b"PROXY ".__add__)
    )
)
def test_any_bytes_are_a_header_or_none(data: bytes) -> None:
    try:
        length = measure(data)
        if length is not None and length <= len(data):
            decode(data[:length])
    except NotProxied:
        return
    assert length is None or length <= MAX_BYTES


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWN\x00\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
        v2(bytes(11)),
        v2(bytes(12), 0x21),
        v2(bytes(12), 0x12),
        v2(bytes(12), 0x11, 0x22),
        v2(bytes(12), 0x11, 0x11),
        v2(bytes(12), additions=b"\x01\x00"),
        v2(bytes(12), additions=b"\x01\x00\x02a"),
        v2(bytes(12)) + b"x",
    ],
)
def test_what_is_no_header(line: bytes) -> None:
    with pytest.raises(NotProxied):
        decode(line)


NEVER = [
    b"G",
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXX",
    b"PROXY " + b"a" * 101,
    b"\r\n\r\n\x00\r\nQUIX",
    SIGNATURE + b"\x21\x11\xff\xff",
]


@pytest.mark.parametrize("data", NEVER)
def test_what_cannot_become_a_header_is_told_at_once(data: bytes) -> None:
    with pytest.raises(NotProxied):
        measure(data)
