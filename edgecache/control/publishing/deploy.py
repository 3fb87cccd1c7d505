"""From a pushed archive to a version that serves: parse, store, verify, activate, roll back, remove.

Raises `Problem` for what the pusher can mend, StateError for what the operator must. Verifies through the sandbox, publishes
through `publisher`. What happens to one generator happens one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol
from weakref import WeakValueDictionary

from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.control import words
from edgecache.control.bundle.bundles import Bundle, BundleError, BundleStore, parse_bundle
from edgecache.control.bundle.manifest import FILE_NAME, Manifest, read_manifest
from edgecache.control.problems import Code, Mistake, Problem, not_found
from edgecache.control.publishing.publisher import Publisher
from edgecache.control.publishing.splits import give
from edgecache.control.records import Draft, Generator, Verified, Version
from edgecache.control.settings import ControlSettings
from edgecache.control.state import Failure, Missing, State, StateError, TooMany
from edgecache.generate import cgi
from edgecache.policy.globs import has_inner_star, same
from edgecache.policy.message import Request
from edgecache.sites import Site
from edgecache.yamlform import FormError
from sandbox import End, GuestFailed, GuestRequest, ImageError, Limits, Program, SandboxError, Verification

_RECEIVED_PER_SITE: Final = 2
MAX_INNER_ROUTES: Final = 256
"""Of all active generators of a site together: routes with a `*` that is not their end. Each request is held against all of them,
while other sites' requests wait."""
_log: Final = logging.getLogger(__name__)

Readmit = Callable[[], Site]
"""Gives the site as it is now, if who asked for something may still have it. Raises Problem. Called anew after each wait."""


class Verifier(Protocol):
    """The one method of `sandbox.Monitor` that is used here."""

    async def verify(self, program: Program, limits: Limits, sample: GuestRequest) -> Verification: ...


class Deployer:
    """Everything that happens to generators and their versions."""

    def __init__(
        self,
        *,
        state: State,
        bundles: BundleStore,
        publisher: Publisher,
        verifier: Verifier,
        settings: ControlSettings,
        now: Callable[[], float],
    ) -> None:
        self._state = state
        self._bundles = bundles
        self._publisher = publisher
        self._verifier = verifier
        self._settings = settings
        self._now = now
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._storing = asyncio.Lock()
        self._working = asyncio.Semaphore(settings.pushes_at_once)
        self._receiving = asyncio.Semaphore(settings.pushes_received)
        self._receiving_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def receiving(self, site: Site) -> AsyncIterator[None]:
        """Room in memory for one archive, waited for: no site can take it all."""
        own = self._receiving_of.setdefault(site.name, asyncio.Semaphore(_RECEIVED_PER_SITE))
        async with own, self._receiving:
            yield

    async def push(self, readmit: Readmit, name: str, archive: bytes, *, activate: bool) -> tuple[Version, bool]:
        """The verified version that `archive` is, and whether it is new. Raises Problem, StateError."""
        async with self._locked(readmit().name, name), self._working:
            site = readmit()
            bundle, manifest = await self._read(site, name, archive)
            version = await self._store(site, name, bundle, manifest)
            new = version.verified is None
            if new:
                version = await self._verified(site, version, bundle)
            if activate:
                await self._activate(readmit, version, 100)
            pruned = await self._state.prune_versions(site.name, name, self._settings.versions_kept)
            if pruned:
                await self.collect()
        return version, new

    async def activate(self, readmit: Readmit, name: str, number: int, percent: int) -> None:
        """Raises Problem, StateError."""
        async with self._locked(readmit().name, name):
            site = readmit()
            version = await self._state.version(site.name, name, number)
            if version is None:
                raise not_found(f"version {number} of the generator {name}")
            await self._activate(readmit, version, percent)

    async def roll_back(self, readmit: Readmit, name: str) -> None:
        """Raises Problem, StateError."""
        async with self._locked(readmit().name, name):
            site = readmit()
            await self._check_routes(site.name, name)
            try:
                split = await self._state.roll_back(site.name, name)
            except Missing as error:
                raise not_found(f"generator {name}") from error
            if split is None:
                detail = f"nothing was active before on {name}"
                raise Problem(Code.NOTHING_TO_ROLL_BACK, detail, "activate the version that you want")
            await self._publisher.refresh(site.name)

    async def remove(self, readmit: Readmit, name: str) -> Site:
        """Remove it with its versions and values. Returns the site that it was of. Raises Problem, StateError."""
        async with self._locked(readmit().name, name):
            site = readmit()
            try:
                await self._state.remove_generator(site.name, name)
            except Missing as error:
                raise not_found(f"generator {name}") from error
            await self._publisher.refresh(site.name)
        await self.collect()
        return site

    async def generator(self, site: Site, name: str) -> tuple[Generator, tuple[Version, ...]]:
        """Raises Problem, StateError."""
        generator = await self._state.generator(site.name, name)
        if generator is None:
            raise not_found(f"generator {name}")
        return generator, await self._state.versions(site.name, name)

    async def collect(self) -> None:
        """Remove bundles that no version refers to. A disk that refuses is the operator's to know, and nobody's failure."""
        async with self._storing:
            referred = await self._state.digests()
            try:
                removed = await asyncio.to_thread(self._bundles.collect, referred)
            except OSError as error:
                _log.warning("unused bundles could not be removed: %s", error.strerror)
            else:
                if removed:
                    _log.info("%d unused bundles were removed", removed)

    async def _read(self, site: Site, name: str, archive: bytes) -> tuple[Bundle, Manifest]:
        try:
            bundle = await asyncio.to_thread(parse_bundle, archive, self._settings.bundles)
            manifest = await asyncio.to_thread(read_manifest, bundle, site.ceiling)
        except BundleError as error:
            raise Problem(Code.BAD_BUNDLE, str(error), "pack the bundle's directory as a tar file and push again") from error
        except FormError as error:
            raise _bad_manifest(error) from error
        if manifest.name != name:
            detail = f"the manifest's name is {manifest.name}, the push is for {name}"
            raise Problem(Code.BAD_MANIFEST, detail, "push to that name, or change the manifest", where=f"{FILE_NAME}: name")
        above = words.exceeding(manifest.limits, site.ceiling)
        if site.cap is not None and site.cap < manifest.limits.cpu_share < site.ceiling.cpu_share:
            # One that names no cap of its own has the ceiling's, and is held by the site's cap anyhow.
            above = (*above, ("cpu_share", manifest.limits.cpu_share, site.cap))
        if above:
            mistakes = tuple(
                Mistake(f"{word} is {asked}, the site's ceiling {most}", FILE_NAME, key=f"limits.{word}")
                for word, asked, most in above
            )
            detail = "limits above the site's ceiling: " + "; ".join(mistake.message for mistake in mistakes)
            advice = "lower them, or have the operator raise the site's ceiling"
            raise Problem(Code.LIMITS_EXCEED_CEILING, detail, advice, where=mistakes[0].key, mistakes=mistakes)
        return bundle, manifest

    async def _store(self, site: Site, name: str, bundle: Bundle, manifest: Manifest) -> Version:
        draft = Draft(
            site=site.name,
            generator=name,
            digest=bundle.digest,
            size_bytes=bundle.size_bytes,
            manifest=manifest,
            created=self._now(),
        )
        async with self._storing:
            await self._check_number(site, name)
            await self._check_bytes(site, bundle)
            try:
                await asyncio.to_thread(self._bundles.discard_damaged, bundle.digest)
                await asyncio.to_thread(self._bundles.put, bundle)
                return await self._state.add_version(draft)
            except OSError as error:
                _log.warning("a bundle could not be stored: %s", error)
                failure = Failure.FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else Failure.UNAVAILABLE
                raise StateError(failure, f"the bundle could not be stored: {error.strerror}") from error
            except Missing as error:
                raise not_found(f"site {site.name}") from error
            except TooMany as error:
                raise Problem(Code.TOO_MANY, str(error), "remove some first") from error

    async def _check_number(self, site: Site, name: str) -> None:
        """Whether the site may have this generator, new or not. Raises Problem, StateError."""
        known = await self._state.generators(site.name)
        if len(known) >= site.max_generators and all(generator.name != name for generator in known):
            most = site.max_generators
            detail = f"the site {site.name} has {len(known)} generators, and its max_generators is {most}: {name} is one more"
            advice = "remove a generator, or have the operator raise the site's max_generators"
            raise Problem(Code.TOO_MANY, detail, advice, where="max_generators")

    async def _check_bytes(self, site: Site, bundle: Bundle) -> None:
        """Whether the site may keep one more bundle. Raises Problem, StateError."""
        most = self._settings.bundles.site_bytes
        held = await self._state.bundle_bytes(site.name, but=bundle.digest)
        if held + bundle.size_bytes > most:
            detail = (
                f"the other bundles of {site.name} hold {held} bytes, this one has {bundle.size_bytes}, and {most} may be kept"
            )
            raise Problem(Code.TOO_MANY, detail, "remove generators, or leave out of bundles what they do not need")

    async def _verified(self, site: Site, version: Version, bundle: Bundle) -> Version:
        """`version`, verified; it is removed again when it fails, and kept as pushed when the sandbox could not try it."""
        program = version.manifest.program_of(bundle)
        try:
            async with asyncio.timeout(self._settings.verify_seconds):
                result = await self._verifier.verify(program, version.manifest.limits, sample_request(site, version.manifest))
            check_answer(result.output_head)
        except ImageError as error:
            raise await self._refuse(version, End.REJECTED, f"{version.manifest.program}: {error}") from error
        except cgi.BadAnswer as error:
            raise await self._refuse(version, End.BAD_ANSWER, str(error)) from error
        except GuestFailed as error:
            raise await self._refuse(version, error.outcome.end, error.outcome.detail) from error
        except (SandboxError, TimeoutError) as error:
            reason = str(error) or f"no result within {self._settings.verify_seconds:g} s"
            _log.warning("%s could not be verified: %s", version.key, reason)
            advice = "push the same bundle again; if it goes on, the operator should look at the edge's status"
            raise Problem(Code.VERIFICATION_UNAVAILABLE, f"the bundle could not be tried: {reason}", advice) from error
        passed = Verified(result.sample.usage.cpu_ns, result.sample.detail)
        await self._state.mark_verified(version, passed)
        found = await self._state.version(version.site, version.generator, version.version)
        if found is None:
            raise not_found(f"site {version.site}")
        return found

    async def _refuse(self, version: Version, end: End, detail: str) -> Problem:
        await self._state.remove_version(version.site, version.generator, version.version)
        await self.collect()
        path = version.manifest.sample.path
        said = f"{end}: {detail}" if detail else str(end)
        if end is End.REJECTED:
            refused = "the program cannot be loaded"
            advice = "build it with `edgecache generator build`, or link it statically for x86-64 Linux"
        else:
            refused = f"the program did not pass a sample request for {path}"
            advice = "mend the program, or set `sample` in the manifest to a request that it can answer"
        return Problem(
            Code.VERIFICATION_FAILED,
            f"{refused}: {said}",
            advice,
            where=version.manifest.program,
            outcome=str(end),
        )

    async def _activate(self, readmit: Readmit, version: Version, percent: int) -> None:
        if version.verified is None:
            detail = f"version {version.version} of {version.generator} was pushed and never verified"
            raise Problem(Code.NOT_VERIFIED, detail, "push its bundle again, so that it is verified")
        try:
            await asyncio.to_thread(self._bundles.get, version.digest)
        except BundleError as error:
            raise Problem(Code.NOT_VERIFIED, str(error), "push the bundle again") from error
        generator = await self._state.generator(version.site, version.generator)
        if generator is None:
            raise not_found(f"generator {version.generator}")
        await self._check_routes(version.site, version.generator)
        self._check_taken(version)
        split = give(generator.active, version.version, percent)
        if split is None:
            detail = f"no other version of {version.generator} is active to take the other {100 - percent} %"
            raise Problem(Code.CONFLICT, detail, "activate it with 100 percent", where="$.percent")
        readmit()
        await self._state.activate(version.site, version.generator, split)
        await self._publisher.refresh(version.site)

    async def _check_routes(self, site: str, name: str) -> None:
        """Whether any version of the generator may be active beside the site's others. Raises Problem, StateError."""
        versions = await self._state.versions(site, name)
        own = max((_inner_routes(version.manifest.routes) for version in versions), default=0)
        known = self._publisher.site(site)
        others = known.generators if known is not None else ()
        total = own + sum(_inner_routes(other.routes) for other in others if other.name != name)
        if own and total > MAX_INNER_ROUTES:
            detail = (
                f"the active generators of {site} would have {total} routes with a * before their end, at most {MAX_INNER_ROUTES}"
            )
            raise Problem(Code.TOO_MANY, detail, "use routes that end in their only *, or remove some", where="routes")

    def _check_taken(self, version: Version) -> None:
        """Whether another active generator has one of its routes: which of the two answered would be chance. Raises Problem.

        Not asked of a rollback, which must never fail for what others have done meanwhile.
        """
        site = self._publisher.site(version.site)
        active = [generator for generator in site.generators if generator.active] if site is not None else []
        own = {same(route) for generator in active if generator.name == version.generator for route in generator.routes}
        taken = {same(route): other.name for other in active if other.name != version.generator for route in other.routes}
        for route in version.manifest.routes:
            if same(route) not in own and (other := taken.get(same(route))) is not None:
                detail = f"the route {route} is that of the generator {other}, which is active"
                advice = f"give {version.generator} other routes, or activate a version of {other} without this one first"
                raise Problem(Code.ROUTE_TAKEN, detail, advice, where="routes")

    def _locked(self, site: str, name: str) -> asyncio.Lock:
        return self._locks.setdefault((site, name), asyncio.Lock())


def _inner_routes(routes: tuple[str, ...]) -> int:
    return sum(map(has_inner_star, routes))


def sample_request(site: Site, manifest: Manifest) -> GuestRequest:
    """The manifest's sample as the guest will see a GET for it on the site's first host."""
    host = site.hosts[0] if site.hosts else "localhost"
    authority = "localhost" if host == "*" else host.replace("*.", "www.")
    headers = CIMultiDictProxy(CIMultiDict([("Host", authority), *manifest.sample.headers]))
    request = Request("GET", "http", authority, manifest.sample.path, headers)
    return GuestRequest(cgi.environ(request, b"", client_ip="127.0.0.1", request_id="verification"))


def check_answer(output: bytes) -> None:
    """Raises cgi.BadAnswer unless `output` begins with a whole CGI head."""
    if cgi.parse(output) is None:
        raise cgi.BadAnswer("the output ended before a blank line: headers must end with one")


def _bad_manifest(error: FormError) -> Problem:
    mistakes = tuple(
        Mistake(problem.message, problem.source, problem.line, problem.column, problem.key) for problem in error.problems[:100]
    )
    first = error.problems[0]
    where = f"{first.source}:{first.line}:{first.column}" if first.line else first.source
    return Problem(Code.BAD_MANIFEST, str(first), f"correct {FILE_NAME} and push again", where=where, mistakes=mistakes)
