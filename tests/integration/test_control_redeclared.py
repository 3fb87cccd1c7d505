"""The configuration read again: all that it declares is in force then, or, where state cannot be read, nothing of it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.control.state import Failure, StateError
from edgecache.sites import Cluster, Site
from sandbox import ClusterShare, SiteShare
from tests.control_support import Api, bundle, running

SHOP = Site(name="shop", hosts=("shop.test",), origins=("http://127.0.0.1:1",))
WIKI = Site(name="wiki", hosts=("wiki.test",), origins=("http://127.0.0.1:1",))
GOLD = Cluster("gold", weight=300)
MOVED = replace(SHOP, hosts=("shop.example",), weight=7, cluster="gold")


async def push_to_both(api: Api) -> None:
    for site in ("shop", "wiki"):
        pushed = await api.push(bundle(text=site), site=site, query="?activate=true")
        assert pushed.status == 201, pushed.body


async def test_sites_and_clusters_are_those_that_are_declared_now(tmp_path: Path) -> None:
    async with running(tmp_path, sites=(SHOP, WIKI)) as api:
        await push_to_both(api)
        await api.control.redeclare((MOVED,), (GOLD,))
        assert api.table.snapshot.route("shop.example", "/") is not None
        assert api.table.snapshot.route("wiki.test", "/") is None
        assert api.sandbox.clusters["gold"] == ClusterShare(300, None)
        assert (api.sandbox.shares["shop"].weight, api.sandbox.shares["shop"].cluster) == (7, "gold")
        await api.control.redeclare((SHOP, WIKI), ())
        assert "gold" not in api.sandbox.clusters
        assert api.sandbox.shares["shop"].cluster == SiteShare().cluster


async def test_state_that_cannot_be_read_leaves_all_as_it_was(tmp_path: Path) -> None:
    """Not the sites that were read before it, with the shares that they were to have, and not the clusters."""
    async with running(tmp_path, sites=(SHOP, WIKI)) as api:
        await push_to_both(api)
        before = dict(api.sandbox.clusters), dict(api.sandbox.shares), api.table.snapshot
        with sqlite3.connect(tmp_path / "state.sqlite") as damaging:
            damaging.execute("UPDATE generators SET active = x'7b' WHERE site = 'wiki'")
        damaging.close()
        for _ in range(2):
            with pytest.raises(StateError) as error:
                await api.control.redeclare((MOVED, WIKI), (GOLD,))
            assert error.value.failure is Failure.CORRUPT
            assert (dict(api.sandbox.clusters), dict(api.sandbox.shares), api.table.snapshot) == before
        assert (await api.call("GET", "/v1/clusters/gold")).status == 404
