"""What is counted of the disk tier. Plain numbers; `observe` shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Of this process since its start."""

    hits: int = 0
    misses: int = 0
    written: int = 0
    refused: int = 0
    """Not written: the queue was full, there was no room, or the disk failed."""
    declined: int = 0
    """Not written: the tier was full, and nobody had asked for it before."""
    evicted: int = 0
    corrupt: int = 0
    """Dropped because a checksum was wrong."""
    purged: int = 0
    failures: int = 0
    """Batches that the operating system or LMDB refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskStats:
    """Counters of this process, and what the whole tier holds now, whoever stored it."""

    capacity_bytes: int
    used_bytes: int
    """Segments, with what is reserved for those being written, and the index."""
    objects: int
    segments: int
    purges_pending: int
    """Purges in force whose entries have not all been visited yet."""
    hits: int
    misses: int
    written: int
    refused: int
    declined: int
    evicted: int
    corrupt: int
    purged: int
    failures: int
    waiting_bytes: int
    """Bodies on their way to the disk."""
