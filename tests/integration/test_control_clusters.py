"""Clusters through the API: they reach the monitor at once, outlive the process, and no site is left without one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edgecache.control.database.schema import _STEPS
from edgecache.control.database.sqlite_state import SqliteState
from edgecache.control.settings import ControlSettings
from edgecache.sites import Cluster
from sandbox import ClusterShare
from tests.control_support import running


async def test_a_change_reaches_the_monitor_and_outlives_the_edge(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert api.sandbox.clusters == {"default": ClusterShare()}
        await api.call("PUT", "/v1/clusters/gold", {"weight": 3})
        await api.call("PATCH", "/v1/clusters/gold", {"cap": 80})
        await api.call("PATCH", "/v1/clusters/default", {"weight": 2})
        assert api.sandbox.clusters == {"gold": ClusterShare(3, 80), "default": ClusterShare(2)}
    async with running(tmp_path) as api:
        assert api.sandbox.clusters == {"gold": ClusterShare(3, 80), "default": ClusterShare(2)}
        assert (await api.call("DELETE", "/v1/clusters/gold")).status == 204
        assert (await api.call("DELETE", "/v1/clusters/default")).status == 204
        assert api.sandbox.clusters == {"default": ClusterShare()}


async def test_a_site_is_never_without_a_cluster(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        site = {"name": "shop", "hosts": ["shop.test"], "origins": ["http://127.0.0.1:1"], "cluster": "gold"}
        refused = await api.call("POST", "/v1/sites", site)
        assert (refused.status, refused.json["where"]) == (400, "$.cluster")
        await api.call("PUT", "/v1/clusters/gold", {})
        assert (await api.call("POST", "/v1/sites", site)).status == 201
        kept = await api.call("DELETE", "/v1/clusters/gold")
        assert (kept.status, kept.json["code"]) == (409, "conflict")
        await api.call("PATCH", "/v1/sites/shop", {"cluster": "default"})
        assert (await api.call("DELETE", "/v1/clusters/gold")).status == 204
        assert (await api.call("PUT", "/v1/clusters/Not-A-Name", {})).status == 404


async def test_a_database_of_the_first_schema_keeps_what_was_there(tmp_path: Path) -> None:
    settings = ControlSettings(state_dir=tmp_path)
    with sqlite3.connect(tmp_path / "state.sqlite") as old:
        old.executescript(_STEPS[0] + "PRAGMA user_version = 1;")
        definition = b'{"name":"shop","hosts":["shop.test"],"origins":[],"weight":7}'
        old.execute("INSERT INTO sites VALUES (?, ?)", ("shop", definition))
    old.close()
    state = SqliteState(settings)
    await state.open()
    (site,) = await state.sites()
    assert (site.name, site.weight, site.cluster, site.cap) == ("shop", 7, "default", None)
    await state.put_cluster(Cluster("gold", 3, 50))
    assert await state.clusters() == (Cluster("gold", 3, 50),)
    await state.close()
