"""Python's cyclic garbage collector, kept from holding up requests: what has lived long is not looked at again.

A full collection takes half a microsecond an object, and a stored response is some of them: by itself it would stop an edge with
200,000 responses for a good part of a second, again and again while the cache fills. `lifetime.run` and each serving process keep
one of these. What a response is made of is marked `acyclic`, which keeps compiled classes out of the collector's sight.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Final, NoReturn

_YOUNG: Final = 1_000
"""Objects made, less those freed, before the youngest are looked at."""
_ROUNDS: Final = 10
"""Of the youngest: then some 10,000 objects have outlived one, and looking at them takes some 5 ms."""
_NEVER: Final = 2**31 - 1
_LOOK_SECONDS: Final = 0.1
_GENERATIONAL: Final = sys.version_info < (3, 14)
"""Later collectors work in increments by themselves."""


class Heap:
    """The heap of this process. `begin` once everything is loaded, then `look` now and then."""

    def begin(self) -> None:
        """From now on all but the youngest objects are looked at by `look` alone."""
        if _GENERATIONAL:
            gc.collect()
            gc.freeze()
            gc.set_threshold(_YOUNG, _NEVER, _NEVER)

    def look(self) -> bool:
        """Where enough has grown old, collect among it once, and set the rest apart. Whether it did so.

        What is set apart is still freed when its last reference goes, as a stored response is. Only a cycle that is cut off later
        stays: of what lives long, the edge makes none.
        """
        if not _GENERATIONAL or gc.get_count()[1] < _ROUNDS:
            return False
        # Not a full collection, though nothing older is left: that one forgets dicts whose items need no looking at, and with the
        # next item they are young again (gcmodule.c, untrack_dicts). All of the store was gone through, ten times a second.
        gc.collect(1)
        gc.freeze()
        return True

    async def keep(self) -> NoReturn:
        """Begin, and look until cancelled."""
        self.begin()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()
