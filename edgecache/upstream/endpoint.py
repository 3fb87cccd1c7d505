"""What distinguishes one way to an origin from another: connections and what is known of them are kept by this value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edgecache.policy.upstream import NO_TLS_RULE, Timeouts, TlsRule
from edgecache.upstream.settings import UpstreamSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, and how it is spoken to."""

    url: str
    tls: TlsRule = NO_TLS_RULE
    proxy_protocol: int = 0
    own_tls: bool = field(init=False, compare=False)
    """Whether the rule says anything. By its value: what has come from a file or another process is another object."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "own_tls", self.tls != NO_TLS_RULE)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long an exchange may take, in seconds; see `UpstreamSettings`."""

    connect: float
    first_byte: float
    between_bytes: float


NO_TIMEOUTS: Final = Timeouts()


def waits(settings: UpstreamSettings, own: Timeouts = NO_TIMEOUTS) -> Waits:
    """The edge's, with a site's own in their place."""
    return Waits(
        settings.connect_timeout if own.connect is None else own.connect,
        settings.first_byte_timeout if own.first_byte is None else own.first_byte,
        settings.between_bytes_timeout if own.between_bytes is None else own.between_bytes,
    )
