"""The control API through a real socket: what it refuses and how, and that the edge serves on when its state fails."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import msgspec
import pytest

from edgecache.control.database.sqlite_state import DATABASE
from edgecache.control.settings import BundleLimits
from edgecache.control.state import StateError
from edgecache.sites import Site
from tests.control_support import Api, bundle, running

CONFIG = Site(name="conf", hosts=("conf.test",), origins=("http://127.0.0.1:1",), from_config=True)
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
        refused = await api.push(bytes(20_001))
        assert (refused.code, "`control.bundle.bundles.upload`" in str(refused.json["advice"])) == ("body-too-large", True)
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
