"""Several processes on one tier: each sees what the others store, and no purge of one is missed by another."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.config import load
from edgecache.policy.purging import Purge
from edgecache.store.disk import DiskSettings, DiskTier
from edgecache.yamlform import FormError
from tests.unit.store.test_tiered import MIB, entry, opened, settled

OTHER = """
import asyncio, sys
from pathlib import Path
from dataclasses import replace
from edgecache.policy.purging import Purge
from edgecache.store.disk import DiskSettings, DiskTier
from tests.unit.store.test_tiered import entry

async def main():
    tier = DiskTier(DiskSettings(path=Path(sys.argv[1]), capacity_bytes=16 << 20))
    await tier.start()
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        match line:
            case ["get", uri]:
                found = tier.get(uri, lambda vary: "x-v=-")
                said = "none" if found is None else bytes(found.body).decode()
                print(f"stale {said}" if found is not None and found.marked_stale else said)
            case ["fill", size, *numbers]:
                for number in range(*map(int, numbers)):
                    tier.put(replace(entry(f"http://a/{number}"), body=f"{number}".encode().ljust(int(size), b".")))
                    if number % 50 == 0:
                        await tier.purge(Purge(tag="none"))
                await tier.purge(Purge(tag="none"))
                print("filled")
            case ["purge", tag]:
                print(await tier.purge(Purge(tag=tag)))
        sys.stdout.flush()
    await tier.close()

asyncio.run(main())
"""


class Process:
    """Another process on the tier."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, *words: object) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def another(path: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER, str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_what_one_stores_the_other_has_and_purges_reach_both(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache")
    async with another(tmp_path / "cache") as other:
        assert await other.ask("get", "http://a/x") == "none"
        for name in ("x", "y", "z"):
            store.put(replace(entry(f"http://a/{name}", tags=frozenset({name})), body=name.encode()))
        await settled(store)
        for name in ("x", "y", "z"):
            assert await other.ask("get", f"http://a/{name}") == name
        assert await store.disk.purge(Purge(tag="x")) == 1
        assert await other.ask("get", "http://a/x") == "none"
        await store.disk.purge(Purge(urls=("http://a/y",)))
        assert await other.ask("get", "http://a/y") == "none"
        await store.disk.purge(Purge(host="a", soft=True))
        assert await other.ask("get", "http://a/z") == "stale z"
        assert await other.ask("purge", "z") == "1"
        assert store.disk.get("http://a/z", lambda vary: "x-v=-") is None
    await store.disk.close()


async def test_three_writers_keep_one_bound_and_every_body_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    tier = DiskTier(DiskSettings(path=path, capacity_bytes=16 * MIB))
    await tier.start()
    async with another(path) as first, another(path) as second, another(path) as third:
        others = (first, second, third)
        filling = [other.ask("fill", 20_000, start, start + 600) for start, other in zip((0, 300, 5000), others, strict=True)]
        assert await asyncio.gather(*filling) == ["filled"] * 3
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 16 * MIB
        found = 0
        for number in (*range(900), *range(5000, 5600)):
            body = await others[number % 3].ask("get", f"http://a/{number}")
            assert body in ("none", f"{number}".ljust(20_000, "."))
            found += body != "none"
        assert found > 300
    assert tier.stats().evicted + tier.stats().objects > 0
    await tier.close()


async def test_a_writer_that_was_killed_leaves_no_room_taken(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    async with another(path) as other:
        await other.ask("fill", 1000, 0, 10)
        other.process.kill()
        await other.process.wait()
    tier = DiskTier(DiskSettings(path=path, capacity_bytes=16 * MIB))
    await tier.start()
    async with asyncio.timeout(10):
        while tier.stats().used_bytes > 100_000:
            await asyncio.sleep(0.05)
    assert tier.stats().objects == 10
    found = tier.get("http://a/3", lambda vary: "x-v=-")
    assert found is not None and bytes(found.body).rstrip(b".") == b"3"  # type: ignore[arg-type]
    await tier.close()


WRONG = [
    ("disk: {path: x}", "bytes"),
    ("disk: {bytes: 1GiB}", "path"),
    ("disk: {path: x, bytes: 1MiB}", "16MiB"),
    ("disk: {path: x, bytes: 1GiB, size: 3}", "size"),
    ("admission: fifo", "tinylfu"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_mistakes_in_the_configuration_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "edge.yaml").write_text(f"cache:\n  {text}\n")
    with pytest.raises(FormError, match=said):
        load(tmp_path / "edge.yaml")


async def test_a_directory_that_cannot_be_made_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = DiskSettings(path=tmp_path / "file" / "tier", capacity_bytes=16 * MIB)
    with pytest.raises(OSError, match=r"tier cannot be opened: Not a directory$"):
        await DiskTier(settings).start()


def test_the_path_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("cache:\n  disk: {path: on/disk, bytes: 1GiB, large: 1MiB}\n")
    disk = load(tmp_path / "edge.yaml").cache.disk
    assert disk == DiskSettings(path=tmp_path / "on" / "disk", capacity_bytes=1 << 30, large_bytes=1 << 20)
