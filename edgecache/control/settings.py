"""What an operator may set about the control API. Values only; `config` fills them in, `edge` passes them on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLimits:
    """Bounds of one pushed bundle."""

    upload_bytes: int = 32 << 20
    """Of the archive as sent."""
    uncompressed_bytes: int = 64 << 20
    """Of the archive once unpacked, and of all files together."""
    files: int = 1_000
    path_bytes: int = 255
    depth: int = 16
    """Directories above a file, and one."""
    site_bytes: int = 2 << 30
    """Of all files of all versions that one site keeps: those that have traffic are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Bounds of what is kept of one generator's log, and of how many generators' logs are kept."""

    lines: int = 2_000
    bytes: int = 256 << 10
    line_bytes: int = 4 << 10
    generators: int = 1_000
    """The log of the generator that was quiet longest goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValueLimits:
    """Bounds of the values that one generator keeps with kv_put."""

    key_bytes: int = 512
    value_bytes: int = 64 << 10
    total_bytes: int = 4 << 20
    """Keys and values together."""
    entries: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The control API of one edge."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 8081
    tls_certificate: Path | None = None
    """PEM chain; needed, with the key, to listen elsewhere than on loopback."""
    tls_key: Path | None = None
    metrics_public: bool = False
    """Whether /metrics needs no token also elsewhere than on loopback."""
    config_file: Path | None = None
    """Where the sites with `from_config` are declared; named in errors."""
    body_bytes: int = 256 << 10
    """Of a JSON request body."""
    body_seconds: float = 60.0
    """Within which a request body must have arrived."""
    idle_seconds: float = 60.0
    """For which a connection may wait for a request, the first too; within which its head must have arrived."""
    connections: int = 256
    """At once; of more, those that are idle longest are ended."""
    state_seconds: float = 10.0
    """Within which the database must have answered."""
    verify_seconds: float = 60.0
    """Within which a pushed bundle must have been verified."""
    pushes_at_once: int = 2
    """Archives unpacked and verified at a time; further pushes wait."""
    pushes_received: int = 16
    """Archives held in memory at a time, two of one site at most; further pushes wait before their bodies are read."""
    versions_kept: int = 20
    """Of one generator, besides those that are active or can be rolled back to."""
    rollback_depth: int = 10
    generators_per_site: int = 1_000
    sites: int = 10_000
    clusters: int = 1_000
    tokens: int = 10_000
    preload: int = 64
    """Active versions registered at start; the rest when they are first asked for."""
    bundles: BundleLimits = field(default_factory=BundleLimits)
    logs: LogLimits = field(default_factory=LogLimits)
    values: StoredValueLimits = field(default_factory=StoredValueLimits)
