"""Which versions the monitor knows. Wanted is what has traffic; a version is registered when it is first needed, or at start.

Bundles are read from disk, proven by their digest and not verified again. `publisher` says what is wanted; who calls a generator
asks with `ensure` first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from edgecache.control.bundle.bundles import BundleStore
from edgecache.control.records import Version
from edgecache.control.words import within
from edgecache.sites import Site
from sandbox import Limits, Program, SiteShare

_GRACE_SECONDS: Final = 10.0
"""A version that lost its traffic stays registered this long: requests that were routed to it may still be on their way."""


class Registrar(Protocol):
    """The methods of `sandbox.Monitor` that are used here."""

    def register(self, key: str, program: Program, limits: Limits, *, tenant: str, weight: int = 100) -> None: ...

    def unregister(self, key: str) -> None: ...

    def set_tenant_share(self, tenant: str, share: SiteShare) -> None:
        """Raises KeyError where the tenant has nothing registered, or there is no such cluster."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How one version is to be known."""

    key: str
    digest: str
    version: Version
    limits: Limits
    tenant: str


def registration(site: Site, version: Version) -> Registration:
    """Limits are lowered to the site's ceiling as it is now: it may have sunk since the push."""
    limits = within(version.manifest.limits, site.ceiling)
    return Registration(version.key, version.digest, version, limits, site.name)


class Registry:
    """Wanted and registered versions. All methods belong to the event loop's thread."""

    def __init__(self, registrar: Registrar, bundles: BundleStore, grace_seconds: float = _GRACE_SECONDS) -> None:
        self._registrar = registrar
        self._bundles = bundles
        self._grace_seconds = grace_seconds
        self._shares: dict[str, SiteShare] = {}
        self._keys: dict[str, set[str]] = {}
        """What is wanted of each site."""
        self._wanted: dict[str, Registration] = {}
        self._registered: dict[str, Registration] = {}
        self._retiring: dict[str, asyncio.TimerHandle] = {}
        self._loading = asyncio.Lock()

    def want(self, site: str, share: SiteShare, registrations: Iterable[Registration]) -> None:
        """Replace what is wanted of `site`, and its share. What is wanted no longer is unregistered after a grace."""
        self._shares[site] = share
        wanted = {item.key: item for item in registrations}
        for key in self._keys.pop(site, set()) - wanted.keys():
            del self._wanted[key]
            self._retire(key)
        self._wanted.update(wanted)
        if wanted:
            self._keys[site] = set(wanted)
        for key in wanted:
            if handle := self._retiring.pop(key, None):
                handle.cancel()
        if not self._registered.keys().isdisjoint(wanted):
            self._weigh(site)
        if not wanted:
            self._shares.pop(site, None)

    def knows(self, key: str) -> bool:
        """Whether `ensure` has nothing to do."""
        wanted = self._wanted.get(key)
        return wanted is not None and self._registered.get(key) is wanted

    async def ensure(self, key: str) -> bool:
        """Whether the monitor knows `key` now; registers it if it is wanted and not yet known.

        Raises BundleError where its bundle is missing or damaged on disk.
        """
        wanted = self._wanted.get(key)
        if wanted is None:
            return key in self._registered
        if self._registered.get(key) is wanted:
            return True
        async with self._loading:
            wanted = self._wanted.get(key)
            if wanted is None:
                return key in self._registered
            if self._registered.get(key) == wanted:
                self._registered[key] = wanted
            else:
                program = await asyncio.to_thread(self._program, wanted)
                if self._wanted.get(key) != wanted:
                    return key in self._registered
                self._register(wanted, program)
        return True

    async def preload(self, most: int) -> tuple[str, ...]:
        """Register up to `most` wanted versions; those that cannot be, as messages."""
        failed: list[str] = []
        for key in list(self._wanted)[:most]:
            try:
                await self.ensure(key)
            except Exception as error:
                failed.append(f"{key}: {error}")
        return tuple(failed)

    def close(self) -> None:
        for handle in self._retiring.values():
            handle.cancel()
        self._retiring.clear()

    def _program(self, wanted: Registration) -> Program:
        return wanted.version.manifest.program_of(self._bundles.get(wanted.digest))

    def _register(self, wanted: Registration, program: Program) -> None:
        if wanted.key in self._registered:
            self._registrar.unregister(wanted.key)
            del self._registered[wanted.key]
        self._registrar.register(wanted.key, program, wanted.limits, tenant=wanted.tenant)
        self._weigh(wanted.tenant)
        self._registered[wanted.key] = wanted

    def _weigh(self, tenant: str) -> None:
        with contextlib.suppress(KeyError):  # its last program is just leaving
            self._registrar.set_tenant_share(tenant, self._shares.get(tenant, SiteShare()))

    def _retire(self, key: str) -> None:
        if key in self._registered and key not in self._retiring:
            self._retiring[key] = asyncio.get_running_loop().call_later(self._grace_seconds, self._unregister, key)

    def _unregister(self, key: str) -> None:
        self._retiring.pop(key, None)
        if self._registered.pop(key, None) is not None:
            self._registrar.unregister(key)
