"""Sites through the control API: made, changed in parts, shown, kept over a restart, and refused with the place that is wrong."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.policy.coding import Coding
from edgecache.policy.purging import Purge
from edgecache.policy.upgrading import Upgradable
from edgecache.policy.upstream import Balance, HealthRule
from edgecache.sites import Site
from sandbox.limits import DEFAULT_LIMITS, MIB
from tests.control_support import bundle, running

CONFIG = Site(name="conf", hosts=("conf.test",), origins=("http://127.0.0.1:1",), from_config=True)
BAD_SITES = {
    "unknown key": ({"host": ["a.test"]}, "did you mean hosts"),
    "unknown cache key": ({"cache": {"ttl": "60s"}}, "unknown key 'ttl'; known here: default_ttl"),
    "unknown key of a part of upstream": ({"upstream": {"health": {"xyzzy": 1}}}, "unknown key 'xyzzy'; known here: path"),
    "no unit": ({"cache": {"default_ttl": "60"}}, "has no unit"),
    "unknown coding": ({"cache": {"compress": ["deflate"]}}, "'deflate'; choose from gzip, br, zstd"),
    "coding twice": ({"cache": {"compress": ["br", "br"]}}, "twice"),
    "number for duration": ({"ceiling": {"cpu": 50}}, "ceiling.cpu"),
    "size": ({"ceiling": {"memory": "5000KB"}}, "multiple of 4KiB"),
    "wall below cpu": ({"ceiling": {"wall": "1ms"}}, "below cpu"),
    "host with port": ({"hosts": ["a.test:80"]}, "without a port"),
    "host twice": ({"hosts": ["a.test", "A.test"]}, "twice"),
    "no hosts": ({"hosts": []}, "must hold 1"),
    "origin": ({"origins": ["ftp://a"]}, "http://"),
    "origin with password": ({"origins": ["http://u:secret@a"]}, "no password"),
    "weight": ({"weight": 0}, "weight"),
    "origin twice": ({"origins": ["http://a", {"url": "http://a/", "weight": 2}]}, "twice"),
    "origin's weight": ({"origins": [{"url": "http://a", "weight": 0}]}, "origins[0].weight"),
    "prefetch": ({"cache": {"prefetch": 0.6}}, "$.cache.prefetch: must be true, false, or a number from 0 to 0.5"),
    "upstream": ({"upstream": {"health": {"interval": 5}}}, "upstream.health.interval"),
    "authority": ({"upstream": {"tls": {"ca": "/nonexistent/ca.pem"}}}, "$.upstream.tls.ca: /nonexistent/ca.pem does not exist"),
    "name": ({"name": "-"}, "a-z"),
    "wrong type": ({"hosts": "a.test"}, "$.hosts"),
}


@pytest.mark.parametrize("case", BAD_SITES)
async def test_a_bad_site_is_refused_with_the_place(tmp_path: Path, case: str) -> None:
    change, said = BAD_SITES[case]
    async with running(tmp_path) as api:
        answer = await api.site(**change)  # type: ignore[arg-type]
        assert (answer.status, answer.code) == (400, "bad-request"), answer.body
        assert said in str(answer.json["detail"])
        assert str(answer.json["where"]).startswith("$")
        assert "secret" not in answer.body.decode()
        assert api.table.snapshot.sites == ()


async def test_compression_is_switched_on_off_and_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        made = await api.site()
        assert made.json["cache"]["compress"] == []  # type: ignore[index,call-overload]
        await api.call("PATCH", "/v1/sites/shop", {"cache": {"compress": ["br", "gzip"]}})
    async with running(tmp_path) as api:
        (served,) = api.table.snapshot.sites
        assert served.rule.compress == (Coding.BR, Coding.GZIP)
        answer = await api.call("PATCH", "/v1/sites/shop", {"cache": {"compress": []}})
        assert answer.json["cache"]["compress"] == []  # type: ignore[index,call-overload]
        assert api.table.snapshot.sites[0].rule.compress == ()


async def test_prefetching_is_on_off_or_a_part(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site(cache={"prefetch": True})
        assert api.table.snapshot.sites[0].rule.prefetch == 0.1
        for value, share in ((False, 0.0), (0.25, 0.25), (0, 0.0)):
            shown = await api.call("PATCH", "/v1/sites/shop", {"cache": {"prefetch": value}})
            assert shown.json["cache"]["prefetch"] == share  # type: ignore[index,call-overload]


async def test_how_origins_are_asked_is_changed_in_parts_and_survives_a_restart(tmp_path: Path) -> None:
    origins = ["http://127.0.0.1:1", {"url": "http://127.0.0.1:2", "weight": 3}]
    async with running(tmp_path) as api:
        made = await api.site(origins=origins, upstream={"health": {"path": "/ready"}, "balance": "hash"})
        assert made.status == 201, made.body
        assert made.json["origins"] == origins
        await api.call("PATCH", "/v1/sites/shop", {"upstream": {"health": {"fall": 7}, "balance": None}})
    async with running(tmp_path) as api:
        (served,) = api.table.snapshot.sites
        assert served.origins == ("http://127.0.0.1:1", "http://127.0.0.1:2")
        assert served.upstream.health == HealthRule(path="/ready", fall=7)
        assert served.upstream.balance_of(served.origins) is Balance.WEIGHT
        shown = await api.call("PATCH", "/v1/sites/shop", {"origins": ["http://127.0.0.1:3"]})
        assert shown.json["origins"] == ["http://127.0.0.1:3"]
        assert shown.json["upstream"]["health"]["path"] == "/ready"  # type: ignore[index,call-overload]


async def test_a_site_comes_changes_and_goes(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        made = await api.site(weight=2, cache={"default_ttl": "1m", "tags": ["a"]})
        assert made.status == 201
        assert made.headers["Location"] == "/v1/sites/shop"
        served = api.table.snapshot.site_of("shop.test:8080")
        assert served is not None
        assert (served.weight, served.rule.default_ttl) == (2, 60.0)
        changed = await api.call("PATCH", "/v1/sites/shop", {"hosts": ["new.test"], "ceiling": {"memory": "128MiB"}})
        assert changed.json["hosts"] == ["new.test"]
        served = api.table.snapshot.site_of("new.test")
        assert served is not None
        assert (served.rule.default_ttl, served.ceiling.memory_bytes, served.weight) == (60.0, 128 * MIB, 2)
        assert api.table.snapshot.site_of("shop.test") is None
        token = await api.token_for("shop", "read")
        assert (await api.call("DELETE", "/v1/sites/shop")).status == 204
        assert api.table.snapshot.sites == ()
        assert (await api.call("GET", "/v1/sites/shop", token=token)).status == 401


async def test_a_host_belongs_to_one_site(tmp_path: Path) -> None:
    async with running(tmp_path, sites=[CONFIG]) as api:
        await api.site()
        taken = await api.site("other", hosts=["x.test", "shop.test"])
        assert (taken.code, taken.json["where"]) == ("host-taken", "$.hosts[1]")
        assert (await api.site("third", hosts=["conf.test"])).code == "host-taken"
        assert (await api.call("PATCH", "/v1/sites/shop", {"hosts": ["conf.test"]})).code == "host-taken"


async def test_a_configured_site_is_shown_and_changed_in_its_file(tmp_path: Path) -> None:
    async with running(tmp_path, sites=[CONFIG], settings={"config_file": Path("/etc/edge.yaml")}) as api:
        assert (await api.call("GET", "/v1/sites/conf")).json["from_config"] is True
        for method, body in (("PATCH", {"weight": 2}), ("DELETE", None)):
            answer = await api.call(method, "/v1/sites/conf", body)
            assert (answer.status, answer.code) == (409, "site-from-config")
            assert "/etc/edge.yaml" in str(answer.json["advice"])
        assert (await api.site("conf")).code == "exists"
        token = await api.token_for("conf", "push", "activate")
        assert (await api.push(bundle(), site="conf", query="?activate=true", token=token)).status == 201
        route = api.table.snapshot.route("conf.test", "/hello/x")
        assert route is not None
        assert route.generator is not None


async def test_what_was_made_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, sites=[CONFIG]) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        await api.push(bundle("other"), site="conf", name="other", query="?activate=true")
        before = api.table.snapshot
    async with running(tmp_path, sites=[CONFIG]) as api:
        assert {site.name: site for site in api.table.snapshot.sites} == {site.name: site for site in before.sites}
        assert sorted(api.sandbox.registered) == ["conf/other@1", "shop/hello@1"]
        assert api.sandbox.verified == []
        assert (await api.call("GET", "/v1/sites")).status == 200


async def test_where_a_file_and_the_api_disagree_the_file_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as api:
        await api.site("conf", hosts=["old.test"])
        await api.site("other", hosts=["conf.test", "other.test"])
    with caplog.at_level(logging.WARNING):
        async with running(tmp_path, sites=[CONFIG]) as api:
            found = api.table.snapshot.site_of("conf.test")
            assert found is not None
            assert found.name == "conf"
            assert api.table.snapshot.site_of("old.test") is None
            other = api.table.snapshot.site_of("other.test")
            assert other is not None
            assert other.hosts == ("other.test",)
    assert "hides the one added by the API" in caplog.text
    assert "not served for conf.test" in caplog.text


async def test_a_ceiling_that_sinks_holds_for_what_runs(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        assert api.sandbox.registered["shop/hello@1"][1] == DEFAULT_LIMITS
        await api.call("PATCH", "/v1/sites/shop", {"ceiling": {"memory": "8MiB"}, "weight": 7})
        assert api.sandbox.registered["shop/hello@1"][1] == replace(DEFAULT_LIMITS, memory_bytes=8 * MIB)
        assert api.sandbox.shares["shop"].weight == 7


async def test_two_sites_that_ask_for_a_host_at_once_do_not_both_get_it(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        answers = await asyncio.gather(*(api.site(f"s{number}", hosts=["one.test"]) for number in range(8)))
        assert sorted(answer.status for answer in answers) == [201] + [409] * 7
        assert len(api.table.snapshot.sites) == 1


async def test_the_same_site_made_twice_at_once_is_made_once(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        answers = await asyncio.gather(*(api.site() for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [201] + [409] * 7


async def test_who_may_use_the_method_purge_is_the_operators_to_say(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        changed = await api.call("PATCH", "/v1/sites/shop", {"access": {"purge": ["127.0.0.1", "2001:db8::/32"]}})
        assert changed.json["access"]["purge"] == ["127.0.0.1", "2001:db8::/32"]  # type: ignore[index]
        site = api.table.snapshot.site_of("shop.test")
        assert site is not None and site.access.purge == ("127.0.0.1", "2001:db8::/32")
        bad = await api.call("PATCH", "/v1/sites/shop", {"access": {"purge": ["everybody"]}})
        assert (bad.status, bad.json["where"]) == (400, "$.access.purge[0]")


async def test_what_connections_may_become_is_the_operators_to_say(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        created = await api.site()
        assert created.json["upgrade"] == []
        changed = await api.call("PATCH", "/v1/sites/shop", {"upgrade": ["websocket"]})
        assert changed.json["upgrade"] == ["websocket"]
        site = api.table.snapshot.site_of("shop.test")
        assert site is not None and site.upgrade == (Upgradable.WEBSOCKET,)
        assert (await api.call("PATCH", "/v1/sites/shop", {"upgrade": ["h2c"]})).status == 400
        assert (await api.call("PATCH", "/v1/sites/shop", {"upgrade": []})).json["upgrade"] == []


async def test_a_site_that_is_removed_takes_what_it_had_stored_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.site("other")
        assert (await api.call("DELETE", "/v1/sites/shop")).status == 204
        assert api.purges == [Purge(site="shop")]
