"""The registry: the monitor knows what has traffic, learns the rest when asked, and forgets after a grace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.control.bundle.bundles import BundleError, BundleStore, make_bundle
from edgecache.control.bundle.manifest import read_manifest
from edgecache.control.publishing.registry import Registry, registration
from edgecache.control.records import Verified, Version
from edgecache.sites import Site
from sandbox import SiteShare
from sandbox.limits import DEFAULT_LIMITS, MIB
from tests.control_support import TrialSandbox, files

SITE = Site(name="shop", hosts=("shop.test",), origins=(), weight=5)


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    made = BundleStore(tmp_path)
    made.prepare()
    return made


def version(store: BundleStore, number: int = 1, text: str = "hello") -> Version:
    bundle = make_bundle(files(text=text))
    store.put(bundle)
    return Version(
        site="shop",
        generator="hello",
        version=number,
        digest=bundle.digest,
        size_bytes=bundle.size_bytes,
        manifest=read_manifest(bundle, DEFAULT_LIMITS),
        created=0.0,
        verified=Verified(1),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_is_wanted_is_registered_when_it_is_asked_for(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store)
    registry.want("shop", SiteShare(5), [registration(SITE, version(store))])
    assert sandbox.registered == {}
    assert await registry.ensure("shop/hello@1")
    assert list(sandbox.registered) == ["shop/hello@1"]
    assert sandbox.shares == {"shop": SiteShare(5)}
    assert not await registry.ensure("shop/hello@2")


async def test_what_lost_its_traffic_is_unregistered_after_a_grace(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store, grace_seconds=0.01)
    registry.want("shop", SiteShare(5), [registration(SITE, version(store))])
    await registry.ensure("shop/hello@1")
    registry.want("shop", SiteShare(5), [])
    assert list(sandbox.registered) == ["shop/hello@1"]
    assert await registry.ensure("shop/hello@1"), "a request that was routed before still finds it"
    await until(lambda: not sandbox.registered)
    assert not await registry.ensure("shop/hello@1")


async def test_what_is_wanted_again_within_the_grace_stays(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store, grace_seconds=0.01)
    wanted = registration(SITE, version(store))
    registry.want("shop", SiteShare(5), [wanted])
    await registry.ensure("shop/hello@1")
    registry.want("shop", SiteShare(5), [])
    registry.want("shop", SiteShare(5), [wanted])
    await asyncio.sleep(0.05)
    assert list(sandbox.registered) == ["shop/hello@1"]


async def test_new_limits_or_content_under_the_same_key_replace_it(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store)
    registry.want("shop", SiteShare(5), [registration(SITE, version(store))])
    await registry.ensure("shop/hello@1")
    lower = replace(SITE, ceiling=replace(DEFAULT_LIMITS, memory_bytes=MIB))
    registry.want("shop", SiteShare(5), [registration(lower, version(store, text="new"))])
    await registry.ensure("shop/hello@1")
    program, limits, _ = sandbox.registered["shop/hello@1"]
    assert (program.image, limits.memory_bytes) == (files(text="new")["hello"], MIB)


async def test_what_is_unwanted_while_it_loads_is_not_registered(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store)
    registry.want("shop", SiteShare(5), [registration(SITE, version(store))])
    loading = asyncio.ensure_future(registry.ensure("shop/hello@1"))
    await asyncio.sleep(0)
    registry.want("shop", SiteShare(5), [])
    assert not await loading
    assert sandbox.registered == {}


async def test_a_missing_bundle_is_told(store: BundleStore) -> None:
    registry = Registry(TrialSandbox(), store)
    registry.want("shop", SiteShare(5), [registration(SITE, replace(version(store), digest="0" * 64))])
    with pytest.raises(BundleError):
        await registry.ensure("shop/hello@1")
    (said,) = await registry.preload(5)
    assert said.startswith("shop/hello@1: the bundle")


async def test_a_changed_weight_reaches_the_monitor(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store)
    wanted = [registration(SITE, version(store))]
    registry.want("shop", SiteShare(5), wanted)
    await registry.ensure("shop/hello@1")
    registry.want("shop", SiteShare(9), wanted)
    assert sandbox.shares == {"shop": SiteShare(9)}


async def test_closing_forgets_what_was_to_come(store: BundleStore) -> None:
    sandbox = TrialSandbox()
    registry = Registry(sandbox, store, grace_seconds=0.01)
    registry.want("shop", SiteShare(5), [registration(SITE, version(store))])
    await registry.ensure("shop/hello@1")
    registry.want("shop", SiteShare(5), [])
    registry.close()
    await asyncio.sleep(0.05)
    assert list(sandbox.registered) == ["shop/hello@1"]
