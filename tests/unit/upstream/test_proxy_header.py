"""The PROXY protocol's headers, against bytes put together by hand from the specification."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.upstream.http1.proxy_header import ProxyHeader, SocketAddress, encode, socket_address

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def header(source: str, source_port: int, destination: str, destination_port: int) -> ProxyHeader:
    return ProxyHeader(
        SocketAddress(ipaddress.ip_address(source), source_port),
        SocketAddress(ipaddress.ip_address(destination), destination_port),
    )


MAPPED = str(ipaddress.ip_address("::ffff:192.0.2.7")).encode()
"""How it is written depends on Python's version; both forms are right."""


@pytest.mark.parametrize(
    ("given", "text", "binary"),
    [
        (
            header("192.168.0.1", 56324, "192.168.0.11", 443),
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            "21 11 000c c0a80001 c0a8000b dc04 01bb",
        ),
        (
            header("2001:db8::1", 1, "2001:db8::2", 65535),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
            "21 21 0024 20010db8000000000000000000000001 20010db8000000000000000000000002 0001 ffff",
        ),
        (
            header("2001:db8::1", 1, "192.0.2.7", 80),
            b"PROXY TCP6 2001:db8::1 " + MAPPED + b" 1 80\r\n",
            "21 21 0024 20010db8000000000000000000000001 00000000000000000000ffffc0000207 0001 0050",
        ),
        (
            header("::ffff:192.0.2.1", 1, "192.0.2.7", 80),
            b"PROXY TCP4 192.0.2.1 192.0.2.7 1 80\r\n",
            "21 11 000c c0000201 c0000207 0001 0050",
        ),
        (None, b"PROXY UNKNOWN\r\n", "20 00 0000"),
    ],
)
def test_both_versions(given: ProxyHeader | None, text: bytes, binary: str) -> None:
    assert encode(given, 1) == text
    assert encode(given, 2) == SIGNATURE + bytes.fromhex(binary)


@settings(deadline=None)
@given(st.ip_addresses(), st.integers(0, 65535), st.ip_addresses(), st.integers(0, 65535))
def test_any_pair_of_addresses_has_headers_of_the_right_size(a: object, a_port: int, b: object, b_port: int) -> None:
    given = header(str(a), a_port, str(b), b_port)
    text = encode(given, 1)
    assert len(text) <= 107
    assert text.endswith(b"\r\n")
    _, family, source, destination, *ports = text.decode().split()
    assert ipaddress.ip_address(source).version == ipaddress.ip_address(destination).version == int(family[-1])
    assert ports == [str(a_port), str(b_port)]
    binary = encode(given, 2)
    assert len(binary) == 16 + int.from_bytes(binary[14:16], "big") == (28 if family == "TCP4" else 52)


@pytest.mark.parametrize("text", ["", "unknown", "a.test", "1.2.3", "1.2.3.4\r\nX: y"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert socket_address(text) is None


def test_a_zone_is_left_out() -> None:
    assert socket_address(" fe80::1%eth0") == SocketAddress(ipaddress.ip_address("fe80::1"))
