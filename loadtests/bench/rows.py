"""What is measured: each row's URLs, how often which is asked for, and the storage that the caches are given for it. Values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.wrk import FRESH, ZIPF

KIB: Final = 1 << 10
MIB: Final = 1 << 20


class Asked(enum.Enum):
    """Which of a row's URLs a request is for."""

    ONE = enum.auto()
    """Always the same."""
    ZIPF = enum.auto()
    """The n-th as often as 1/n."""
    FRESH = enum.auto()
    """None twice: every request is a miss."""


class Storage(enum.StrEnum):
    """Where the caches keep what they serve."""

    MEMORY = "memory"
    DISK = "disk"
    """Memory is a fraction of what is asked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, for every server alike."""

    name: str
    title: str
    size_bytes: int
    asked: Asked
    urls: int = 1
    """Number of distinct URLs that are stored before the first run."""
    storage: Storage = Storage.MEMORY

    @property
    def path(self) -> str:
        """The part that all its targets share; origin_sim serves it too."""
        size = f"{self.size_bytes // MIB}MiB" if self.size_bytes >= MIB else f"{self.size_bytes // KIB}KiB"
        return f"/file?_size={size}&_cc=public,max-age=86400&row={self.name}&n="

    def target(self, number: int | str) -> str:
        """Number from 1."""
        return f"{self.path}{number}"

    def script(self, folder: Path, run: int) -> Path | None:
        """What wrk asks for in one run, written to `folder`; None: always the first target."""
        match self.asked:
            case Asked.ONE:
                return None
            case Asked.ZIPF:
                text = ZIPF.format(count=self.urls, target=self.path)
            case Asked.FRESH:
                text = FRESH.format(target=f"{self.path}{run}-")
        path = folder / f"{self.name}-{run}.lua"
        path.write_text(text)
        return path


ROWS: Final = (
    Row("hits", "Hits, 1 KiB, one URL", KIB, Asked.ONE),
    Row("zipf", "Hits, 1 KiB, 10,000 URLs (Zipf)", KIB, Asked.ZIPF, urls=10_000),
    Row("large", "Hits, 1 MiB, one URL", MIB, Asked.ONE),
    Row("disk", "Hits, 1 MiB, 128 URLs (Zipf), disk", MIB, Asked.ZIPF, urls=128, storage=Storage.DISK),
    Row("misses", "Misses, 1 KiB", KIB, Asked.FRESH),
)
"""The disk row's memory is `DISK_ROW_MEMORY_BYTES`."""

DISK_ROW_MEMORY_BYTES: Final = 16 * MIB
STORE_BYTES: Final = 2048 * MIB
"""All misses of a row fit in it, so that each can be shown to have been stored."""
