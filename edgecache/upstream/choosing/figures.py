"""What is told of one origin of one site, to metrics and status. A value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginFigures:
    """Counts since the site was first asked for."""

    site: str
    url: str
    state: str
    """A word of `balancing.Condition`."""
    backup: bool
    requests: int
    """Sent, each retry and hedge included."""
    failures: int
    retries: int
    """Sent because another attempt had failed."""
    hedges: int
    """Sent because another attempt took long."""
    connections: int
    """Requests under way now, each on a connection of its own."""
    pending: int
    """Requests that wait for one of these to end."""
