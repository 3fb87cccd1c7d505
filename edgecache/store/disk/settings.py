"""What the operator may set about the disk tier, and sizes that follow from it. Values only; `config` fills them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIN_BYTES: Final = 16 << 20
FULL: Final = 0.95
"""Of what new bodies may take: from there on room is made before somebody asks for it."""
_SEGMENTS: Final = 64
"""Shared segments that a full tier has at least: each reclamation frees a small part of what is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    """Sizes in bytes. `path` belongs to the tier alone; every process of one edge names the same."""

    path: Path
    capacity_bytes: int
    """Segments and index together, at least MIN_BYTES."""
    large_bytes: int = 4 << 20
    """Longer bodies go to the disk while they arrive, and never whole into memory."""
    queue_bytes: int = 64 << 20
    """Bodies waiting to be written; what comes when they are more is not kept on disk."""

    @property
    def segment_bytes(self) -> int:
        """Where one shared segment ends and the next begins."""
        return min(max(self.capacity_bytes // _SEGMENTS, 256 << 10), 32 << 20)

    @property
    def content_bytes(self) -> int:
        """What new bodies and their rows may take; the rest is for what reclaiming moves."""
        return self.capacity_bytes - self.capacity_bytes // 16

    @property
    def batch(self) -> int:
        """Orders in one transaction, which copies each page that it changes: a small tier has no room for many copies."""
        return min(max(self.capacity_bytes >> 18, 64), 512)

    @property
    def map_bytes(self) -> int:
        """Address space for the index, which can never be larger than the tier; its file is only as large as its content."""
        return self.capacity_bytes
