"""Hosts with their ports, in the one form that keys have. Pure. Whoever reads a URL or a Host field calls it."""

from __future__ import annotations

import re
from typing import Final

_VALID: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
"""RFC 3986 section 3.2, without user information."""
_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}


def is_authority(text: str) -> bool:
    """Whether it is a host with an optional port; both may be empty, as in Host (RFC 9112 section 3.2)."""
    return _VALID.fullmatch(text) is not None


def authority_of(host: str, scheme: str) -> str:
    """Without the scheme's own port (RFC 9110 section 4.2.3), and without the root's dot (RFC 1034 section 3.1)."""
    host = host.lower()
    default = _DEFAULT_PORT[scheme]
    host = host.removesuffix(default) if host.endswith(default) else host.removesuffix(":")
    if not is_rooted(host):
        return host
    name, colon, port = host.partition(":")
    return name.rstrip(".") + colon + port


def is_rooted(host: str) -> bool:
    """Whether the name ends in a dot, which only says that it does so."""
    return host.endswith(".") or ".:" in host
