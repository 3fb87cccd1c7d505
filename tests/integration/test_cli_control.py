"""The command line against a real control API over a socket: a site's whole life, each command a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecache.sites import Site
from tests.control_support import Api, files, running


@dataclass(frozen=True)
class Shell:
    """A terminal whose EDGECACHE_URL and EDGECACHE_TOKEN are set."""

    url: str
    token: str

    async def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        environment = {"EDGECACHE_URL": self.url, "EDGECACHE_TOKEN": self.token, "PATH": "/usr/bin:/bin"}
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "edgecache", *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == code, (out, err)
        assert b"Traceback" not in err
        return out.decode(), err.decode()

    async def json(self, *arguments: str) -> dict[str, Any]:
        out, _ = await self.run(*arguments, "--json")
        document: dict[str, Any] = json.loads(out)
        return document


def shell(api: Api, token: str | None = None) -> Shell:
    host, port = api.control.address
    return Shell(f"http://{host}:{port}", api.token if token is None else token)


def bundle_at(directory: Path, text: str = "hello") -> str:
    for name, content in files(text=text).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(directory)


async def test_a_generators_life_from_site_to_removal(tmp_path: Path) -> None:
    path = bundle_at(tmp_path / "bundle")
    async with running(tmp_path / "state") as api:
        operator = shell(api)
        await operator.run("site", "add", "shop", "--host", "shop.test", "--origin", "http://127.0.0.1:8090")
        secret, _ = await operator.run("token", "create", "--site", "shop", "--verbs", "push,activate,purge,logs,read")
        owner = shell(api, secret.strip())

        out, told = await owner.run("generator", "push", path, "--site", "shop")
        assert out == "1\n"
        assert "edgecache generator promote hello 1 --site shop" in told
        assert "expire" not in told
        out, told = await owner.run("generator", "promote", "hello", "1", "--site", "shop")
        assert out == "shop/hello: active v1 100 %\n"
        assert "stay until they expire; to be rid of them: edgecache purge --site shop --soft" in told

        bundle_at(tmp_path / "bundle", "another")
        out, _ = await owner.run("generator", "push", path, "--site", "shop", "--activate")
        assert out == "2\n"
        out, _ = await owner.run("generator", "promote", "hello", "1", "--site", "shop", "--percent", "10")
        assert "v1 10 %" in out
        assert "v2 90 %" in out
        await owner.run("generator", "rollback", "hello", "--site", "shop")
        found = await owner.json("generator", "show", "hello", "--site", "shop")
        assert found["active"] == [{"version": 2, "percent": 100}]
        assert [version["version"] for version in found["versions"]] == [2, 1]

        api.control.logs.of("shop", "hello").write(2, "request-1", b"a line\n")
        out, _ = await owner.run("generator", "logs", "hello", "--site", "shop")
        assert out.endswith("  v2  request-1  a line\n")
        await owner.run("purge", "--tag", "hello", "--soft")
        assert api.purges[-1].tag == "hello"

        await owner.run("generator", "remove", "hello", "--site", "shop", "--yes")
        assert (await owner.json("generator", "list", "--site", "shop"))["generators"] == []


async def test_an_output_that_is_closed_or_full_is_no_bug(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        owner = shell(api)
        environment = {"EDGECACHE_URL": owner.url, "EDGECACHE_TOKEN": owner.token, "PATH": "/usr/bin:/bin"}
        for command, out, code, says in (
            ("status", "&-", 0, ""),
            ("site list", "&-", 0, ""),
            ("site list --json", "/dev/full", 1, "edgecache: No space left on device\n"),
            ("token list", "/dev/full", 1, "edgecache: No space left on device\n"),
        ):
            words = ("/bin/sh", "-c", f'"$0" -m edgecache {command} >{out}', sys.executable)
            process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE, env=environment)
            _, told = await asyncio.wait_for(process.communicate(), 30)
            assert (process.returncode, told.decode()) == (code, says)


async def test_tokens_are_listed_and_revoked(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        operator = shell(api)
        await operator.run("site", "add", "shop", "--host", "shop.test")
        made = await operator.json("token", "create", "--site", "shop", "--verbs", "read", "--expires-in", "12h", "--note", "CI")
        await shell(api, made["token"]).run("site", "list")
        listed = (await operator.json("token", "list", "--site", "shop"))["tokens"]
        assert [(token["id"], token["verbs"], token["note"]) for token in listed] == [(made["id"], ["read"], "CI")]
        await operator.run("token", "revoke", made["id"])
        _, told = await shell(api, made["token"]).run("site", "list", code=1)
        assert told.startswith("edgecache: ")


async def test_a_token_for_reading_every_site_needs_no_site(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        operator = shell(api)
        await operator.run("site", "add", "shop", "--host", "shop.test")
        reader = shell(api, (await operator.json("token", "create", "--verbs", "read"))["token"])
        assert [site["name"] for site in (await reader.json("site", "list"))["sites"]] == ["shop"]
        await reader.run("site", "remove", "shop", "--yes", code=1)
        listed, _ = await operator.run("token", "list")
        assert "(all)\tread" in listed
        for wrong in (("--verbs", "purge"), ("--verbs", "read,purge"), ("--operator", "--verbs", "read"), ("--site", "shop"), ()):
            await operator.run("token", "create", *wrong, code=2)


@pytest.mark.parametrize(
    ("part", "said"),
    [("cache", "vary=Accept-Language"), ("cache", "tags=a,b"), ("cache", "compress=br,gzip")]
    + [("access", f"{key}=192.0.2.0/24,2001:db8::/32") for key in ("deny", "allow", "purge")],
)
async def test_what_holds_several_values_is_a_list_on_the_command_line(tmp_path: Path, part: str, said: str) -> None:
    key, _, values = said.partition("=")
    async with running(tmp_path) as api:
        operator = shell(api)
        await operator.run("site", "add", "shop", "--host", "shop.test")
        await operator.run("site", "set", "shop", f"--{part}", said)
        assert (await operator.json("site", "show", "shop"))[part][key] == values.split(",")


async def test_a_site_is_changed_and_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        operator = shell(api)
        await operator.run("site", "add", "shop", "--host", "shop.test")
        await operator.run("site", "set", "shop", "--weight", "7", "--cache", "default_ttl=30s", "--ceiling", "cpu=80ms")
        found = await operator.json("site", "show", "shop")
        assert (found["weight"], found["cache"]["default_ttl"], found["ceiling"]["cpu"]) == (7, "30s", "80ms")
        out, _ = await operator.run("site", "list")
        assert out.split("\t")[0] == "shop"
        await operator.run("site", "remove", "shop", "--yes")
        assert (await operator.json("site", "list"))["sites"] == []


async def test_a_site_is_added_with_all_its_rules_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        operator = shell(api)
        rules = (
            "--cache",
            "default_ttl=30s",
            "--cache",
            "tags=a,b",
            "--access",
            "purge=127.0.0.1,::1",
            "--access",
            "client_rate=5",
        )
        await operator.run("site", "add", "shop", "--host", "a.test", "--cap", "40", "--upgrade", "websocket", *rules)
        found = await operator.json("site", "show", "shop")
        assert (found["cap"], found["upgrade"]) == (40, ["websocket"])
        assert (found["cache"]["default_ttl"], found["cache"]["tags"]) == ("30s", ["a", "b"])
        assert (found["access"]["purge"], found["access"]["client_rate"]) == (["127.0.0.1", "::1"], 5)
        await operator.run("site", "set", "shop", "--cache", "default_ttl=null")
        assert (await operator.json("site", "show", "shop"))["cache"]["default_ttl"] is None


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("site", "show", "absent"), "What to do:", 1),
        (("site", "add", "BAD NAME", "--host", "a.test"), "name", 2),
        (("site", "add", "other", "--host", "declared.test"), "declared.test", 1),
        (("site", "add", "other", "--host", "a.test", "--origin", "nonsense"), "nonsense", 2),
        (("site", "set", "declared", "--weight", "2"), "start the edge with a configuration file", 1),
        (("generator", "promote", "absent", "1", "--site", "declared"), "What to do:", 1),
        (("generator", "rollback", "absent", "--site", "declared"), "What to do:", 1),
        (("token", "revoke", "absent"), "What to do:", 1),
        (("token", "create", "--operator", "--expires-in", "soon"), "expires_in", 2),
        (("purge", "not-a-url"), "not-a-url", 2),
    ],
)
async def test_a_refusal_says_what_was_wrong_and_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], says: str, code: int
) -> None:
    declared = Site(name="declared", hosts=("declared.test",), origins=(), from_config=True)
    async with running(tmp_path, sites=[declared]) as api:
        _, told = await shell(api).run(*arguments, code=code)
        assert told.startswith("edgecache: ")
        assert says in told


async def test_a_sites_token_does_not_reach_another_site(tmp_path: Path) -> None:
    async with running(tmp_path / "state") as api:
        for name in ("mine", "theirs"):
            await shell(api).run("site", "add", name, "--host", f"{name}.test")
        owner = shell(api, await api.token_for("mine", "push", "activate", "purge", "logs", "read"))
        path = bundle_at(tmp_path / "bundle")
        for arguments in (("generator", "push", path), ("generator", "list"), ("generator", "rollback", "hello")):
            await owner.run(*arguments, "--site", "theirs", code=1)
        assert [site["name"] for site in (await owner.json("site", "list"))["sites"]] == ["mine"]


async def test_status_and_top_tell_what_the_rooms_say(tmp_path: Path) -> None:
    row = {"weight": 3, "cap": 50, "cpu_ns": 5, "promised": 0.75, "received": 0.5}
    groups = {"clusters": {"gold": row}, "sites": {"shop": row}, "generators": {"shop/hello@1": row}}
    parts = {"cache": {"entries": 3, "memory_bytes": 2048}, "sandbox": {"engine": "unicorn", **groups}}
    async with running(tmp_path, status_parts=parts) as api:
        await shell(api).run("site", "add", "shop", "--host", "shop.test")
        out, _ = await shell(api).run("status")
        assert "cache: entries 3  memory 2.0 KiB" in out
        assert "sandbox: engine unicorn\n" in out
        assert (await shell(api).json("status"))["parts"]["sandbox"]["clusters"]["gold"]["promised"] == 0.75
        out, _ = await shell(api).run("top", "--times", "2", "--every", "0.2")
        assert "shop.test" in out
        for name in ("gold", "shop", "shop/hello@1"):
            lines = [line.split() for line in out.splitlines() if line.split()[:1] == [name]]
            assert [line[1:5] for line in lines] == [["3", "50%", "75.0%", "50.0%"]] * 2


async def test_a_cluster_from_its_first_weight_to_its_removal(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        operator = shell(api)
        out, _ = await operator.run("cluster", "set", "gold", "--weight", "3")
        assert out == "cluster gold: weight 3\n"
        out, _ = await operator.run("cluster", "set", "gold", "--cap", "50")
        assert out == "cluster gold: weight 3, at most 50 % of one CPU\n"
        await operator.run("site", "add", "shop", "--host", "shop.test", "--origin", "http://127.0.0.1:8090")
        await operator.run("site", "set", "shop", "--cluster", "gold", "--cap", "20")
        shown = await operator.json("site", "show", "shop")
        assert (shown["cluster"], shown["cap"]) == ("gold", 20)
        listed = await operator.json("cluster", "list")
        gold = next(cluster for cluster in listed["clusters"] if cluster["name"] == "gold")
        assert gold == {"name": "gold", "weight": 3, "cap": 50, "from_config": False, "sites": ["shop"]}
        _, err = await operator.run("cluster", "remove", "gold", code=1)
        assert "shop" in err
        await operator.run("site", "set", "shop", "--cluster", "default", "--cap", "0")
        await operator.run("cluster", "set", "gold", "--no-cap")
        await operator.run("cluster", "remove", "gold")
        await operator.run("cluster", "set", "gold", "--cap", "1", "--no-cap", code=2)
