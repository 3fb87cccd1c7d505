"""What one serving process is told: its part of what the configuration grants the whole edge. Values and pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecache.config import CacheSettings, Config
from edgecache.observe.settings import LogSettings, ObserveSettings
from edgecache.serve.accepting.certificates import CertificateFiles
from edgecache.serve.settings import ServeSettings
from edgecache.upstream.settings import UpstreamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """What the path of a request is made of in one process."""

    cache: CacheSettings
    serve: ServeSettings
    upstream: UpstreamSettings
    log: LogSettings
    observe: ObserveSettings
    shared_log: bool = False
    """Other processes write to the same log."""
    certificates: tuple[CertificateFiles, ...] = ()
    """Of the listener for HTTPS; none: there is no such listener."""
    http2: bool = True
    """Offered to clients over TLS."""
    proxies: tuple[str, ...] = ()
    """As `Config.proxies`."""
    secure_proxies: tuple[str, ...] = ()
    """As `TlsSettings.proxies`."""


def undivided(config: Config) -> PathSettings:
    """For the one process of an edge."""
    return PathSettings(
        cache=config.cache,
        serve=config.serve,
        upstream=config.upstream,
        log=config.log,
        observe=config.observe,
        certificates=config.tls.certificates if config.tls is not None else (),
        http2=config.tls is None or config.tls.http2,
        proxies=config.proxies,
        secure_proxies=() if config.tls is None else config.tls.proxies,
    )


def divided(config: Config) -> PathSettings:
    """For one of `serve.processes`: memory and connections are divided, so that the edge as a whole keeps to its bounds."""
    given, count = undivided(config), config.serve.processes
    disk = given.cache.disk
    if disk is not None:
        disk = replace(disk, queue_bytes=disk.queue_bytes // count)
    return replace(
        given,
        shared_log=True,
        cache=replace(given.cache, memory_bytes=given.cache.memory_bytes // count, disk=disk),
        serve=replace(
            given.serve,
            max_connections=_ceil_div(given.serve.max_connections, count),
            fast_lane_heads=_ceil_div(given.serve.fast_lane_heads, count),
            fast_lane_bytes=given.serve.fast_lane_bytes // count,
        ),
        upstream=replace(
            given.upstream,
            max_connections=_ceil_div(given.upstream.max_connections, count),
            max_connections_per_origin=_ceil_div(given.upstream.max_connections_per_origin, count),
            flight_buffer_bytes=given.upstream.flight_buffer_bytes // count,
            background_limit=_ceil_div(given.upstream.background_limit, count),
        ),
    )


def _ceil_div(count: int, parts: int) -> int:
    return -(-count // parts)
