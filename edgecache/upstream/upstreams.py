"""The pools of all sites, kept true to the table of sites: made at a site's first request, dropped with it.

`processes.path` makes one. `of` is what `serve` calls when it needs an origin; `follow` is told of each new snapshot, for the
health checks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from edgecache.policy.upstream import HealthRule, UpstreamRule
from edgecache.sites import Site, SiteSnapshot
from edgecache.upstream.checking import Checks
from edgecache.upstream.choosing.ejection import Ejection
from edgecache.upstream.choosing.figures import OriginFigures
from edgecache.upstream.choosing.pool import Pool
from edgecache.upstream.endpoint import Endpoint
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.origins import Origins

_log: Final = logging.getLogger(__name__)


class Upstreams:
    """`clock` in seconds; `pause` waits as long as it is told."""

    def __init__(
        self,
        client: OriginClient,
        *,
        clock: Callable[[], float] | None = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._clock = clock or asyncio.get_running_loop().time
        self._reach = Ejection(client.settings.ejection_failures, client.settings.ejection_time)
        self._pools: dict[str, tuple[Pool, Origins]] = {}
        self._checks = Checks(self._probe, limit=client.settings.health_checks, pause=pause)
        self._warned: set[str] = set()

    def of(self, site: Site) -> Origins:
        """The site's origins. What is known of them outlives a change of the site."""
        found = self._pools.get(site.name)
        if found is not None:
            pool, origins = found
            if pool.urls == site.origins and (pool.rule is site.upstream or pool.rule == site.upstream):
                return origins
        known = {member.endpoint: member for member in found[0].members} if found is not None else None
        pool = Pool(site.origins, site.upstream, reach=self._reach, clock=self._clock, down=self._down, known=known)
        origins = Origins(self._client, pool)
        self._pools[site.name] = pool, origins
        return origins

    def through(self, client: OriginClient, site: Site) -> Origins:
        """The site's origins, asked through connections of `client`; all else about them is shared."""
        self.of(site)
        return Origins(client, self._pools[site.name][0])

    def follow(self, snapshot: SiteSnapshot) -> None:
        """Check what these sites want checked, and forget the sites that are gone."""
        names = {site.name for site in snapshot.sites}
        for gone in self._pools.keys() - names:
            del self._pools[gone]
        self._checks.follow(
            (Endpoint(origin.url, site.upstream.tls, origin.proxy_protocol), site.upstream.health)
            for site in snapshot.sites
            if site.upstream.health is not None
            for origin in site.upstream.members(site.origins)
        )
        for site in snapshot.sites:
            if site.upstream.health is not None:
                self.of(site)
            if site.upstream.tls.insecure_skip_verify and site.name not in self._warned:
                _log.warning(
                    "site %s: insecure_skip_verify: anybody in between can read and change what its origins send", site.name
                )
                self._warned.add(site.name)
        self._warned &= names

    def use(self, client: OriginClient) -> None:
        """Ask through `client` from here on. What is known of the origins stays."""
        self._client = client
        self._reach.change(client.settings.ejection_failures, client.settings.ejection_time)
        self._checks.change(client.settings.health_checks)
        self._pools = {name: (pool, Origins(client, pool)) for name, (pool, _) in self._pools.items()}

    def figures(self) -> tuple[OriginFigures, ...]:
        """Of every origin of the sites that were asked for since they were added."""
        return tuple(row for name, (pool, _) in self._pools.items() for row in pool.figures(name))

    async def close(self) -> None:
        """End the health checks."""
        await self._checks.close()

    async def _probe(self, endpoint: Endpoint, rule: HealthRule) -> bool:
        return await self._client.probe(endpoint, rule)

    def _down(self, endpoint: Endpoint, rule: UpstreamRule) -> bool:
        return rule.health is not None and self._checks.down(endpoint, rule.health)
