"""An index of the disk tier that has been damaged, or meddled with, is never a wrong answer, and never stays in anybody's way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from edgecache.policy.purging import Purge
from edgecache.store.disk.opening import open_index
from tests.integration.disk_support import RULE, answer, content, settings, written
from tests.integration.proxy_support import Edge, Got, edge_for, origin_of, until

HOST = {"Host": "a.test"}


def change(path: Path, table: bytes, what: Callable[[dict[bytes, bytes]], dict[bytes, bytes]]) -> None:
    """Put what `what` makes of a table in its place."""
    with lmdb.open(str(path / "cache" / "index"), max_dbs=16, map_size=1 << 30) as env:
        opened = env.open_db(table)
        with env.begin(write=True, db=opened) as txn:
            new = what(dict(txn.cursor().iternext()))
            txn.drop(opened, delete=False)
            for key, value in new.items():
                txn.put(key, value)


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda row: row[:at] + bytes([row[at] ^ 0x80]) + row[at + 1 :]


DAMAGES = {
    "digest": flipped(0),
    "segment": flipped(16 + 7),
    "offset": flipped(16 + 15),
    "offset a little": flipped(16 + 8),
    "length": flipped(16 + 23),
    "a long length": flipped(16 + 20),
    "checksum": flipped(16 + 24),
    "serial": flipped(16 + 28 + 7),
    "time": flipped(16 + 37 + 7),
    "length of the label": flipped(16 + 45 + 3),
    "label": flipped(16 + 49 + 2),
    "field": lambda row: row.replace(b'"/', b'"X'),
    "cut": lambda row: row[:40],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("path", ["/3000/a", "/300000/a"])
async def test_a_row_that_is_damaged_is_fetched_anew_and_stored_again(tmp_path: Path, damage: str, path: str) -> None:
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            await edge.fetch(path, headers=HOST)
            await written(edge, 1)
        change(tmp_path, b"objects", lambda rows: {key: DAMAGES[damage](row) for key, row in rows.items()})
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            again = await edge.fetch(path, headers=HOST)
            assert (again.status, again.body, again.headers["ETag"]) == (200, content(path, len(again.body)), f'"{path}"')
            assert "fwd" in again.cache
            other = await edge.fetch("/4000/b", headers=HOST)
            assert other.status == 200
            await asyncio.sleep(0.2)
            await edge.fetch("/4000/c", headers=HOST)
            await written(edge, 3)
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for known in (path, "/4000/b", "/4000/c"):
                assert "hit" in (await edge.fetch(known, headers=HOST)).cache


@pytest.mark.parametrize("purge", [Purge(host="a.test", soft=True), Purge(urls=("http://a.test/3000/a",), soft=True)])
async def test_a_purge_does_not_make_a_damaged_row_good(tmp_path: Path, purge: Purge) -> None:
    path = "/3000/a"
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            await edge.fetch(path, headers=HOST)
            await written(edge, 1)
        change(tmp_path, b"objects", lambda rows: {key: DAMAGES["field"](row) for key, row in rows.items()})
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            await edge.pipeline.purge(purge)
            await asyncio.sleep(1.2)
            again = await edge.fetch(path, headers={**HOST, "Cache-Control": "max-stale"})
            assert (again.status, again.headers["ETag"]) == (200, f'"{path}"')


@pytest.mark.parametrize("turn", [1, 2])
async def test_rows_under_one_anothers_keys_answer_for_nobody_else(tmp_path: Path, turn: int) -> None:
    path = "/3000/a?vary=X-Variant"
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            bodies = {name: (await edge.fetch(path, headers={**HOST, "X-Variant": name})).body for name in "ab"}
            await edge.fetch("/4000/c", headers=HOST)
            await written(edge, 3)
        change(
            tmp_path,
            b"objects",
            lambda rows: dict(zip(rows, [*list(rows.values())[turn:], *list(rows.values())[:turn]], strict=True)),
        )
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for name, body in bodies.items():
                assert (await edge.fetch(path, headers={**HOST, "X-Variant": name})).body == body
            assert (await edge.fetch("/4000/c", headers=HOST)).body == content("/4000/c", 4000)


@pytest.mark.parametrize("table", [b"meta", b"segments", b"turns", b"candidates", b"bans", b"keyed"])
@pytest.mark.parametrize("value", [b"", b"\xff" * 8, b"\xff" * 24])
async def test_other_tables_that_hold_anything_are_in_nobodys_way(tmp_path: Path, table: bytes, value: bytes) -> None:
    def meddled(rows: dict[bytes, bytes]) -> dict[bytes, bytes]:
        return {name: rows[name] if name == b"format" else value for name in rows or [b"\0" * 8]}

    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            await edge.fetch("/3000/a", headers=HOST)
            await written(edge, 1)
        change(tmp_path, table, meddled)
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for path in ("/3000/a", "/3000/b"):
                for _ in range(2):
                    again = await edge.fetch(path, headers=HOST)
                    assert (again.status, again.body) == (200, content(path, 3000))


@pytest.mark.parametrize("damage", ["cut", "empty", "label", "length of the label"])
async def test_a_damaged_row_does_not_keep_purges_from_record(tmp_path: Path, damage: str) -> None:
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            for path in ("/3000/a", "/3000/b"):
                await edge.fetch(path, headers=HOST)
            await written(edge, 2)
        change(tmp_path, b"objects", lambda rows: {k: r if n else DAMAGES[damage](r) for n, (k, r) in enumerate(rows.items())})
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            assert await edge.pipeline.purge(Purge(site="site")) == 1
            assert edge.tier is not None
            await until(lambda: edge.tier is not None and edge.tier.stats().objects == 0)


async def test_links_in_the_directory_are_not_followed(tmp_path: Path) -> None:
    victim, cache = tmp_path / "victim", tmp_path / "cache"
    victim.write_text("precious")
    index = open_index(settings(tmp_path))
    with index.reading() as txn:
        first = index.number(txn, b"next") + 1
    index.close()
    names = [*(f"{number:016x}.seg" for number in range(first, first + 8)), "reclaim.lock", "sweep.lock"]
    for name in names:
        (cache / name).symlink_to(victim)
    async with origin_of(answer) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        for path in ("/3000/a", "/300000/a", "/3000/b"):
            assert (await edge.fetch(path, headers=HOST)).body == content(path, int(path.split("/")[1]))
        await asyncio.sleep(0.2)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("emptied", [True, False])
async def test_a_segment_that_is_emptied_or_deleted_is_written_no_further(tmp_path: Path, emptied: bool) -> None:
    first, second, third = "/100000/a", "/100000/b", "/100000/c"

    async def from_disk(edge: Edge, path: str) -> Got:
        edge.store.forget(f"http://a.test{path}", "")
        return await edge.fetch(path, headers=HOST)

    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            await edge.fetch(first, headers=HOST)
            await written(edge, 1)
            assert "hit" in (await from_disk(edge, first)).cache
            (segment,) = (tmp_path / "cache").glob("*.seg")
            if emptied:
                os.truncate(segment, 0)
            else:
                segment.unlink()
            await edge.fetch(second, headers=HOST)
            await until(lambda: edge.tier is not None and edge.tier.stats().failures == 1)
            assert (await from_disk(edge, first)).body == content(first, 100_000)
            await edge.fetch(third, headers=HOST)
            await until(lambda: edge.tier is not None and edge.tier.stats().waiting_bytes == 0)
            assert "hit" in (await from_disk(edge, third)).cache
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            again = await edge.fetch(third, headers=HOST)
            assert ("hit" in again.cache, again.body) == (True, content(third, 100_000))
