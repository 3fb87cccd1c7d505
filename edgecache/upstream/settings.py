"""What the operator may set about talking to origins. Values only; `config` fills them, `origin` and `collapse` read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """Times in seconds, sizes in bytes. Nothing is unlimited."""

    connect_timeout: float = 5.0
    """TCP connection and TLS handshake to one origin, waiting for a pool slot included."""
    first_byte_timeout: float = 60.0
    """From the request sent to the response head received."""
    between_bytes_timeout: float = 60.0
    """Between two reads of a response body."""
    max_connections: int = 1024
    max_connections_per_origin: int = 128
    keepalive_timeout: float = 30.0
    dns_ttl: float = 30.0
    """For how long the addresses of a name are used without asking again."""
    dns_keep: float = 3600.0
    """For how long after that, while it does not resolve."""
    ejection_failures: int = 3
    """Failures to connect in a row after which an origin is asked last."""
    ejection_time: float = 10.0
    """For how long; doubled, up to 32 times this, while it goes on failing."""
    health_checks: int = 4096
    """Origins whose health is checked."""
    max_head_line_bytes: int = 16 << 10
    """The longest status or field line accepted of an origin."""
    max_head_fields: int = 256
    read_buffer_bytes: int = 128 << 10
    """Body bytes read ahead of the consumer on one connection."""
    replay_bytes: int = 64 << 10
    """Request bodies up to this size can be sent again to another source."""

    flight_buffer_bytes: int = 256 << 20
    """All bodies in flight together, buffered for those who join late."""
    flight_window_bytes: int = 1 << 20
    """Buffered of a body that turned out too large to store."""
    finish_without_clients_share: float = 0.75
    """A storable body is fetched to its end without clients when this part of it has arrived."""
    predictor_capacity: int = 65536
    """Keys remembered as uncacheable."""
    predictor_ttl: float = 120.0
    background_limit: int = 256
    """Background revalidations at once; more are skipped, for the next request asks again."""
