"""Generators' stored values for the guests' kv_get and kv_put: broken state is an absent value or a refusal, not an exception.

Implements `generate.edge_calls.KeyValue` over `State`.
"""

from __future__ import annotations

import logging
from typing import Final

from edgecache.control.state import State, StateError

_log: Final = logging.getLogger(__name__)


class StoredValues:
    """What outlives a guest's request."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._failing = False
        self.failures = 0
        """Calls that state did not answer, since the start."""

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None:
        try:
            value = await self._state.kv_get(site, generator, key)
        except StateError as error:
            self._failed(error)
            return None
        self._failing = False
        return value

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        """False when the generator's quota, or the disk, has no room."""
        try:
            stored = await self._state.kv_put(site, generator, key, value)
        except StateError as error:
            self._failed(error)
            return False
        self._failing = False
        return stored

    def _failed(self, error: StateError) -> None:
        """Said once for each time that it begins: guests call often."""
        self.failures += 1
        if not self._failing:
            self._failing = True
            _log.warning("stored values are unavailable to guests: %s", error)
