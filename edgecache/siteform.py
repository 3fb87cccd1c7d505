"""What a site's hosts, origins and clients may look like, for whoever declares a site: the configuration file or the API.

Pure: text in, a reason or None out. Called by `configsites` and `control`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from edgecache.policy.access import network
from edgecache.sites import ANY_HOST

MAX_HOSTS: Final = 1_000
MAX_ORIGINS: Final = 32
MAX_WEIGHT: Final = 1_000_000
MAX_CAP: Final = 100_000
"""In percent of one CPU."""
MOST_GENERATORS: Final = 100_000

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def lowered(host: str) -> str:
    """A host name in lower case, where it is ASCII: the Kelvin sign would become a k."""
    return host.lower() if host.isascii() else host


def host_problem(host: str) -> str | None:
    """Why `host` cannot be one of a site's hosts; None when it can."""
    if host == ANY_HOST:
        return None
    name = host.removeprefix("*.")
    if host.startswith("["):
        return None if _is_address(host, 6) else f"{_shown(host)} is not an IPv6 address in brackets"
    if ":" in host:
        return f"{_shown(host)} must be a host without a port (IPv6 addresses in brackets)"
    if not name.isascii():
        return f"{_shown(host)} must be written in ASCII, as xn--…"
    if len(name) > 253 or not name or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return f"{_shown(host)} must be a host name such as shop.example, *.shop.example, or * for any"
    return None


def network_problem(text: str) -> str | None:
    """Why `text` cannot be a network of clients; None when it can."""
    try:
        network(text)
    except ValueError:
        return f"{_shown(text)} must be an address or a CIDR prefix, such as 192.0.2.7 or 2001:db8::/32"
    return None


def origin_problem(url: str) -> str | None:
    """Why `url` cannot be an origin; None when it can. Says nothing of what stands before an @."""
    wanted = "write http://HOST:PORT or https://HOST:PORT"
    if "@" in url:
        return f"must hold no user name and no password (@): they would be sent to nobody and shown to everybody; {wanted}"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return f"must be printable ASCII without spaces; {wanted}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"{_shown(url)} is not a URL: {error}; {wanted}"
    if parts.scheme not in {"http", "https"}:
        return f"{_shown(url)} must begin with http:// or https://; {wanted}"
    if port == 0 or not parts.hostname or not (_is_name(parts.hostname) or _is_address(parts.hostname, 6)):
        return f"{_shown(url)} names no host that could be an origin; {wanted}"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return f"{_shown(url)} must have neither query nor fragment; {wanted}"
    if parts.path not in {"", "/"}:
        return f"{_shown(url)} must have no path: the client's is sent as it came; {wanted}"
    return None


def _is_name(host: str) -> bool:
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.lower().removesuffix(".").split("."))


def _is_address(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version == version
    except ValueError:
        return False


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
