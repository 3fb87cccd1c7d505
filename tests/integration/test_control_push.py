"""From an archive to traffic: pushed, verified, activated in parts, rolled back, removed; what it may use, and its log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecache.control.bundle.bundles import make_bundle
from edgecache.control.bundle.manifest import read_manifest
from edgecache.control.publishing.deploy import sample_request
from edgecache.control.service import Control
from edgecache.control.settings import ControlSettings
from edgecache.sites import OnError, Site, SiteTable
from sandbox import (
    DEFAULT_LIMITS,
    GuestRequest,
    Monitor,
)
from sandbox.limits import KIB, MIB
from sandbox.monitor import NoEdge
from tests.control_support import BASE, Api, TrialSandbox, bundle, files, manifest, program, purge_nothing, running, split, tar


async def activate(api: Api, version: int, percent: int) -> int:
    return (await api.call("POST", BASE + "/activate", {"version": version, "percent": percent})).status


async def test_a_push_serves_when_it_is_activated(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        text = "cache: {default_ttl: 5s, tags: [own]}\non_error: [error]\n"
        pushed = await api.push(bundle(more=text, zipped=True))
        assert (pushed.status, pushed.json["version"], pushed.json["status"], pushed.json["percent"]) == (201, 1, "verified", 0)
        assert pushed.headers["Location"] == BASE + "/versions/1"
        assert await split(api) == {}
        assert await activate(api, 1, 100) == 200
        assert await split(api) == {1: 100}
        route = api.table.snapshot.route("shop.test", "/hello/x")
        assert route is not None
        assert route.generator is not None
        assert (route.rule.default_ttl, route.rule.tags, route.generator.on_error) == (5.0, ("own",), (OnError.ERROR,))
        registered, limits, tenant = api.sandbox.registered["shop/hello@1"]
        assert (registered.image, limits, tenant) == (files()["hello"], DEFAULT_LIMITS, "shop")
        assert (await api.call("GET", BASE + "/versions/1")).json["status"] == "active"


async def test_the_same_content_is_the_same_version_and_is_not_verified_again(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        assert (await api.push(bundle())).status == 201
        again = await api.push(bundle(zipped=True), query="?activate=true")
        assert (again.status, again.json["version"], again.json["status"]) == (200, 1, "active")
        assert len(api.sandbox.verified) == 1
        assert await split(api) == {1: 100}


async def test_traffic_is_split_and_goes_back_step_by_step(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        for text in ("one", "two", "three"):
            await api.push(bundle(text=text))
        assert await activate(api, 1, 40) == 409
        assert await activate(api, 1, 100) == 200
        assert await activate(api, 2, 10) == 200
        assert await split(api) == {1: 90, 2: 10}
        assert await activate(api, 3, 50) == 200
        assert await split(api) == {1: 45, 2: 5, 3: 50}
        assert await activate(api, 3, 100) == 200
        seen = []
        while (await api.call("POST", BASE + "/rollback")).status == 200:
            seen.append(await split(api))
        assert seen == [{1: 45, 2: 5, 3: 50}, {1: 90, 2: 10}, {1: 100}]
        assert (await api.call("POST", BASE + "/rollback")).code == "nothing-to-roll-back"
        assert (await api.call("POST", BASE + "/activate", {"version": 9})).code == "not-found"


async def test_routes_are_those_of_the_version_with_most_traffic(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        moved = {**files(text="two"), "generator.yaml": manifest(routes='["/moved/*"]')}
        await api.push(tar(moved))
        await activate(api, 2, 20)
        assert (await api.call("GET", BASE)).json["routes"] == ["/hello/*"]
        await activate(api, 2, 80)
        assert (await api.call("GET", BASE)).json["routes"] == ["/moved/*"]


async def test_a_removed_generator_is_gone_with_its_bundles(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
        assert len(list((tmp_path / "bundles").iterdir())) == 1
        assert (await api.call("DELETE", BASE)).status == 204
        assert (await api.call("DELETE", BASE)).status == 404
        assert list((tmp_path / "bundles").iterdir()) == []
        assert await split(api) == {}
        assert not await api.control.ensure("shop/none@1")
        await api.push(bundle(text="new"), query="?activate=true")
        assert api.sandbox.registered["shop/hello@1"][0].image == files(text="new")["hello"], (
            "the key is used again, the program is not"
        )


async def test_old_versions_go_and_take_their_bundles_along(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"versions_kept": 2, "rollback_depth": 1}) as api:
        await api.site()
        await api.push(bundle(text="first"), query="?activate=true")
        for number in range(5):
            await api.push(bundle(text=str(number)))
        assert (await api.call("GET", BASE)).json["versions"] == [6, 5, 1]
        assert len(list((tmp_path / "bundles").iterdir())) == 3


async def test_pushing_does_not_let_activate(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        token = await api.token_for("shop", "push")
        assert (await api.push(bundle(), query="?activate=true", token=token)).code == "forbidden"
        assert api.sandbox.verified == []
        assert (await api.push(bundle(), token=token)).status == 201


async def test_what_is_not_loaded_at_start_is_registered_when_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle(), query="?activate=true")
    async with running(tmp_path, settings={"preload": 0}) as api:
        assert api.sandbox.registered == {}
        assert await asyncio.gather(*(api.control.ensure("shop/hello@1") for _ in range(5))) == [True] * 5
        assert list(api.sandbox.registered) == ["shop/hello@1"]
        assert not await api.control.ensure("shop/hello@2")


async def test_pushes_at_once_each_get_their_own_number(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        answers = await asyncio.gather(*(api.push(bundle(text=str(number % 5))) for number in range(10)))
        assert sorted(answer.status for answer in answers) == [200] * 5 + [201] * 5
        assert (await api.call("GET", BASE)).json["versions"] == [5, 4, 3, 2, 1]


async def test_logs_are_read_over_the_api(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle())
        api.control.logs.of("shop", "hello").write(1, "r-1", b"one\x1b[2J\ntwo")
        page = (await api.call("GET", BASE + "/logs?lines=1")).json
        lines: Any = page["lines"]
        assert [line["text"] for line in lines] == ["two"]
        older = (await api.call("GET", BASE + "/logs?after=0")).json["lines"]
        assert older[0]["text"] == "one\\x1b[2J"  # type: ignore[index]
        assert (await api.call("GET", "/v1/sites/shop/generators/none/logs")).status == 404


def test_the_sample_is_a_request_on_the_sites_own_host() -> None:
    made = make_bundle({**files(), "generator.yaml": manifest(more="sample: {path: '/hello/a?b=c', headers: {Accept: x/y}}\n")})
    found = read_manifest(made, DEFAULT_LIMITS)
    for host, name in (("shop.test", "shop.test"), ("*.shop.test", "www.shop.test"), ("*", "localhost")):
        environ = dict(sample_request(Site(name="s", hosts=(host,), origins=()), found).environ)
        assert (environ[b"SERVER_NAME"], environ[b"QUERY_STRING"]) == (name.encode(), b"b=c")
        assert (environ[b"HTTP_ACCEPT"], environ[b"PATH_INFO"]) == (b"x/y", b"/hello/a")


async def test_the_real_sandbox_verifies_registers_and_runs_it(tmp_path: Path) -> None:
    table = SiteTable()
    site = Site(name="shop", hosts=("shop.test",), origins=(), ceiling=replace(DEFAULT_LIMITS, memory_bytes=16 * MIB))
    async with Monitor() as monitor:
        settings = ControlSettings(state_dir=tmp_path, port=0)
        control = Control(settings, table=table, sandbox=monitor, purge=purge_nothing, config_sites=[site])
        await control.load()
        await control.listen()
        try:
            api = await _api(control, table, tmp_path)
            try:
                assert (await api.push(bundle(text="real"), query="?activate=true")).status == 201
                exits = tar({**files(), "hello": program(status=3)})
                assert (await api.push(exits)).json["outcome"] == "exit-status"
                broken = tar({**files(), "hello": b"\x7fELF" + bytes(100)})
                assert (await api.push(broken)).json["outcome"] == "rejected"
                request = GuestRequest(((b"REQUEST_METHOD", b"GET"),))
                call = monitor.call("shop/hello@1", request, edge=NoEdge(), log=lambda _: None)
                assert b"".join([chunk async for chunk in call]) == b"Content-Type: text/plain\n\nreal\n"
            finally:
                await api.session.close()
        finally:
            await control.close()


async def _api(control: Control, table: SiteTable, state_dir: Path) -> Api:
    import aiohttp

    token = (state_dir / "operator.token").read_text().strip()
    return Api(control, TrialSandbox(), table, aiohttp.ClientSession(), token, [], state_dir)


async def test_a_site_that_sends_slowly_does_not_keep_another_from_pushing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.site("slow")
        head = f"POST /v1/sites/slow/generators/hello/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection(*api.control.address)
            writer.write(f"{head}Content-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\nx".encode())
            await writer.drain()
            writers.append(writer)
        async with asyncio.timeout(30):
            assert (await api.push(bundle())).status == 201
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert "Traceback" not in caplog.text, "who leaves inside a body is no mistake of ours"


async def test_a_site_has_no_more_generators_than_it_may(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site(max_generators=1)
        assert (await api.push(bundle())).status == 201
        refused = await api.push(bundle("other"), name="other")
        assert (refused.status, refused.code, refused.json["where"]) == (409, "too-many", "max_generators")
        assert "its max_generators is 1: other is one more" in str(refused.json["detail"])
        assert (await api.push(bundle(text="again"))).json["version"] == 2
        changed = await api.call("PATCH", "/v1/sites/shop", {"max_generators": 2})
        assert changed.json["max_generators"] == 2
        assert (await api.push(bundle("other"), name="other")).status == 201
        assert (await api.call("PATCH", "/v1/sites/shop", {"max_generators": -1})).json["where"] == "$.max_generators"


async def test_a_generators_cpu_share_lies_below_its_sites_cap(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site(cap=50)
        refused = await api.push(bundle(more="limits: {cpu_share: 60}\n"))
        assert refused.code == "limits-exceed-ceiling"
        assert "cpu_share is 60, the site's ceiling 50" in str(refused.json["detail"])
        kept = await api.push(bundle(more="limits: {cpu_share: 40}\n"), query="?activate=true")
        assert kept.status == 201
        assert api.sandbox.registered["shop/hello@1"][1].cpu_share == 40
        assert (await api.push(bundle(text="unnamed"))).status == 201


async def test_rates_go_from_ceiling_and_manifest_to_the_sandbox(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.site(ceiling={"output_rate": "1MiB", "sub_request_rate": 20, "rate_burst": "100ms"})
        refused = await api.push(bundle(more="limits: {output_rate: 2MiB}\n"))
        assert refused.code == "limits-exceed-ceiling"
        pushed = await api.push(bundle(more="limits: {output_rate: 512KiB, edge_call_rate: 7}\n"), query="?activate=true")
        assert pushed.status == 201, pushed.body
        own = api.sandbox.registered["shop/hello@1"][1].rates
        assert (own.output_bytes, own.edge_calls, own.sub_requests, own.burst_ns) == (512 * KIB, 7, 20, 10**8)
        assert api.sandbox.shares["shop"].rates.output_bytes == MIB
        await api.call("PATCH", "/v1/sites/shop", {"ceiling": {"output_rate": "256KiB"}})
        assert api.sandbox.shares["shop"].rates.output_bytes == 256 * KIB
        assert api.sandbox.registered["shop/hello@1"][1].rates.output_bytes == 256 * KIB


async def test_a_site_has_no_more_costly_routes_than_all_sites_can_bear(tmp_path: Path) -> None:
    """Each request is held against all of them, on the loop that serves everybody."""

    def pushed(name: str, routes: list[str]) -> bytes:
        named = manifest(name, routes=f"[{', '.join(routes)}]")
        return tar({**files(name, text=str(len(routes))), "generator.yaml": named})

    def costly(name: str) -> bytes:
        return pushed(name, [f"/{name}/*/{number}" for number in range(64)])

    async with running(tmp_path) as api:
        await api.site()
        for name in "abcd":
            assert (await api.push(costly(name), name=name, query="?activate=true")).status == 201
        refused = await api.push(costly("e"), name="e", query="?activate=true")
        assert (refused.status, refused.code, refused.json["where"]) == (409, "too-many", "routes")
        route = api.table.snapshot.route("shop.test", "/d/x/y/63")
        assert route is not None
        assert route.generator is not None
        assert (await api.push(pushed("d", ["/d/*"]), name="d", query="?activate=true")).status == 201
        assert (await api.push(costly("e"), name="e", query="?activate=true")).status == 200
        assert (await api.call("POST", "/v1/sites/shop/generators/d/rollback")).code == "too-many"


async def test_a_route_that_another_active_generator_has_is_not_taken_from_it(tmp_path: Path) -> None:
    """Both would be shown as active, and one of them would never be asked."""

    def pushed(name: str, *routes: str) -> bytes:
        named = manifest(name, routes=str(list(routes)))
        return tar({**files(name, text=str(routes)), "generator.yaml": named})

    async with running(tmp_path) as api:
        await api.site()
        assert (await api.push(pushed("old", "/a/*", "/b"), name="old", query="?activate=true")).status == 201
        refused = await api.push(pushed("new", "/new", "/a/**"), name="new", query="?activate=true")
        assert (refused.status, refused.code, refused.json["where"]) == (409, "route-taken", "routes")
        assert "the route /a/** is that of the generator old" in str(refused.json["detail"])
        activate = "/v1/sites/shop/generators/new/activate"
        assert (await api.call("POST", activate, {"version": 1})).code == "route-taken"
        assert (await api.push(pushed("near", "/a/b*", "/bb"), name="near", query="?activate=true")).status == 201
        assert (await api.push(pushed("old", "/b"), name="old", query="?activate=true")).status == 201
        assert (await api.call("POST", activate, {"version": 1})).status == 200
        assert (await api.push(pushed("new", "/a/*", "/newer"), name="new", query="?activate=true")).status == 201
        assert (await api.call("POST", "/v1/sites/shop/generators/old/rollback")).status == 200
        assert (await api.push(pushed("old", "/a/*", "/c"), name="old", query="?activate=true")).status == 201, (
            "it has it already"
        )


async def test_what_a_site_keeps_is_bounded_in_bytes(tmp_path: Path) -> None:
    """The programs that have traffic are in the edge's memory, files and all: no site may fill it."""
    size = make_bundle(files()).size_bytes
    limits = replace(ControlSettings(state_dir=tmp_path).bundles, site_bytes=2 * size + size // 2)
    async with running(tmp_path, settings={"bundles": limits}) as api:
        for name in ("shop", "other"):
            await api.site(name)
        assert [(await api.push(bundle(text=text))).status for text in ("one__", "two__")] == [201, 201]
        refused = await api.push(bundle(text="three"))
        assert (refused.status, refused.code) == (409, "too-many")
        assert str(limits.site_bytes) in str(refused.json["detail"])
        assert (await api.push(bundle(text="one__"))).status == 200, "what is there already takes no more"
        assert (await api.push(bundle(text="three"), site="other")).status == 201
        await api.call("DELETE", BASE)
        assert (await api.push(bundle(text="three"))).status == 201
