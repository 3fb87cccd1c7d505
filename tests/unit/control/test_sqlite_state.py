"""SQLite state: what was acknowledged is there, whatever happened to the process, the disk or the file."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.control.bundle.manifest import Manifest, Sample
from edgecache.control.database.rows import kv_put
from edgecache.control.database.schema import VERSION, migrate
from edgecache.control.database.sqlite_state import DATABASE, SqliteState
from edgecache.control.records import Draft, Portion, Token, Verb, Verified, Version
from edgecache.control.settings import ControlSettings, StoredValueLimits
from edgecache.control.state import Exists, Failure, Missing, StateError, TooMany
from edgecache.policy.rule import CacheRule
from edgecache.sites import Site
from sandbox.limits import DEFAULT_LIMITS
from sandbox.program import Convention

SITE = Site(name="shop", hosts=("shop.test",), origins=("http://a",), weight=3, rule=CacheRule(default_ttl=1.5, tags=("t",)))
MANIFEST = Manifest(
    name="hello",
    program="hello",
    convention=Convention.CGI,
    routes=("/",),
    limits=DEFAULT_LIMITS,
    sample=Sample("/", (("A", "b"),)),
)


def draft(digest: str = "a", site: str = "shop", generator: str = "hello") -> Draft:
    return Draft(site=site, generator=generator, digest=digest * 64, size_bytes=5, manifest=MANIFEST, created=7.5)


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SqliteState]:
    opened = SqliteState(ControlSettings(state_dir=tmp_path, sites=3, tokens=3, generators_per_site=2, rollback_depth=2))
    await opened.open()
    await opened.put_site(SITE, new=True)
    yield opened
    await opened.close()


async def versions(state: SqliteState, *digests: str) -> list[Version]:
    return [await state.add_version(draft(digest)) for digest in digests]


async def test_a_site_is_read_back_as_it_was_put(state: SqliteState) -> None:
    assert await state.sites() == (SITE,)
    await state.put_site(replace(SITE, weight=9), new=False)
    assert (await state.sites())[0].weight == 9


async def test_a_site_is_added_once_and_changed_only_when_there(state: SqliteState) -> None:
    with pytest.raises(Exists):
        await state.put_site(SITE, new=True)
    with pytest.raises(Missing):
        await state.put_site(replace(SITE, name="none"), new=False)
    with pytest.raises(Missing):
        await state.remove_site("none")


async def test_declared_sites_hold_generators_and_are_not_listed(state: SqliteState) -> None:
    await state.declare(["conf", "shop"])
    await state.declare(["conf"])
    assert await state.sites() == (SITE,)
    assert (await state.add_version(draft(site="conf"))).version == 1
    with pytest.raises(Missing):
        await state.put_site(replace(SITE, name="conf"), new=False)


async def test_versions_count_up_and_the_same_content_is_the_same_version(state: SqliteState) -> None:
    first, second, again = await versions(state, "a", "b", "a")
    assert (first.version, second.version) == (1, 2)
    assert again == first
    assert first.manifest == MANIFEST
    assert first.verified is None
    await state.mark_verified(first, Verified(12, "x"))
    with pytest.raises(Missing):
        await state.mark_verified(replace(first, digest="f" * 64), Verified(1))
    found = await state.version("shop", "hello", 1)
    assert found is not None
    assert found.verified == Verified(12, "x")
    assert [v.version for v in await state.versions("shop", "hello")] == [2, 1]


async def test_numbers_are_not_used_again(state: SqliteState) -> None:
    await versions(state, "a", "b")
    await state.remove_version("shop", "hello", 2)
    assert (await versions(state, "c"))[0].version == 3


async def test_a_generator_goes_with_its_last_version(state: SqliteState) -> None:
    await versions(state, "a")
    await state.remove_version("shop", "hello", 1)
    assert await state.generator("shop", "hello") is None


async def test_a_version_needs_its_site(state: SqliteState) -> None:
    with pytest.raises(Missing):
        await state.add_version(draft(site="none"))


async def test_rolling_back_goes_back_step_by_step(state: SqliteState) -> None:
    await versions(state, "a", "b", "c")
    splits = [(Portion(1, 100),), (Portion(1, 50), Portion(2, 50)), (Portion(3, 100),)]
    for split in splits:
        await state.activate("shop", "hello", split)
    await state.activate("shop", "hello", splits[-1])
    assert await state.roll_back("shop", "hello") == splits[1]
    generator = await state.generator("shop", "hello")
    assert generator is not None
    assert generator.active == splits[1]
    assert await state.roll_back("shop", "hello") == splits[0]
    assert await state.roll_back("shop", "hello") is None


async def test_old_versions_go_and_those_in_use_stay(state: SqliteState) -> None:
    await versions(state, "a", "b", "c", "d", "e")
    await state.activate("shop", "hello", (Portion(1, 100),))
    await state.activate("shop", "hello", (Portion(3, 100),))
    with pytest.raises(Exists):
        await state.remove_version("shop", "hello", 1)
    assert await state.prune_versions("shop", "hello", 1) == (4, 2)
    assert [v.version for v in await state.versions("shop", "hello")] == [5, 3, 1]
    assert await state.digests() == {"a" * 64, "c" * 64, "e" * 64}


async def test_what_belongs_to_a_site_goes_with_it(state: SqliteState) -> None:
    await versions(state, "a")
    await state.kv_put("shop", "hello", b"k", b"v")
    await state.add_token(Token(id="t", sha256=bytes(32), site="shop", verbs=frozenset({Verb.PUSH}), created=1.0))
    await state.remove_site("shop")
    assert await state.tokens() == ()
    assert await state.digests() == frozenset()
    await state.put_site(SITE, new=True)
    await versions(state, "a")
    assert await state.kv_get("shop", "hello", b"k") is None


async def test_tokens_are_read_back_and_need_their_site(state: SqliteState) -> None:
    verbs = frozenset({Verb.PUSH, Verb.LOGS})
    token = Token(id="t", sha256=b"h" * 32, site="shop", verbs=verbs, created=1.0, expires=2.0, note="n")
    await state.add_token(token)
    assert await state.tokens() == (token,)
    with pytest.raises(Missing):
        await state.add_token(replace(token, id="u", site="none"))
    await state.remove_token("t")
    with pytest.raises(Missing):
        await state.remove_token("t")


async def test_every_count_is_bounded(state: SqliteState) -> None:
    await state.declare(["b", "c"])
    with pytest.raises(TooMany):
        await state.put_site(replace(SITE, name="d"), new=True)
    for name in ("one", "two"):
        await state.add_version(draft(generator=name))
    with pytest.raises(TooMany):
        await state.add_version(draft(generator="three"))
    operator = Token(id="", sha256=bytes(32), site=None, verbs=frozenset(), created=1.0)
    for number in range(3):
        await state.add_token(replace(operator, id=str(number)))
    with pytest.raises(TooMany):
        await state.add_token(replace(operator, id="3"))


async def test_values_are_kept_apart(state: SqliteState) -> None:
    for name in ("one", "two"):
        await state.add_version(draft(generator=name))
        assert await state.kv_put("shop", name, b"k\0\xff", name.encode())
    assert await state.kv_get("shop", "one", b"k\0\xff") == b"one"
    assert await state.kv_get("shop", "two", b"k\0\xff") == b"two"
    assert await state.kv_get("shop", "one", b"other") is None
    assert not await state.kv_put("shop", "none", b"k", b"v")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=6), st.binary(max_size=30)), max_size=40))
def test_values_never_pass_their_bounds_and_a_refused_put_changes_nothing(puts: list[tuple[bytes, bytes]]) -> None:
    limits = StoredValueLimits(key_bytes=5, value_bytes=20, total_bytes=60, entries=4)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(connection)
        connection.execute("INSERT INTO sites (name) VALUES ('s')")
        connection.execute("INSERT INTO generators (site, name) VALUES ('s', 'g')")
        model: dict[bytes, bytes] = {}
        for key, value in puts:
            after = {**model, key: value}
            fits = len(key) <= 5 and len(value) <= 20 and len(after) <= 4 and sum(map(len, [*after, *after.values()])) <= 60
            assert kv_put(connection, ("s", "g"), key, value, limits) == fits
            model = after if fits else model
            assert dict(connection.execute("SELECT key, value FROM stored_values")) == model
    finally:
        connection.close()


async def test_a_second_edge_is_refused_the_same_state(state: SqliteState, tmp_path: Path) -> None:
    second = SqliteState(ControlSettings(state_dir=tmp_path))
    with pytest.raises(StateError) as error:
        await second.open()
    assert error.value.failure is Failure.IN_USE
    await second.close()


async def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    state = SqliteState(ControlSettings(state_dir=tmp_path))
    with pytest.raises(StateError, match=f"has schema {VERSION + 1}"):
        await state.open()
    await state.close()


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + bytes(4096)])
async def test_a_file_that_is_no_database_is_a_state_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    state = SqliteState(ControlSettings(state_dir=tmp_path))
    with pytest.raises(StateError):
        await state.open()
    with pytest.raises(StateError):
        await state.sites()
    await state.close()


async def test_a_full_database_refuses_the_write_whole_and_reads_on(state: SqliteState) -> None:
    await versions(state, "a")
    connection = state._connection
    assert connection is not None
    await state._run(lambda: connection.execute("PRAGMA max_page_count = 1").fetchall())
    stored = 0
    with pytest.raises(StateError) as error:
        while True:
            await state.kv_put("shop", "hello", b"%d" % stored, bytes(30_000))
            stored += 1
    assert error.value.failure is Failure.FULL
    assert await state.kv_get("shop", "hello", b"%d" % stored) is None
    assert await state.sites() == (SITE,)
    await state._run(lambda: connection.execute("PRAGMA max_page_count = 100000").fetchall())
    assert await state.kv_put("shop", "hello", b"again", b"v")


async def test_a_read_only_database_reads_on(state: SqliteState) -> None:
    connection = state._connection
    assert connection is not None
    await state._run(lambda: connection.execute("PRAGMA query_only = 1").fetchall())
    with pytest.raises(StateError) as error:
        await state.put_site(replace(SITE, name="new"), new=True)
    assert error.value.failure is Failure.READ_ONLY
    assert await state.sites() == (SITE,)


async def test_records_that_cannot_be_read_are_corruption(state: SqliteState) -> None:
    connection = state._connection
    assert connection is not None
    await state._run(lambda: connection.execute("UPDATE sites SET definition = x'7b'"))
    with pytest.raises(StateError) as error:
        await state.sites()
    assert error.value.failure is Failure.CORRUPT


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tokens SET verbs = 'fly'",
        "DELETE FROM versions",
        "UPDATE generators SET active = x'5b7b7d5d'",
        "UPDATE versions SET manifest = x'7b'",
    ],
)
async def test_rows_that_no_version_of_this_program_writes_are_corruption_too(state: SqliteState, damage: str) -> None:
    """As a newer program, or somebody's hand, may have left them: an edge that meets them serves on, and says so."""
    (version,) = await versions(state, "a")
    await state.mark_verified(version, Verified(0))
    await state.activate("shop", "hello", (Portion(1, 100),))
    await state.add_token(Token(id="1", sha256=bytes(32), site=None, verbs=frozenset(Verb), created=0.0))
    assert await state.serving("shop") and await state.tokens()
    connection = state._connection
    assert connection is not None
    await state._run(lambda: connection.execute(damage))
    with pytest.raises(StateError) as error:
        _ = await state.tokens(), await state.serving("shop")
    assert error.value.failure is Failure.CORRUPT


async def test_a_locked_database_is_told_within_the_time_allowed(tmp_path: Path) -> None:
    state = SqliteState(ControlSettings(state_dir=tmp_path, state_seconds=0.2))
    await state.open()
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StateError) as error:
            await state.put_site(SITE, new=True)
        assert error.value.failure is Failure.BUSY
    finally:
        other.execute("ROLLBACK")
        other.close()
        await state.close()


async def test_after_closing_every_call_says_so(state: SqliteState) -> None:
    await state.close()
    await state.close()
    with pytest.raises(StateError) as error:
        await state.sites()
    assert error.value.failure is Failure.CLOSED


async def test_a_caller_that_goes_away_does_not_undo_the_write(state: SqliteState) -> None:
    task = asyncio.ensure_future(state.put_site(replace(SITE, name="other"), new=True))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await state.sites()) in {1, 2}
    await state.check()


_WRITER = """
import asyncio, sys
from pathlib import Path
from edgecache.control.settings import ControlSettings
from edgecache.control.database.sqlite_state import SqliteState
from tests.unit.control.test_sqlite_state import SITE, draft

async def main() -> None:
    state = SqliteState(ControlSettings(state_dir=Path(sys.argv[1])))
    await state.open()
    await state.declare(["shop"])
    await state.add_version(draft())
    start = int(sys.argv[2])
    for number in range(start, start + 100_000):
        assert await state.kv_put("shop", "hello", b"%d" % (number % 1000), b"%d" % number)
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    generator = random.Random(7)
    acknowledged = 0
    for _ in range(5):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(acknowledged + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3], text=True) as writer:
            assert writer.stdout is not None
            for _ in range(generator.randint(1, 60)):
                acknowledged = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:
                acknowledged = int(line) if line.endswith("\n") else acknowledged
        state = SqliteState(ControlSettings(state_dir=tmp_path))
        await state.open()
        found = await state.kv_get("shop", "hello", b"%d" % (acknowledged % 1000))
        await state.close()
        assert found is not None
        assert int(found) >= acknowledged
