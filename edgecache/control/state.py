"""What outlives the edge's process, behind one interface: sites, tokens, generators, versions, splits, values.

The protocol and its errors only; `sqlite_state` keeps it in one file, a fleet can keep it elsewhere. A write that returned
is durable.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Protocol

from edgecache.control.records import Draft, Generator, Split, Token, Verified, Version
from edgecache.sites import Cluster, Site


class Failure(enum.StrEnum):
    """Why state could not be read or written."""

    FULL = "full"
    READ_ONLY = "read-only"
    CORRUPT = "corrupt"
    BUSY = "busy"
    """Too much is waiting, or another process holds the database."""
    IN_USE = "in-use"
    """Another edge runs with this state."""
    CLOSED = "closed"
    UNAVAILABLE = "unavailable"


class StateError(Exception):
    """State could not be read or written. Nothing was changed, unless it was a timeout."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(f"state: {failure}: {detail}")
        self.failure = failure
        self.detail = detail


class Exists(Exception):
    """What was to be added is there already."""


class Missing(Exception):
    """What was to be changed is not there."""


class TooMany(Exception):
    """A bound would be passed. The message names it."""


class State(Protocol):
    """Durable state. Every method raises StateError; those that say so raise Exists, Missing or TooMany."""

    async def check(self) -> None:
        """Return when state can be written."""

    async def sites(self) -> tuple[Site, ...]:
        """Sites that were added through the API, without their generators."""

    async def declare(self, names: Iterable[str]) -> None:
        """Make room for generators and tokens of sites that are defined elsewhere."""

    async def put_site(self, site: Site, *, new: bool) -> None:
        """Add (`new`: raises Exists, TooMany) or change a site (raises Missing)."""

    async def remove_site(self, name: str) -> None:
        """With all that belongs to it. Raises Missing."""

    async def clusters(self) -> tuple[Cluster, ...]:
        """Those that were added or changed through the API, by name."""

    async def put_cluster(self, cluster: Cluster) -> None:
        """Add or change it. Raises TooMany."""

    async def remove_cluster(self, name: str) -> None:
        """Raises Missing."""

    async def tokens(self) -> tuple[Token, ...]: ...

    async def add_token(self, token: Token) -> None:
        """Add it; tokens that have expired by then are removed. Raises Missing where there is no such site, TooMany."""

    async def remove_token(self, token_id: str) -> None:
        """Raises Missing."""

    async def generators(self, site: str) -> tuple[Generator, ...]:
        """A site's, by name."""

    async def serving(self, site: str) -> tuple[tuple[Generator, tuple[Version, ...]], ...]:
        """A site's generators that have traffic, by name, each with the versions that have it."""

    async def generator(self, site: str, name: str) -> Generator | None: ...

    async def versions(self, site: str, generator: str) -> tuple[Version, ...]:
        """Newest first."""

    async def version(self, site: str, generator: str, version: int) -> Version | None: ...

    async def add_version(self, draft: Draft) -> Version:
        """The next version, or the one with the same digest. Makes the generator if need be. Raises Missing (site), TooMany."""

    async def mark_verified(self, version: Version, verified: Verified) -> None:
        """Raises Missing, also where the number has another content by now."""

    async def remove_version(self, site: str, generator: str, version: int) -> None:
        """The generator goes with its last version. Raises Missing; Exists while it is in a split, now or in its history."""

    async def prune_versions(self, site: str, generator: str, keep: int) -> tuple[int, ...]:
        """Remove all but the newest `keep` versions and those in a split, now or in its history. Returns the numbers that were
        removed."""

    async def activate(self, site: str, generator: str, split: Split) -> None:
        """Replace the split and remember the one before. Raises Missing."""

    async def roll_back(self, site: str, generator: str) -> Split | None:
        """Go back to the split remembered last, which is returned and forgotten. None: there is none. Raises Missing."""

    async def remove_generator(self, site: str, generator: str) -> None:
        """Raises Missing."""

    async def digests(self) -> frozenset[str]:
        """Of all versions."""

    async def bundle_bytes(self, site: str, but: str) -> int:
        """Of all files of a site's versions, equal bundles counted once, and that with the digest `but` not at all."""

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None: ...

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        """False when the generator's quota has no room."""

    async def close(self) -> None: ...
