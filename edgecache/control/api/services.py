"""What the resources need, in one value. `service` fills it, handlers read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

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
    now: Callable[[], float]
    started: float
    metrics: Handler | None = None
