"""What the operator may set about serving clients. Values only; `config` fills them, the listener and the pipeline read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Times in seconds, sizes in bytes. Nothing is unlimited."""

    max_target_bytes: int = 8 << 10
    """Longer request targets: 414."""
    max_head_bytes: int = 32 << 10
    """Request line and fields together; more: 431."""
    max_fields: int = 100
    """Field lines of a request; more: 431."""
    max_body_bytes: int = 4 << 30
    """Longer request bodies: 413."""
    head_timeout: float = 15.0
    """From the first byte of a request head to its last."""
    body_timeout: float = 30.0
    """Between two reads of a request body."""
    body_rate: int = 500
    """Bytes a second that a client must send of a request body, after `body_timeout`: who sends a byte now and then would hold a
    connection to the origin for ever."""
    keepalive_timeout: float = 75.0
    """How long a connection may idle between requests, and before the first."""
    write_timeout: float = 30.0
    """How long a client may accept no byte of what waits for it."""
    write_rate: int = 500
    """Bytes a second that a client must accept of what waits for it, after `write_timeout`: who accepts a byte now and then would
    hold a connection to the origin for ever."""
    drain_timeout: float = 30.0
    """How long requests in flight may go on after the order to stop."""
    linger_timeout: float = 2.0
    """How long the rest of an unread request body is read before the connection is closed."""
    max_connections: int = 10_000
    """Further connections are closed at once."""
    backlog: int = 1024
    read_buffer_bytes: int = 128 << 10
    """Request body bytes read ahead of the consumer."""
    h2c: bool = False
    """Whether clients without TLS may speak HTTP/2, which they must know (RFC 9113 section 3.3)."""
    http2_streams: int = 100
    """Requests under way at once on one HTTP/2 connection; more are refused, to be sent again."""
    http2_window_bytes: int = 1 << 20
    """Request body bytes read ahead on one HTTP/2 connection, of all its streams."""

    tunnels_per_site: int = 1000
    """Connections at once that have become WebSockets; for more: 503."""
    tunnel_idle_timeout: float = 60.0
    """How long neither side of one may say anything."""

    edge_id: str = "edgecache"
    """Our name in Via, Cache-Status, Forwarded and CDN-Loop; a token."""
    max_loops: int = 0
    """How often a request may have passed this edge before."""
    max_ranges: int = 16
    """Parts of one multipart/byteranges answer; more are answered whole."""
    error_page: str = ""
    """What browsers see for an error, with places that `policy.errorpage` fills; empty: the edge's own page."""
    fast_lane_heads: int = 32_768
    """Request heads, of up to 2 KiB each, whose hits are remembered; 0: every request takes the usual way."""
    fast_lane_bytes: int = 64 << 20
    """What they may take in memory; those of HTTPS as much again."""
    processes: int = 1
    """How many processes serve clients; 1: the one that does everything else, too."""
