"""What the operator may set about logging and tracing. Values only; `config` fills them, `access_log` and `tracing` read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The access log of one edge."""

    access: Path | None = None
    """Where the access log goes: a file, `-` for standard output, None for nowhere."""
    format: Literal["json"] = "json"
    """One JSON object a line."""
    queue: int = 10_000
    """Lines that may wait for a slow disk; further ones are dropped and counted."""
    query: bool = True
    """Whether the query of the URI is logged; without, it is cut off at the `?`."""
    uri_chars: int = 2048
    """Longer URIs are cut."""
    sample: float = 1.0
    """The part of all requests that is logged, from 0 to 1."""
    sample_sites: Mapping[str, float] = field(default_factory=dict)
    """Sites with a part of their own, by name."""
    slow_seconds: float = 1.0
    """Requests that took so long are logged always, as are those that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Where traces go, and which requests have one."""

    endpoint: str
    """URL of a collector, for OTLP over HTTP."""
    sample: float = 0.01
    """The part of all requests that is traced, from 0 to 1."""
    follow_clients: bool = False
    """Whether a client's traceparent with the flag `sampled` makes a request traced, whatever `sample` says."""
    hits_per_second: int = 50
    """Of the fast lane's hits, so many are traced at most: encoding a span takes as long as answering four of them."""
    service: str = "edgecache"
    """The attribute `service.name`."""
    queue: int = 4096
    """Spans that may wait for the collector; further ones are dropped and counted."""
    timeout_seconds: float = 5.0
    """For one batch, its repetitions included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveSettings:
    """What is told to others, beside metrics and log."""

    traces: TraceSettings | None = None
