"""What the resources need, in one value. `service` fills it, handlers read it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp.typedefs import Handler

from edgecache.control.clusters import Clusters
from edgecache.control.logs import GuestLogs
from edgecache.control.publishing.deploy import Deployer
from edgecache.control.publishing.publisher import Publisher
from edgecache.control.settings import ControlSettings
from edgecache.control.state import State
from edgecache.control.tokens import Tokens
from edgecache.policy.purging import Purge

StatusParts = Callable[[], Mapping[str, Mapping[str, object]]]
"""What the edge's other rooms say of themselves, by room; see `Status.parts` in openapi.yaml. Must be quick."""
_RECENT_SECONDS: Final = 1.0


def _no_parts() -> Mapping[str, Mapping[str, object]]:
    return {}


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The edge's other rooms, as far as the API tells of them."""

    gather: Callable[[], Awaitable[None]] = _nothing
    """Awaited before `parts` is asked: whoever must be asked for figures is asked now."""
    parts: StatusParts = _no_parts
    metrics: Handler | None = None
    """Answers /metrics; None: nothing does."""


class RecentParts:
    """What the edge's rooms have said within the last second: to ask them all takes longer the more generators there are, of all
    sites, and a site's owner may ask without end.
    """

    def __init__(self) -> None:
        self._parts: Mapping[str, Mapping[str, object]] = {}
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def parts(self, rooms: Rooms) -> Mapping[str, Mapping[str, object]]:
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._until:
                await rooms.gather()
                self._parts, self._until = rooms.parts(), loop.time() + _RECENT_SECONDS
            return self._parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts behind the API."""

    settings: ControlSettings
    state: State
    tokens: Tokens
    publisher: Publisher
    clusters: Clusters
    deployer: Deployer
    logs: GuestLogs
    purge: Callable[[Purge], Awaitable[int]]
    rooms: Rooms
    recent: RecentParts = field(default_factory=RecentParts)
    """For those who may see a part of it."""
    now: Callable[[], float]
    started: float
