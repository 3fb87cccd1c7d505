"""What the resources need, in one value. `service` fills it, handlers read it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp.typedefs import Handler

from edgecache.control.clusters import Clusters
from edgecache.control.deploy import Deployer
from edgecache.control.logs import GuestLogs
from edgecache.control.publisher import Publisher
from edgecache.control.settings import ControlSettings
from edgecache.control.state import State
from edgecache.control.tokens import Tokens
from edgecache.policy.purging import Purge

StatusParts = Callable[[], Mapping[str, Mapping[str, object]]]
"""What the edge's other rooms say of themselves, by room; see `Status.parts` in openapi.yaml. Must be quick."""


_RECENT_SECONDS: Final = 1.0


class RecentParts:
    """What the edge's rooms have said within the last second: to ask them all takes longer the more generators there are, of all
    sites, and a site's owner may ask without end.
    """

    def __init__(self) -> None:
        self._parts: Mapping[str, Mapping[str, object]] = {}
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def parts(self, before: Callable[[], Awaitable[None]], ask: StatusParts) -> Mapping[str, Mapping[str, object]]:
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._until:
                await before()
                self._parts, self._until = ask(), loop.time() + _RECENT_SECONDS
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
    status_parts: StatusParts
    before_status: Callable[[], Awaitable[None]]
    """Awaited before `status_parts` is asked: whoever must be asked for figures is asked now."""
    recent: RecentParts = field(default_factory=RecentParts)
    """For those who may see a part of it."""
    now: Callable[[], float]
    started: float
    metrics: Handler | None = None
