"""What is kept: entries and the tier that holds them. No I/O with peers, no decisions about HTTP. `serve` calls it."""

from edgecache.store.entry import Entry
from edgecache.store.memory import MemoryStore, StoreStats
from edgecache.store.purging import Purging

__all__ = ["Entry", "MemoryStore", "Purging", "StoreStats"]
