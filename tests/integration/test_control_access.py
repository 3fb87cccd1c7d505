"""Who may do what through the control API: tokens and their verbs."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from edgecache.policy.purging import Purge
from edgecache.sites import Site
from tests.control_support import bundle, running

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
        answers = set()
        for site in ("other", "conf", "nothing", "..%2fshop"):
            answer = await api.call(method, path.format(site=site), token=token)
            # But for the name that was asked for, the same to the byte.
            asked = f"'{unquote(site)}'".encode()
            assert asked in answer.body
            answers.add((answer.status, answer.body.replace(asked, b"")))
        assert [status for status, _ in answers] == [404]


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
