"""What the PROXY protocol says at the beginning of a connection: who is behind it. Pure: addresses in, bytes out.

haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 (version 1, text) and 2.2 (version 2, binary). `origin` sends it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An address and a port; port 0: unknown."""

    ip: IPv4Address | IPv6Address
    port: int = 0


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A client's connection that this one carries on."""

    source: SocketAddress
    """The client."""
    destination: SocketAddress
    """Where it connected to."""


def encode(header: ProxyHeader | None, version: int) -> bytes:
    """The bytes to send first. None: nobody is behind the connection, as for health checks. `version` 1 or 2."""
    return _text(header) if version == 1 else _binary(header)


def socket_address(text: str, port: int = 0) -> SocketAddress | None:
    """`192.0.2.1`, `2001:db8::1` or `fe80::1%eth0`; None for what is no address."""
    try:
        return SocketAddress(ip_address(text.strip().partition("%")[0]), port)
    except ValueError:
        return None


def _text(header: ProxyHeader | None) -> bytes:
    if header is None:
        return b"PROXY UNKNOWN\r\n"
    source, destination = _of_one_family(header.source.ip, header.destination.ip)
    family = "TCP4" if source.version == 4 else "TCP6"
    return f"PROXY {family} {source} {destination} {header.source.port} {header.destination.port}\r\n".encode()


def _binary(header: ProxyHeader | None) -> bytes:
    if header is None:
        return _SIGNATURE + struct.pack("!BBH", _LOCAL, _UNSPECIFIED, 0)
    source, destination = _of_one_family(header.source.ip, header.destination.ip)
    addresses = source.packed + destination.packed + struct.pack("!HH", header.source.port, header.destination.port)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, _TCP4 if source.version == 4 else _TCP6, len(addresses)) + addresses


def _of_one_family(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address
) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """Both as IPv4 where both can be, else both as IPv6 (RFC 4291 section 2.5.5.2): a header has one family."""
    four = _four(source), _four(destination)
    if four[0] is not None and four[1] is not None:
        return four[0], four[1]
    return _six(source), _six(destination)


def _four(ip: IPv4Address | IPv6Address) -> IPv4Address | None:
    return ip if isinstance(ip, IPv4Address) else ip.ipv4_mapped


def _six(ip: IPv4Address | IPv6Address) -> IPv6Address:
    return ip if isinstance(ip, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + ip.packed)
