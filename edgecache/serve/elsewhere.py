"""Flights of other processes that serve the same sites: who is about to fetch what another fetches waits for that instead.

The protocol and its values; `processes` implements it, `fetching` asks. Without other processes nobody does.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from edgecache.policy.message import Timed

MAX_BROUGHT_BYTES: Final = 1 << 20
"""A longer body is not handed from process to process: each fetches it."""


@dataclass(frozen=True, slots=True)
class Brought:
    """A response that another process has fetched and stored, and which requests it answers."""

    timed: Timed
    body: bytes
    vary: tuple[str, ...]
    variant: str
    detail: str


class Claim(Protocol):
    """The right to fetch, or what another has fetched."""

    @property
    def brought(self) -> Brought | None:
        """None: fetch, then `settle`."""

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it elsewhere."""

    def settle(self, brought: Brought | None) -> None:
        """Let those who wait have it; None: let them fetch for themselves. Only the first call counts."""


class Elsewhere(Protocol):
    """All other processes."""

    def hold(self, key: Hashable, uri: str) -> Claim | None:
        """As `claim`, at once: with nothing brought. None: another process fetches under `key`, or this one does."""

    async def claim(self, key: Hashable, uri: str) -> Claim:
        """Wait, for a bounded time, for whoever fetches under `key`. Raises nothing: when in doubt, fetch."""
