"""What is kept: entries and the tiers that hold them. No I/O with peers, no decisions about HTTP. `serve` calls it."""

from edgecache.store.contract import Make, Spool, Store
from edgecache.store.entry import Entry
from edgecache.store.eviction import AdmissionPolicy
from edgecache.store.memory import MemoryStore
from edgecache.store.purging import Purging
from edgecache.store.stats import StoreStats
from edgecache.store.stored_body import CorruptBody, StoredBody
from edgecache.store.tiered import TieredStore

__all__ = [
    "AdmissionPolicy",
    "CorruptBody",
    "Entry",
    "Make",
    "MemoryStore",
    "Purging",
    "Spool",
    "Store",
    "StoreStats",
    "StoredBody",
    "TieredStore",
]
