"""The PROXY protocol's header, versions 1 and 2 (HAProxy's proxy-protocol.txt): who the client behind a load balancer is.

Bytes in, values out; no I/O. `proxied` reads the bytes, of those alone whom the operator trusts.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_BYTES: Final = 16
_V1: Final = b"PROXY "
_V1_BYTES: Final = 107
"""The longest header of version 1, its line end included."""
_V2_BYTES: Final = _FIXED_BYTES + 4096
"""More additions (TLVs) than this are refused; those in use take a few hundred bytes, certificates' names included."""
MAX_BYTES: Final = _V2_BYTES
_LINE: Final = re.compile(
    rb"PROXY (TCP[46]) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [\x21-\x7e]+)*\r\n")
_LOCAL, _PROXIED = 0x20, 0x21
_UNSPECIFIED: Final = frozenset({0x00, 0x31})
"""No address family, and Unix sockets: nothing that could be a client's address."""
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_BYTES: Final = {0x00: 0, 0x31: 216, _TCP4: 12, _TCP6: 36}


class NotProxied(Exception):
    """The bytes are no header of either version, or one that is not taken. The message says why."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a header says."""

    client: str | None
    """The client's address; None: the connection is the sender's own (a health check), or it does not know."""


def measure(data: bytes) -> int | None:
    """How long the header is that `data` begins with; None: more bytes must come first. Raises NotProxied as soon as it is none.

    While it is None, all of `data` belongs to the header.
    """
    if data[:1] == _SIGNATURE[:1]:
        return _measure_v2(data)
    if not _V1.startswith(data[: len(_V1)]):
        raise NotProxied("the connection does not begin with a PROXY header")
    end = data.find(b"\n", 0, _V1_BYTES)
    if end == -1 and len(data) >= _V1_BYTES:
        raise NotProxied("the PROXY line is too long")
    return None if end == -1 else end + 1


def _measure_v2(data: bytes) -> int | None:
    if not _SIGNATURE.startswith(data[: len(_SIGNATURE)]):
        raise NotProxied("the connection does not begin with a PROXY header")
    if len(data) < _FIXED_BYTES:
        return None
    length = _FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if length > _V2_BYTES:
        raise NotProxied("the PROXY header is too long")
    return length


def decode(header: bytes) -> Announced:
    """What a whole header says. Raises NotProxied."""
    return _decode_v2(header) if header.startswith(_SIGNATURE) else _decode_v1(header)


def _decode_v1(line: bytes) -> Announced:
    if _UNKNOWN.fullmatch(line):
        return Announced(None)
    said = _LINE.fullmatch(line)
    if said is None:
        raise NotProxied("the PROXY line is not `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT`")
    version = 4 if said[1] == b"TCP4" else 6
    try:
        source, destination = (ipaddress.ip_address(text.decode("ascii")) for text in (said[2], said[3]))
    except ValueError as error:
        raise NotProxied(f"the PROXY line has an address that is none: {error}") from error
    if {source.version, destination.version} != {version} or max(int(said[4]), int(said[5])) > 65_535:
        raise NotProxied("the PROXY line has an address of the other family, or a port beyond 65535")
    return Announced(str(source))


def _decode_v2(header: bytes) -> Announced:
    if len(header) < _FIXED_BYTES or len(header) != _measure_v2(header):
        raise NotProxied("the PROXY header is not as long as it says")
    command, family = header[12], header[13]
    if command == _LOCAL:
        return Announced(None)
    if command != _PROXIED or family not in _ADDRESS_BYTES:
        raise NotProxied(f"the PROXY header has the command {command:#x} for the transport {family:#x}")
    additions = _FIXED_BYTES + _ADDRESS_BYTES[family]
    if len(header) < additions:
        raise NotProxied("the PROXY header has less than its addresses")
    _check_additions(header[additions:])
    if family in _UNSPECIFIED:
        return Announced(None)
    size = 4 if family == _TCP4 else 16
    return Announced(str(ipaddress.ip_address(header[_FIXED_BYTES : _FIXED_BYTES + size])))


def _check_additions(rest: bytes) -> None:
    """Type, length in two bytes, value; what they say is not used."""
    position = 0
    while position < len(rest):
        if position + 3 > len(rest):
            raise NotProxied("the PROXY header ends within an addition")
        position += 3 + int.from_bytes(rest[position + 1 : position + 3], "big")
    if position != len(rest):
        raise NotProxied("the PROXY header ends within an addition")
