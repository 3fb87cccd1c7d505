"""Which requests ask for another protocol on their connection, and which answers switch to it (RFC 9110 section 7.8, RFC 6455).

`serve.upgrading` asks the first, `upstream.tunnel` the second. A request that does not ask exactly so is an ordinary one.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
from typing import Final

from edgecache.policy.fields import names
from edgecache.policy.message import Request, Response

_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Upgradable(enum.StrEnum):
    """Protocols that a site may let through."""

    WEBSOCKET = "websocket"


def asked(request: Request, allowed: tuple[Upgradable, ...]) -> Upgradable | None:
    """The protocol that `request` asks for, if it is one of `allowed`, asked for alone and by its own rules."""
    headers = request.headers
    if request.version == "1.0" or request.method != "GET" or "upgrade" not in names(headers, "Connection"):
        return None
    wanted = [value.lower() for value in headers.getall("Upgrade", ())]
    if wanted != [Upgradable.WEBSOCKET] or Upgradable.WEBSOCKET not in allowed:
        return None
    if "Content-Length" in headers or "Transfer-Encoding" in headers:
        return None
    keys, versions = headers.getall("Sec-WebSocket-Key", ()), headers.getall("Sec-WebSocket-Version", ())
    return Upgradable.WEBSOCKET if len(keys) == 1 and _is_nonce(keys[0]) and versions == ["13"] else None


def by_extended_connect(request: Request) -> bool:
    """Whether it has asked over HTTP/2 (RFC 8441), where a 2xx status means that the tunnel is open, and no field can ask."""
    return request.version == "2.0" and "Upgrade" in request.headers


def from_extended_connect(nonce: bytes) -> tuple[tuple[str, str], ...]:
    """What an extended CONNECT for a WebSocket says by itself, as fields of HTTP/1.1; `nonce`: 16 random bytes."""
    return (*fields_of(Upgradable.WEBSOCKET), ("Sec-WebSocket-Key", base64.b64encode(nonce).decode("ascii")))


def accepted(request: Request, response: Response) -> bool:
    """Whether a 101 is an answer to this very request for a WebSocket (RFC 6455 section 4.2.2): asked where the client cannot."""
    key = request.headers.get("Sec-WebSocket-Key", "")
    digest = hashlib.sha1(f"{key}{_GUID}".encode("ascii", "replace"), usedforsecurity=False).digest()
    return response.headers.getall("Sec-WebSocket-Accept", ()) == [base64.b64encode(digest).decode("ascii")]


def switches(response: Response, protocol: Upgradable) -> bool:
    """Whether a 101 switches to what was asked for."""
    headers = response.headers
    upgrades = [value.lower() for value in headers.getall("Upgrade", ())]
    return (
        response.status == 101
        and upgrades == [protocol]
        and "upgrade" in names(headers, "Connection")
        and "Transfer-Encoding" not in headers
        and headers.getall("Content-Length", ["0"]) == ["0"]
    )


def fields_of(protocol: Upgradable) -> tuple[tuple[str, str], ...]:
    """What says so on a connection of HTTP/1.1, either way."""
    return (("Connection", "Upgrade"), ("Upgrade", protocol.value))


def _is_nonce(key: str) -> bool:
    """16 bytes in base64 (RFC 6455 section 4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
