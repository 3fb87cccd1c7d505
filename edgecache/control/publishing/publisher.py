"""Keeps the table of sites that `serve` reads true to what is declared, stored and active; one site at a time.

Sites come from the configuration file and from `state`; where both claim a name or a host, the file wins. `deploy` and the sites
resource call it after each change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

from edgecache.control.bundle.bundles import BundleError
from edgecache.control.publishing.registry import Registration, Registry, registration
from edgecache.control.records import Generator, Version, version_key
from edgecache.control.state import State
from edgecache.policy.rule import CacheRule
from edgecache.sites import ActiveVersion, GeneratorRoutes, Site, SiteTable
from sandbox import SiteShare

_log: Final = logging.getLogger(__name__)


class Publisher:
    """All sites as they are served, and the one writer of the table."""

    def __init__(
        self,
        state: State,
        table: SiteTable,
        registry: Registry,
        config_sites: Iterable[Site],
        published: Callable[[], Awaitable[None]],
    ) -> None:
        """`published` is awaited after each change: it returns once all who serve have it."""
        self._state = state
        self._published = published
        self._table = table
        self._registry = registry
        self._config = {site.name: replace(site, from_config=True) for site in config_sites}
        self._sites: dict[str, Site] = dict(self._config)
        self._changing = asyncio.Lock()
        self.editing: Final = asyncio.Lock()
        """Held by whoever adds, changes or removes a site, from looking until it is published: two must not get one host."""
        self._publish()

    async def load(self) -> None:
        """Publish everything that `state` holds. Raises StateError; the configured sites are published in any case."""
        async with self._changing:
            await self._state.declare(self._config)
            stored = await self._state.sites()
            for site in (*stored, *self._config.values()):
                if site.name in self._config and not site.from_config:
                    _log.warning("site %s is declared in the configuration file, which hides the one added by the API", site.name)
                    continue
                self._sites[site.name] = await self._built(self._with_free_hosts(site))
            self._publish()
            await self._published()

    async def redeclare(self, config_sites: Iterable[Site]) -> None:
        """Take these in place of what was declared before, and publish. Raises StateError, and nothing is changed."""
        async with self.editing, self._changing:
            declared = {site.name: replace(site, from_config=True) for site in config_sites}
            await self._state.declare(declared)
            stored = await self._state.sites()
            before, self._config = self._config, declared
            try:
                wanted = (*(site for site in stored if site.name not in declared), *declared.values())
                read = [await self._read(self._with_free_hosts(site)) for site in wanted]
            except BaseException:
                self._config = before
                raise
            sites = {site.name: self._wanted(site, versions) for site, versions in read}
            for name in self._sites.keys() - sites.keys():
                self._registry.want(name, SiteShare(), ())
            self._sites = sites
            self._publish()
            await self._published()

    def site(self, name: str) -> Site | None:
        return self._sites.get(name)

    def sites(self) -> tuple[Site, ...]:
        """By name."""
        return tuple(self._sites[name] for name in sorted(self._sites))

    def owner_of(self, hosts: Iterable[str], but: str) -> tuple[str, str] | None:
        """The first of `hosts` that a site other than `but` has, and that site."""
        taken = {host: site.name for site in self._sites.values() if site.name != but for host in site.hosts}
        return next(((host, taken[host]) for host in hosts if host in taken), None)

    async def put(self, site: Site) -> Site:
        """Publish a site that was added or changed."""
        async with self._changing:
            return await self._put(site)

    async def refresh(self, name: str) -> Site | None:
        """Publish what is active on a site now. None: it was removed meanwhile."""
        async with self._changing:
            site = self._sites.get(name)
            return None if site is None else await self._put(site)

    async def drop(self, name: str) -> None:
        async with self._changing:
            self._sites.pop(name, None)
            self._publish()
            self._registry.want(name, SiteShare(), ())
            await self._published()

    async def _put(self, site: Site) -> Site:
        built = await self._built(site)
        for generator in built.generators:
            for version in generator.active:
                try:
                    await self._registry.ensure(version.key)
                except BundleError as error:
                    _log.error("%s cannot run: %s", version.key, error)
        self._sites[site.name] = built
        self._publish()
        await self._published()
        return built

    async def _built(self, site: Site) -> Site:
        """The site with its active generators; their versions are wanted from here on."""
        return self._wanted(*await self._read(site))

    async def _read(self, site: Site) -> tuple[Site, list[Registration]]:
        """The site with its active generators, and their versions."""
        routes: list[GeneratorRoutes] = []
        wanted: list[Registration] = []
        for generator, versions in await self._state.serving(site.name):
            routes.append(generator_routes(site, generator, versions))
            wanted.extend(registration(site, version) for version in versions)
        return replace(site, generators=tuple(routes)), wanted

    def _wanted(self, site: Site, versions: list[Registration]) -> Site:
        """The same site: its share holds, and these versions are wanted, from here on."""
        self._registry.want(site.name, SiteShare(site.weight, site.cluster, site.cap, site.ceiling.rates), versions)
        return site

    def _with_free_hosts(self, site: Site) -> Site:
        if site.from_config:
            return site
        taken = {host for other in self._config.values() for host in other.hosts}
        lost = taken.intersection(site.hosts)
        if lost:
            _log.warning(
                "site %s is not served for %s: the configuration (its file, or --origin) gives that to another",
                site.name,
                ", ".join(sorted(lost)),
            )
        return replace(site, hosts=tuple(host for host in site.hosts if host not in taken))

    def _publish(self) -> None:
        self._table.replace(self._sites.values())


def generator_routes(site: Site, generator: Generator, versions: tuple[Version, ...]) -> GeneratorRoutes:
    """The generator as the request path sees it. Routes and rules are those of the version with most of the traffic."""
    percent = {portion.version: portion.percent for portion in generator.active}
    main = max(versions, key=lambda version: (percent[version.version], version.version)).manifest
    return GeneratorRoutes(
        name=generator.name,
        routes=main.routes,
        active=tuple(
            ActiveVersion(version.version, percent[version.version], version_key(site.name, generator.name, version.version))
            for version in versions
        ),
        rule=_under(site.rule, main.rule),
        on_error=main.on_error,
    )


def _under(site: CacheRule, own: CacheRule) -> CacheRule:
    """A generator's rule within its site's, whose tags are added; its words on cookies, reloads, sizes, prefetching and
    compression hold."""
    return replace(
        own,
        prefetch=site.prefetch,
        tags=tuple(dict.fromkeys((*own.tags, *site.tags))),
        max_object_bytes=min(own.max_object_bytes, site.max_object_bytes),
        store_set_cookie=own.store_set_cookie and site.store_set_cookie,
        honour_client_reload=site.honour_client_reload,
        forward_ranges=site.forward_ranges,
        esi=site.esi,
        esi_undeclared=site.esi_undeclared,
        compress=site.compress,
    )
