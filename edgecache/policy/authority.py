"""The authority of a URI (host, or host and port) in the one form that cache keys have. Values in, values out.

Called wherever somebody outside writes one: by `serve.guard` for requests, `serve.assembling` for fragments, `purging`.
"""

from __future__ import annotations

import re
from typing import Final

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
"""RFC 9110 sections 4.2.1 and 4.2.2."""

_AUTHORITY: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
_DEFAULT_SUFFIXES: Final = {scheme: f":{port}" for scheme, port in DEFAULT_PORTS.items()}


def is_authority(text: str) -> bool:
    """Whether it is a host, which may be empty, with an optional port: no user information (RFC 9110 section 4.2.4)."""
    return _AUTHORITY.fullmatch(text) is not None


def authority_of(text: str, scheme: str) -> str:
    """In lower case, without the scheme's own port (RFC 9110 section 4.2.3) and the root's dot (RFC 1034 section 3.1)."""
    authority = text.lower()
    default = _DEFAULT_SUFFIXES[scheme]
    return without_root(authority.removesuffix(default) if authority.endswith(default) else authority.removesuffix(":"))


def is_rooted(authority: str) -> bool:
    """Whether the host ends in a dot, which only says that it does so."""
    return authority.endswith(".") or ".:" in authority


def without_root(authority: str) -> str:
    """The same host without the dot at its end."""
    if not is_rooted(authority):
        return authority
    name, colon, port = authority.partition(":")
    return name.rstrip(".") + colon + port


def host_of(authority: str) -> str:
    """The host alone; an IPv6 address keeps its brackets."""
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0]
