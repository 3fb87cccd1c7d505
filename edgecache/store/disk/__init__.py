"""The disk tier: bodies in append-only segment files, everything else in an LMDB index beside them.

`tier` is its face on the event loop's thread; `worker` changes the disk, on a thread of its own; `index` and `segments` are the
two kinds of file, `row` is the format of what the index holds. Any number of processes share a directory.
"""

from edgecache.store.disk.settings import DiskSettings
from edgecache.store.disk.stats import DiskStats
from edgecache.store.disk.tier import DiskTier

__all__ = ["DiskSettings", "DiskStats", "DiskTier"]
