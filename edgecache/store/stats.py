"""What the memory tier tells about itself, to metrics and to other processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since the start, and what is held now."""

    capacity_bytes: int
    used_bytes: int
    entries: int
    uris: int
    tags: int
    stored: int
    evicted: int
    refused: int
    """Entries larger than the whole tier, or than its largest share for one entry."""
    purged: int
