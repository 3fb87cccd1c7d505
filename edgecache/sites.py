"""Sites, the generators that claim routes on them, and the table that finds both for a request.

Values and one holder of the current snapshot. `control` replaces the snapshot, `serve` reads it: a request sees one snapshot
from its first byte to its last.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from edgecache.policy.access import OPEN, AccessRule
from edgecache.policy.authority import host_of
from edgecache.policy.globs import GlobIndex
from edgecache.policy.paths import normal
from edgecache.policy.rule import DEFAULT_RULE, CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.policy.upstream import DEFAULT_UPSTREAM, UpstreamRule
from sandbox import DEFAULT_CLUSTER, DEFAULT_LIMITS, Limits

ANY_HOST = "*"
DEFAULT_MAX_GENERATORS = 1_000


class OnError(enum.StrEnum):
    """What a route does when its generator fails, tried in the order given."""

    STALE = "stale"
    ORIGIN = "origin"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """One version that receives traffic: its number and its part of it in percent."""

    version: int
    percent: int
    key: str
    """The name under which the monitor knows this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRoutes:
    """One generator as the request path sees it."""

    name: str
    routes: tuple[str, ...]
    """Path globs: `*` matches any run of characters, `/` included."""
    active: tuple[ActiveVersion, ...]
    rule: CacheRule
    on_error: tuple[OnError, ...] = (OnError.STALE, OnError.ORIGIN, OnError.ERROR)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of sites that share a part of the machine's CPU time."""

    name: str
    weight: int = 1
    cap: int | None = None
    """Percent of one CPU that it never exceeds; None: no cap."""
    from_config: bool = False
    """Declared in the configuration file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One owner's hosts, origins, rules and ceilings: the unit of tenancy."""

    name: str
    hosts: tuple[str, ...]
    """Lower-case host names, `*.example.org` for all below it, or `*` for any."""
    origins: tuple[str, ...]
    """Base URLs, tried in order unless `upstream` says otherwise."""
    upstream: UpstreamRule = DEFAULT_UPSTREAM
    weight: int = 1
    """Its share of its cluster."""
    cluster: str = DEFAULT_CLUSTER
    cap: int | None = None
    """Percent of one CPU that its generators never exceed; None: no cap."""
    rule: CacheRule = DEFAULT_RULE
    access: AccessRule = OPEN
    """Which clients may ask, and how often."""
    upgrade: tuple[Upgradable, ...] = ()
    """Protocols to which a client's connection may switch, through to the origins."""
    ceiling: Limits = DEFAULT_LIMITS
    """A manifest that asks for more is refused; its rates bound all the site's generators together, too."""
    max_generators: int = DEFAULT_MAX_GENERATORS
    """A push of one more is refused."""
    generators: tuple[GeneratorRoutes, ...] = ()
    from_config: bool = False
    """Declared in the configuration file: the API shows it and does not change it."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request belongs."""

    site: Site
    generator: GeneratorRoutes | None
    behind: CacheRule | None = None
    """The rule of what a generator asks its origin for under a URL that it answers itself."""
    rule: CacheRule = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", self.generator.rule if self.generator else self.behind or self.site.rule)


@dataclass(frozen=True)
class SiteSnapshot:
    """All sites at one moment, indexed by host."""

    sites: tuple[Site, ...] = ()

    @cached_property
    def _exact(self) -> dict[str, Site]:
        return {host: site for site in self.sites for host in site.hosts if not host.startswith("*")}

    @cached_property
    def _below(self) -> tuple[tuple[str, Site], ...]:
        pairs = [(host[1:], site) for site in self.sites for host in site.hosts if host.startswith("*.")]
        return tuple(sorted(pairs, key=lambda pair: -len(pair[0])))

    @cached_property
    def _any(self) -> Site | None:
        return next((site for site in self.sites if ANY_HOST in site.hosts), None)

    @cached_property
    def _claims(self) -> dict[str, _Claims]:
        """By name of a site, made when it is first asked for."""
        return {}

    @cached_property
    def _to_origins(self) -> dict[str, Route]:
        return {site.name: Route(site, None) for site in self.sites}

    def site_of(self, authority: str) -> Site | None:
        """The site that owns `authority` (host, or host and port): exact name, then the longest wildcard, then `*`."""
        host = host_of(authority).lower().rstrip(".")
        if site := self._exact.get(host):
            return site
        if not self._below:
            return self._any
        return next((site for suffix, site in self._below if host.endswith(suffix)), self._any)

    def _claims_of(self, site: Site) -> GlobIndex[GeneratorRoutes]:
        claims = self._claims.get(site.name)
        if claims is None:
            claims = self._claims[site.name] = _Claims(site.generators, _index(site.generators))
        return claims.globs

    def succeed(self, earlier: SiteSnapshot) -> None:
        """Take over what `earlier` has worked out for sites whose generators are still the same."""
        for site in self.sites:
            claims = earlier._claims.get(site.name)
            if claims is not None and claims.generators is site.generators:
                self._claims[site.name] = claims

    def sub_route(self, site: Site, authority: str, path: str) -> Route:
        """To the site's origins, for a sub-request of one of its generators."""
        public = self.route(authority, path)
        if public is None or public.generator is None:
            return Route(site, None)
        return Route(site, None, behind=replace(site.rule, behind=True))

    def route(self, authority: str, path: str) -> Route | None:
        """Site and generator for a request; the longest matching glob wins. None: no site has this host.

        What counts is what the path means: else the origin would answer in a generator's place, asked for it in other words.
        """
        site = self.site_of(authority)
        if site is None:
            return None
        if not site.generators:
            return self._to_origins[site.name]
        claims, meant = self._claims_of(site), normal(path)
        generator = claims.find(meant)
        if generator is None and meant != path:
            generator = claims.find(path)
        return self._to_origins[site.name] if generator is None else Route(site, generator)


@dataclass
class SiteTable:
    """Holder of the current snapshot; replacing it is one assignment, of which followers are told."""

    snapshot: SiteSnapshot = field(default_factory=SiteSnapshot)
    followers: list[Callable[[SiteSnapshot], None]] = field(default_factory=list)

    def replace(self, sites: Iterable[Site]) -> None:
        snapshot = SiteSnapshot(tuple(sites))
        snapshot.succeed(self.snapshot)
        self.snapshot = snapshot
        for follow in self.followers:
            follow(self.snapshot)


class _Claims(NamedTuple):
    """What one site's generators claim."""

    generators: tuple[GeneratorRoutes, ...]
    globs: GlobIndex[GeneratorRoutes]


def _index(generators: tuple[GeneratorRoutes, ...]) -> GlobIndex[GeneratorRoutes]:
    return GlobIndex((glob, generator) for generator in generators if generator.active for glob in generator.routes)
