"""Who may do what through the control API: tokens and verbs, TLS, and who may scrape the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import trustme

from edgecache.control.service import Control
from edgecache.control.settings import ControlSettings
from edgecache.policy.purging import Purge
from edgecache.sites import Site, SiteTable
from sandbox import GuestRequest, Limits, Program, Verification
from tests.control_support import BASE, Api, TrialSandbox, bundle, purge_nothing, running, split

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


async def test_a_sites_token_has_the_whole_edge_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    looks = 0

    class Parts(dict[str, dict[str, object]]):
        def __bool__(self) -> bool:
            nonlocal looks
            looks += 1
            return True

    async with running(tmp_path, status_parts=Parts()) as api, asyncio.TaskGroup() as group:
        await api.site()
        token = await api.token_for("shop", "read")
        began = time.monotonic()
        asked = [group.create_task(api.call("GET", "/v1/status", token=token)) for _ in range(30)]
        assert {(await each).status for each in asked} == {200}
        assert looks <= 1 + (time.monotonic() - began)
        await api.call("GET", "/v1/status")
        await api.call("GET", "/v1/status")
        assert looks >= 3, "the operator sees what is now"


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
    {"verbs": ["read", "purge"]},
    {"verbs": ["purge"]},
    {"operator": True, "verbs": ["read"]},
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


@contextlib.asynccontextmanager
async def far(directory: Path, **more: object) -> AsyncIterator[Callable[..., Awaitable[tuple[int, str]]]]:
    """A Control that listens on all addresses, over TLS, with metrics; it is asked with `await ask(path, token)`."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"tls_certificate": chain, "tls_key": key, "port": 0, **more}
    settings = ControlSettings(state_dir=directory / "state", host="0.0.0.0", **files)  # type: ignore[arg-type]
    control = Control(settings, table=SiteTable(), sandbox=TrialSandbox(), purge=purge_nothing, metrics=figures)
    await control.load()
    await control.listen()
    try:
        async with aiohttp.ClientSession() as session:

            async def ask(path: str, token: str = "", body: object = None) -> tuple[int, str]:
                sent = {"Authorization": f"Bearer {token}"} if token else {}
                url = f"https://127.0.0.1:{control.address[1]}{path}"
                async with session.request("POST" if body else "GET", url, headers=sent, json=body, ssl=trusting) as response:
                    return response.status, await response.text()

            yield ask
    finally:
        await control.close()


async def figures(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
    return aiohttp.web.Response(text="figures")


async def test_tls_is_spoken_where_it_is_set(tmp_path: Path) -> None:
    async with far(tmp_path) as ask:
        assert (await ask("/v1/healthz"))[0] == 200


async def test_handshakes_that_only_begin_hold_nobody_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with far(tmp_path, port=port, connections=4) as ask, asyncio.TaskGroup() as group:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        ended = [group.create_task(reader.read()) for reader, _ in idle]
        async with asyncio.timeout(5):
            while sum(task.done() for task in ended) < 8:
                await asyncio.sleep(0.01)
        assert (await ask("/v1/healthz"))[0] == 200
        for _, writer in idle:
            writer.close()


async def test_metrics_on_loopback_are_for_anybody_there(tmp_path: Path) -> None:
    settings = ControlSettings(state_dir=tmp_path, port=0)
    control = Control(settings, table=SiteTable(), sandbox=TrialSandbox(), purge=purge_nothing, metrics=figures)
    await control.load()
    await control.listen()
    try:
        host, port = control.address
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as response:
            assert await response.text() == "figures"
    finally:
        await control.close()


async def test_metrics_elsewhere_are_for_who_may_read_all_sites(tmp_path: Path) -> None:
    async with far(tmp_path) as ask:
        operator = (tmp_path / "state" / "operator.token").read_text().strip()
        site = {"name": "shop", "hosts": ["shop.test"], "origins": ["http://127.0.0.1:1"]}
        assert (await ask("/v1/sites", operator, site))[0] == 201
        made = [await ask("/v1/tokens", operator, form) for form in ({"verbs": ["read"]}, {"site": "shop", "verbs": ["read"]})]
        reader, owner = (json.loads(text)["token"] for _, text in made)
        assert (await ask("/metrics"))[0] == 401
        assert (await ask("/metrics", "ec_000000000000_" + "A" * 43))[0] == 401
        assert (await ask("/metrics", owner))[0] == 403
        assert await ask("/metrics", reader) == (200, "figures")
        assert await ask("/metrics", operator) == (200, "figures")


async def test_metrics_elsewhere_are_public_where_the_operator_says_so(tmp_path: Path) -> None:
    async with far(tmp_path, metrics_public=True) as ask:
        assert await ask("/metrics") == (200, "figures")
        assert (await ask("/v1/status"))[0] == 401


async def test_there_are_no_metrics_where_nobody_gives_them(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert (await api.call("GET", "/metrics")).code == "not-found"


async def test_a_reader_of_all_sites_sees_everything_and_changes_nothing(tmp_path: Path) -> None:
    parts = {"sandbox": {"workers": 2, "sites": {"shop": {}, "other": {}}}}
    async with running(tmp_path, sites=[CONFIG], status_parts=parts) as api:
        await api.site()
        await api.push(bundle())
        made = await api.call("POST", "/v1/tokens", {"verbs": ["read"]})
        assert (made.status, made.json["site"], made.json["operator"]) == (201, None, False)
        reader = str(made.json["token"])
        status = (await api.call("GET", "/v1/status", token=reader)).json
        assert status["parts"] == parts
        assert [site["name"] for site in status["sites"]] == ["conf", "shop"]  # type: ignore[attr-defined]
        listed = await api.call("GET", "/v1/sites", token=reader)
        assert [site["name"] for site in listed.json["sites"]] == ["conf", "shop"]  # type: ignore[attr-defined]
        for method, path, verb in REQUESTS:
            answer = await api.call(method, path.format(site="shop"), token=reader)
            assert answer.status == (200 if verb == "read" else 403), (method, path, answer.body)
        for method, path in OPERATORS:
            assert (await api.call(method, path, token=reader)).code == "forbidden"
        for body in ({"everything": True}, {"tag": "t"}, {"site": "shop"}):
            assert (await api.call("POST", "/v1/purge", body, token=reader)).code == "forbidden"
        assert api.purges == []


async def test_a_reader_of_all_sites_is_no_operator_after_a_restart_either(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        reader = str((await api.call("POST", "/v1/tokens", {"verbs": ["read"]})).json["token"])
    async with running(tmp_path) as api:
        assert (await api.call("GET", "/v1/status", token=reader)).status == 200
        assert (await api.call("GET", "/v1/tokens", token=reader)).code == "forbidden"
        tokens = (await api.call("GET", "/v1/tokens")).json["tokens"]
        assert sorted(token["operator"] for token in tokens) == [False, True]  # type: ignore[attr-defined]


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


@contextlib.asynccontextmanager
async def half_sent(
    api: Api, path: str, body: bytes, token: str, kind: str = "application/json"
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """A request that is let in at its head, of whose body the end is sent, and the status read, when it is said so."""
    reader, writer = await asyncio.open_connection(*api.control.address)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\nExpect: 100-continue\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"100"
    await reader.readline()

    async def finish() -> int:
        writer.write(body)
        return int((await reader.readline()).split()[1])

    try:
        yield finish
    finally:
        writer.close()


async def revoke(api: Api, token: str) -> None:
    assert (await api.call("DELETE", f"/v1/tokens/{token.split('_')[1]}")).status == 204


async def test_no_token_is_made_with_one_that_was_revoked_meanwhile(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        stolen = str((await api.call("POST", "/v1/tokens", {"operator": True})).json["token"])
        async with half_sent(api, "/v1/tokens", b'{"operator": true}', stolen) as finish:
            await revoke(api, stolen)
            assert await finish() == 401
        left = (await api.call("GET", "/v1/tokens")).json["tokens"]
        assert isinstance(left, list)
        assert [token["id"] in api.token for token in left] == [True]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (BASE + "/activate", b'{"version": 1}', "application/json"),
        (BASE + "/versions?activate=true", bundle(text="evil"), "application/x-tar"),
        ("/v1/purge", b'{"site": "shop"}', "application/json"),
    ],
)
async def test_what_a_revoked_token_began_is_not_done(tmp_path: Path, path: str, body: bytes, kind: str) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle())
        token = await api.token_for("shop", *VERBS)
        async with half_sent(api, path, body, token, kind) as finish:
            await revoke(api, token)
            assert await finish() == 401
        assert await split(api) == {}
        assert not api.purges
        assert len((await api.call("GET", BASE + "/versions")).json["versions"]) == 1  # type: ignore[arg-type]


class SlowSandbox(TrialSandbox):
    """Verifies when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def verify(self, program: Program, limits: Limits, sample: GuestRequest) -> Verification:
        self.begun.set()
        await self.may_end.wait()
        return await super().verify(program, limits, sample)


async def test_a_revoked_tokens_push_is_not_activated_once_it_is_verified(tmp_path: Path) -> None:
    sandbox = SlowSandbox()
    async with running(tmp_path, sandbox=sandbox) as api, asyncio.TaskGroup() as group:
        await api.site()
        token = await api.token_for("shop", *VERBS)
        pushing = group.create_task(api.push(bundle(), query="?activate=true", token=token))
        waiting = group.create_task(api.push(bundle(text="other"), query="?activate=true", token=token))
        await sandbox.begun.wait()
        await revoke(api, token)
        sandbox.may_end.set()
        assert [(await pushing).status, (await waiting).status] == [401, 401]
        assert await split(api) == {}


async def test_a_ceiling_that_was_lowered_while_a_push_waited_holds(tmp_path: Path) -> None:
    sandbox = SlowSandbox()
    async with running(tmp_path, sandbox=sandbox) as api, asyncio.TaskGroup() as group:
        await api.site()
        first = group.create_task(api.push(bundle()))
        await sandbox.begun.wait()
        second = group.create_task(api.push(bundle(more="limits: {memory: 64MiB}\n")))
        changed = await api.call("PATCH", "/v1/sites/shop", {"ceiling": {"memory": "32MiB"}})
        assert changed.status == 200, changed.body
        sandbox.may_end.set()
        assert (await first).status == 201
        assert (await second).code == "limits-exceed-ceiling"
