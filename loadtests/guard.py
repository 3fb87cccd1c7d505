"""Load goes to this machine only."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


class NotLocal(Exception):
    """The target is not this machine. The message says what is taken."""


def must_be_local(url: str) -> str:
    """`url` when it is http to a loopback address. Raises NotLocal."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        local = parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        local = False
    if not local:
        raise NotLocal(
            f"{url!r} is not http to a loopback address, such as http://127.0.0.1:8080: load goes to this machine only"
        )
    return url
