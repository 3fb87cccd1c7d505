"""Who may ask a site, and how often. Values and decisions; `serve.gate` keeps the buckets, `sites` the rules."""

from __future__ import annotations

import enum
import ipaddress
import math
from dataclasses import dataclass
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NETWORKS = 1000
MAX_RATE = 1_000_000
_IPV6_CLIENT_BITS = 64
"""One client has a whole /64 (RFC 6177): an address of its own for each request must not get it a fresh bucket."""


class Refusal(enum.StrEnum):
    """Why a request is not served; the same word in logs, metrics and Cache-Status."""

    DENIED = "client-denied"
    RATE = "rate-limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """One site's. Networks are addresses or CIDR prefixes, as text that `network` has accepted."""

    deny: tuple[str, ...] = ()
    """Goes before `allow`."""
    allow: tuple[str, ...] = ()
    """Empty: everybody."""
    purge: tuple[str, ...] = ()
    """Who may use the method PURGE; empty: nobody."""
    client_rate: int = 0
    """Requests a second of one client, in the long run; 0: as many as it likes."""
    client_burst: int = 0
    """Requests of one client at once, after a pause; 0: a second's worth."""

    @property
    def open(self) -> bool:
        """Whether nobody is ever refused."""
        return not (self.deny or self.allow or self.client_rate)


OPEN = AccessRule()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: `level` requests may still come at the time `at`, in seconds."""

    level: float
    at: float


def network(text: str) -> Network:
    """An address or a CIDR prefix. Raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def permits(rule: AccessRule, client_ip: str) -> bool:
    """Whether this address may ask at all. What is no address (a Unix socket's peer) is judged as one in no network."""
    if not rule.deny and not rule.allow:
        return True
    address = _address(client_ip)
    if _within(address, rule.deny):
        return False
    return not rule.allow or _within(address, rule.allow)


def may_purge(rule: AccessRule, client_ip: str) -> bool:
    """Whether this address may use the method PURGE."""
    return _within(_address(client_ip), rule.purge)


def client_of(client_ip: str) -> str:
    """What is counted as one client."""
    address = _address(client_ip)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_CLIENT_BITS), strict=False))
    return client_ip if address is None else str(address)


def take(bucket: Bucket | None, rule: AccessRule, now: float) -> tuple[Bucket, float]:
    """One request: the bucket after it, and how many seconds it comes too early; 0: it may be served.

    A refused request takes nothing. The clock may step back: then nothing is added.
    """
    most = float(rule.client_burst or rule.client_rate)
    if bucket is None:
        bucket = Bucket(most, now)
    level = min(most, bucket.level + max(0.0, now - bucket.at) * rule.client_rate)
    if level >= 1:
        return Bucket(level - 1, now), 0.0
    return Bucket(level, now), (1 - level) / rule.client_rate


def retry_after(seconds: float) -> str:
    """The value of Retry-After (RFC 9110 section 10.2.3)."""
    return str(max(1, math.ceil(seconds)))


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(network, texts))


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, texts: tuple[str, ...]) -> bool:
    return address is not None and any(address.version == net.version and address in net for net in _networks(texts))


@lru_cache(maxsize=4096)
def _address(client_ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """IPv4 addresses in IPv6 form (RFC 4291 section 2.5.5.2) are the IPv4 addresses they stand for."""
    try:
        address = ipaddress.ip_address(client_ip.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
