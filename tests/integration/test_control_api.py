"""The control API through a real socket: who may do what, what is refused and how, and that the edge serves on."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import pytest

from edgecache.control.service import Control
from edgecache.control.settings import BundleLimits, ControlSettings
from edgecache.control.sqlite_state import DATABASE
from edgecache.control.state import StateError
from edgecache.policy.coding import Coding
from edgecache.policy.purging import Purge
from edgecache.policy.upgrading import Upgradable
from edgecache.policy.upstream import Balance, HealthRule
from edgecache.sites import Site, SiteTable
from sandbox.limits import DEFAULT_LIMITS, MIB
from tests.control_support import Api, TrialSandbox, bundle, purge_nothing, running

CONFIG = Site(name="conf", hosts=("conf.test",), origins=("http://127.0.0.1:1",), from_config=True)
VERBS = ("push", "activate", "purge", "logs", "read")

REQUESTS = (
    ("GET", "/v1/sites/{site}", "read"),
    ("GET", "/v1/sites/{site}/generators", "read"),
    ("GET", "/v1/sites/{site}/generators/hello", "read"),
    ("GET", "/v1/sites/{site}/generators/hello/versions", "read"),
    ("GET", "/v1/sites/{site}/generators/hello/versions/1", "read"),
    ("GET", "/v1/sites/{site}/generators/hello/logs", "logs"),
    ("POST", "/v1/sites/{site}/generators/hello/versions", "push"),
    ("POST", "/v1/sites/{site}/generators/hello/activate", "activate"),
    ("POST", "/v1/sites/{site}/generators/hello/rollback", "activate"),
    ("DELETE", "/v1/sites/{site}/generators/hello", "activate"),
)
OPERATORS = (
    ("POST", "/v1/sites"),
    ("PATCH", "/v1/sites/shop"),
    ("DELETE", "/v1/sites/shop"),
    ("GET", "/v1/tokens"),
    ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens/x"),
)


@pytest.mark.parametrize(("method", "path", "verb"), REQUESTS)
async def test_a_verb_is_needed_and_suffices(tmp_path: Path, method: str, path: str, verb: str) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle())
        without = await api.token_for("shop", *(other for other in VERBS if other != verb))
        alone = await api.token_for("shop", verb)
        refused = await api.call(method, path.format(site="shop"), token=without)
        assert (refused.status, refused.code) == (403, "forbidden")
        assert verb in str(refused.json["detail"])
        assert (await api.call(method, path.format(site="shop"), token=alone)).status not in {401, 403, 404}


@pytest.mark.parametrize(("method", "path", "verb"), REQUESTS)
async def test_anothers_site_answers_like_none(tmp_path: Path, method: str, path: str, verb: str) -> None:
    async with running(tmp_path, sites=[CONFIG]) as api:
        await api.site()
        await api.site("other")
        await api.push(bundle(), site="other")
        token = await api.token_for("shop", *VERBS)
        answers = [
            await api.call(method, path.format(site=site), token=token) for site in ("other", "conf", "nothing", "..%2fshop")
        ]
        assert {(answer.status, answer.body) for answer in answers} == {(404, answers[0].body)}


@pytest.mark.parametrize(("method", "path"), OPERATORS)
async def test_the_operators_things_are_the_operators(tmp_path: Path, method: str, path: str) -> None:
    async with running(tmp_path) as api:
        await api.site()
        token = await api.token_for("shop", *VERBS)
        assert (await api.call(method, path, token=token)).code == "forbidden"
        elsewhere = path.replace("/shop", "/other")
        if elsewhere != path:
            await api.site("other")
            assert (await api.call(method, elsewhere, token=token)).code == "not-found"


@pytest.mark.parametrize("sent", ["", "Basic abc", "Bearer", "Bearer x y", "Bearer ec_000000000000_" + "A" * 43])
async def test_no_valid_token_is_401_with_a_challenge(tmp_path: Path, sent: str) -> None:
    async with running(tmp_path) as api:
        answer = await api.call("GET", "/v1/sites", headers={"Authorization": sent})
        assert (answer.status, answer.code) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert "AAAA" not in answer.body.decode()


async def test_a_sites_token_sees_its_site_alone(tmp_path: Path) -> None:
    parts = {"sandbox": {"workers": 2, "generators": {"shop/a@1": {}, "shopping/a@1": {}}, "sites": {"shop": {}, "other": {}}}}
    async with running(tmp_path, sites=[CONFIG], status_parts=parts) as api:
        await api.site()
        await api.site("other")
        token = await api.token_for("shop", "read")
        listed = await api.call("GET", "/v1/sites", token=token)
        assert [site["name"] for site in listed.json["sites"]] == ["shop"]  # type: ignore[attr-defined]
        status = (await api.call("GET", "/v1/status", token=token)).json
        assert status["parts"] == {"sandbox": {"generators": {"shop/a@1": {}}, "sites": {"shop": {}}}}
        assert (await api.call("GET", "/v1/status")).json["parts"] == parts


async def test_a_purge_by_a_sites_token_stays_in_its_site(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.site("other")
        token = await api.token_for("shop", "purge")
        for body in (
            {"tag": "t"},
            {"urls": ["http://other.test/"]},
            {"everything": True, "soft": True},
            {"site": "shop"},
            {"tag": "t", "refresh": True},
        ):
            answer = await api.call("POST", "/v1/purge", body, token=token)
            assert answer.json == {"purged": 3, "soft": body.get("soft", False), "refresh": body.get("refresh", False)}
        assert all(purge.site == "shop" for purge in api.purges)
        assert (await api.call("POST", "/v1/purge", {"site": "other"}, token=token)).code == "not-found"
        assert (await api.call("POST", "/v1/purge", {"everything": True})).status == 200
        assert api.purges[-1] == Purge(everything=True)


BAD_PURGES = (
    {},
    {"soft": True},
    {"tag": "a", "prefix": "http://a/"},
    {"urls": []},
    {"urls": ["/relative"]},
    {"urls": ["http://a/"] * 1001},
    {"tag": ""},
    {"tag": "a", "soft": True, "refresh": True},
    {"tags": ["a"]},
    {"everything": "yes"},
    {"prefix": "x" * 9000},
)


@pytest.mark.parametrize("body", BAD_PURGES, ids=range(len(BAD_PURGES)))
async def test_a_bad_purge_purges_nothing(tmp_path: Path, body: dict[str, object]) -> None:
    async with running(tmp_path) as api:
        answer = await api.call("POST", "/v1/purge", body)
        assert (answer.status, answer.code) == (400, "bad-request")
        assert api.purges == []


BAD_SITES = {
    "unknown key": ({"host": ["a.test"]}, "did you mean hosts"),
    "unknown cache key": ({"cache": {"ttl": "60s"}}, "unknown key 'ttl'"),
    "no unit": ({"cache": {"default_ttl": "60"}}, "has no unit"),
    "unknown coding": ({"cache": {"compress": ["deflate"]}}, "deflate"),
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


async def test_bodies_are_bounded_and_strict(tmp_path: Path) -> None:
    small = {"body_bytes": 300, "bundles": BundleLimits(upload_bytes=20_000)}
    async with running(tmp_path, settings=small) as api:
        await api.site()
        json = {"Content-Type": "application/json"}
        cases = [
            (b"{" + b" " * 400, json, 413, "body-too-large"),
            (b"{", json, 400, "bad-json"),
            (b"\xff\xfe", json, 400, "bad-json"),
            (b"[" * 290, json, 400, "bad-request"),
            (b"[]", json, 400, "bad-request"),
            (b'{"name": 1}', json, 400, "bad-request"),
            (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
            (b"{}", {**json, "Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
            (b"", json, 400, "bad-json"),
        ]
        for data, headers, status, code in cases:
            answer = await api.call("POST", "/v1/sites", data=data, headers=headers)
            assert (answer.status, answer.code) == (status, code), (data, answer.body)
        assert (await api.push(bytes(20_001))).code == "body-too-large"
        assert (await api.push(bundle(), query="?activate=yes")).code == "bad-parameter"
        assert (await api.push(bundle(), query="?activat=true")).code == "bad-parameter"
        assert (await api.call("GET", "/v1/sites?x=1")).code == "bad-parameter"
        assert (await api.call("PUT", "/v1/sites/shop", {})).code == "method-not-allowed"
        assert (await api.call("GET", "/v2")).code == "not-found"


async def test_an_endless_body_is_cut_at_the_bound(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"bundles": BundleLimits(upload_bytes=100_000)}) as api:
        await api.site()
        host, port = api.control.address
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /v1/sites/shop/generators/hello/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        async with asyncio.timeout(20):
            for _ in range(20):
                writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
                await asyncio.sleep(0)
            line = await reader.readline()
        assert b" 413 " in line
        writer.close()


async def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"body_seconds": 0.2}) as api:
        host, port = api.control.address
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /v1/sites HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: 10\r\n\r\n{{".encode())
        async with asyncio.timeout(20):
            assert b" 408 " in await reader.readline()
        writer.close()


async def break_writes(api: Api) -> None:
    """Make the database refuse to grow, as a full disk does."""
    state = api.control._state
    connection = state._connection
    assert connection is not None
    await state._run(lambda: connection.execute("PRAGMA max_page_count = 1").fetchall())


async def test_a_full_disk_refuses_changes_and_serves_on(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await break_writes(api)
        answer = None
        for number in range(200):
            answer = await api.site(f"s{number}", hosts=[f"h{number}-{i}.test" for i in range(100)])
            if answer.status != 201:
                break
        assert answer is not None
        assert (answer.status, answer.code) == (507, "state-full")
        assert str(tmp_path) not in answer.body.decode()
        assert (await api.call("GET", "/v1/sites/shop")).status == 200
        assert api.table.snapshot.site_of("shop.test") is not None


@pytest.mark.parametrize("damage", [b"no database at all" * 300, None])
async def test_an_edge_whose_state_is_broken_serves_its_configuration(tmp_path: Path, damage: bytes | None) -> None:
    if damage is None:
        (tmp_path / DATABASE).mkdir()
    else:
        (tmp_path / DATABASE).write_bytes(damage)
    async with running(tmp_path, sites=[CONFIG]) as api:
        assert api.table.snapshot.site_of("conf.test") is not None
        health = await api.call("GET", "/v1/healthz")
        assert (health.status, health.json["status"]) == (503, "degraded")
        assert (await api.call("GET", "/v1/sites", token="x")).code == "state-unavailable"


async def test_a_database_that_breaks_while_running_is_503(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        state = api.control._state
        connection = state._connection
        assert connection is not None
        await state._run(lambda: connection.execute("ALTER TABLE generators RENAME TO gone").fetchall())
        answer = await api.call("GET", "/v1/sites/shop")
        assert (answer.status, answer.code) == (503, "state-unavailable")
        assert "gone" not in answer.body.decode()
        assert api.table.snapshot.site_of("shop.test") is not None
        assert not await api.control.values.kv_put("shop", "hello", b"k", b"v")
        assert await api.control.values.kv_get("shop", "hello", b"k") is None
        assert api.control.values.failures == 2


async def test_our_own_mistake_is_500_without_a_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as api:
        object.__setattr__(api.control._services, "purge", lambda _: 1 // 0)
        answer = await api.call("POST", "/v1/purge", {"everything": True})
        assert (answer.status, answer.code) == (500, "internal")
        assert b"ZeroDivision" not in answer.body
        assert b"Traceback" not in answer.body
    assert "ZeroDivisionError" in caplog.text
    assert api.token not in caplog.text


async def test_two_edges_do_not_share_a_state(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(StateError, match="held by another edge"):
            async with running(tmp_path):
                pass


async def test_metrics_are_mounted_where_given(tmp_path: Path) -> None:
    async def metrics(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(text="figures")

    settings = ControlSettings(state_dir=tmp_path, port=0)
    control = Control(settings, table=SiteTable(), sandbox=TrialSandbox(), purge=purge_nothing, metrics=metrics)
    await control.start()
    try:
        host, port = control.address
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as response:
            assert await response.text() == "figures"
    finally:
        await control.close()


async def test_a_token_does_not_revoke_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        listed = (await api.call("GET", "/v1/tokens")).json["tokens"]
        assert isinstance(listed, list)
        assert (await api.call("DELETE", f"/v1/tokens/{listed[0]['id']}")).code == "conflict"
        second = await api.call("POST", "/v1/tokens", {"operator": True})
        assert (await api.call("DELETE", f"/v1/tokens/{listed[0]['id']}", token=str(second.json["token"]))).status == 204
        assert (await api.call("GET", "/v1/sites")).status == 401


BAD_TOKENS = (
    {},
    {"site": "shop"},
    {"site": "shop", "verbs": []},
    {"site": "shop", "verbs": ["fly"]},
    {"site": "shop", "verbs": ["read", "read"]},
    {"operator": True, "site": "shop"},
    {"site": "shop", "verbs": ["read"], "expires_in": "1"},
    {"site": "shop", "verbs": ["read"], "expires_in": "1ms"},
    {"site": "shop", "verbs": ["read"], "note": "a\nb"},
)


@pytest.mark.parametrize("body", BAD_TOKENS, ids=range(len(BAD_TOKENS)))
async def test_a_bad_token_is_not_made(tmp_path: Path, body: dict[str, object]) -> None:
    async with running(tmp_path) as api:
        await api.site()
        assert (await api.call("POST", "/v1/tokens", body)).code == "bad-request"
        assert (await api.call("POST", "/v1/tokens", {"site": "none", "verbs": ["read"]})).code == "not-found"


async def test_tls_is_spoken_where_it_is_set(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        made = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert await made.wait() == 0
    settings = ControlSettings(state_dir=tmp_path / "state", port=0, host="0.0.0.0", tls_certificate=certificate, tls_key=key)
    control = Control(settings, table=SiteTable(), sandbox=TrialSandbox(), purge=purge_nothing)
    await control.start()
    try:
        trusting = ssl.create_default_context(cafile=str(certificate))
        url = f"https://127.0.0.1:{control.address[1]}/v1/healthz"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
            assert response.status == 200
    finally:
        await control.close()


async def test_no_secret_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running(tmp_path) as api:
            await api.site()
            token = await api.token_for("shop", "read")
            await api.call("GET", "/v1/sites", token=token)
            await api.call("GET", "/v1/tokens", token=token)
    assert "operator.token" in caplog.text
    assert api.token not in caplog.text
    assert token not in caplog.text


def test_a_row_is_written_with_full_synchronisation(tmp_path: Path) -> None:
    async def look() -> tuple[object, ...]:
        async with running(tmp_path) as api:
            connection = api.control._state._connection
            assert connection is not None

            def pragmas() -> tuple[object, ...]:
                return tuple(
                    connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
                )

            return await api.control._state._run(pragmas)

    assert asyncio.run(look()) == ("wal", 2, 1)
    assert sqlite3.sqlite_version_info >= (3, 35), "RETURNING is used"


async def test_a_ceiling_that_sinks_holds_for_what_runs(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        assert api.sandbox.registered["shop/hello@1"][1] == DEFAULT_LIMITS
        await api.call("PATCH", "/v1/sites/shop", {"ceiling": {"memory": "8MiB"}, "weight": 7})
        assert api.sandbox.registered["shop/hello@1"][1] == replace(DEFAULT_LIMITS, memory_bytes=8 * MIB)
        assert api.sandbox.shares["shop"].weight == 7


def _any_json(pick: random.Random, depth: int = 0) -> object:
    """JSON of any shape, with the API's own keys among its keys."""
    keys = [
        "name",
        "hosts",
        "origins",
        "weight",
        "cache",
        "ceiling",
        "site",
        "verbs",
        "urls",
        "tag",
        "percent",
        "version",
        "cpu",
        "é",
    ]
    leaves = [None, True, -1, 0, 2**70, 1.5, "", "a", "shop", "\u0000", "50ms", "x" * 300, [], {}]
    if depth > 3 or pick.random() < 0.4:
        return pick.choice(leaves)
    if pick.random() < 0.5:
        return [_any_json(pick, depth + 1) for _ in range(pick.randint(0, 4))]
    return {pick.choice(keys): _any_json(pick, depth + 1) for _ in range(pick.randint(0, 5))}


async def test_no_json_is_ever_our_mistake(tmp_path: Path) -> None:
    pick = random.Random(20)
    targets = [("POST", "/v1/sites"), ("PATCH", "/v1/sites/shop"), ("POST", "/v1/tokens"), ("POST", "/v1/purge")]
    targets += [("POST", "/v1/sites/shop/generators/hello/activate"), ("POST", "/v1/sites/shop/generators/hello/rollback")]
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        for _ in range(300):
            method, path = pick.choice(targets)
            body = _any_json(pick)
            answer = await api.call(method, path, data=msgspec.json.encode(body), headers={"Content-Type": "application/json"})
            assert answer.status < 500, (path, body, answer.body)


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


@pytest.mark.parametrize("path", ["/v1/healthz", "/v1/openapi.json", "/metrics", "/nothing"])
async def test_a_page_that_had_its_name_pointed_here_is_told_nothing(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as api:
        host, port = api.control.address
        for name in ("evil.test", f"evil.test:{port}", "127.0.0.1.evil.test", "EVIL.TEST."):
            async with api.session.get(f"http://{host}:{port}{path}", headers={"Host": name}) as answer:
                assert answer.status == 403
                assert (await answer.json(content_type=None))["code"] == "forbidden"
        for name in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]:8081", "edge", "edge.localhost", "10.1.2.3"):
            async with api.session.get(f"http://{host}:{port}{path}", headers={"Host": name}) as answer:
                assert answer.status in (200, 404)
        assert (await api.call("GET", "/v1/sites", headers={"Host": "edge.example.org"})).status == 200, (
            "a token speaks for itself"
        )


async def test_connections_that_ask_nothing_are_ended(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"idle_seconds": 0.2}) as api:
        silent, half, asked = [await asyncio.open_connection(*api.control.address) for _ in range(3)]
        half[1].write(b"GET /v1/healthz HTTP/1.1\r\nHost: x\r\n")
        asked[1].write(b"GET /v1/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            assert (await asked[0].read(-1)).startswith(b"HTTP/1.1 200")
            assert await silent[0].read(-1) == b""
            assert await half[0].read(-1) == b""
        for _, writer in (silent, half, asked):
            writer.close()


async def test_connections_are_bounded_in_number_and_those_at_work_stay(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"connections": 4, "idle_seconds": 3600.0}) as api:
        await api.site()
        working = await asyncio.open_connection(*api.control.address)
        head = f"POST /v1/sites HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\nContent-Type: application/json\r\n"
        working[1].write(f"{head}Content-Length: 2\r\n\r\n".encode())
        silent = [await asyncio.open_connection(*api.control.address) for _ in range(12)]
        async with asyncio.timeout(30):
            while sum(reader.at_eof() for reader, _ in silent) < 9:
                await asyncio.sleep(0.02)
            working[1].write(b"{}")
            assert (await working[0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")
        for _, writer in (working, *silent):
            writer.close()
