"""An index of the disk tier that is damaged, cut off or taken away, before a start and while it is in use: it is put aside and
made anew, and the edge lives on. What was purged stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from edgecache.config import Address, CacheSettings, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge as WholeEdge
from edgecache.policy.purging import Purge
from edgecache.serve.settings import ServeSettings
from edgecache.sites import Site
from edgecache.source import SourceError
from tests.integration.disk_support import RULE, answer, content, settings, written
from tests.integration.proxy_support import Edge, edge_for, origin_of, until

HOST = {"Host": "a.test"}
PATHS = [f"/20000/{number}" for number in range(40)]


def index_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "index" / "data.mdb"


def cut_off(tmp_path: Path) -> None:
    file = index_file(tmp_path)
    os.truncate(file, file.stat().st_size // 2 // 4096 * 4096)


def overwritten(tmp_path: Path) -> None:
    file = index_file(tmp_path)
    with file.open("r+b") as opened:
        opened.seek(8192)
        opened.write(b"\x5a" * (file.stat().st_size - 8192))


def emptied(tmp_path: Path) -> None:
    os.truncate(index_file(tmp_path), 0)


def taken_away(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")


def replaced(tmp_path: Path) -> None:
    file = index_file(tmp_path)
    (tmp_path / "copy").write_bytes(file.read_bytes())
    (tmp_path / "copy").rename(file)


async def fill(edge: Edge) -> None:
    for path in PATHS:
        assert (await edge.fetch(path, headers=HOST)).body == content(path, 20000)


@pytest.mark.parametrize("damage", [cut_off, overwritten, emptied])
async def test_an_index_that_was_damaged_meanwhile_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 20) as edge:
            await fill(edge)
            await written(edge, len(PATHS))
        before = set((tmp_path / "cache").glob("*.seg"))
        damage(tmp_path)
        # In a process of its own: to read on where the file ends would end it.
        script = "from edgecache.store.disk.opening import open_index; from edgecache.store.disk import DiskSettings; "
        script += "from pathlib import Path; import sys; index = open_index(DiskSettings(path=Path(sys.argv[1]), "
        script += "capacity_bytes=64 << 20))\nwith index.reading() as txn: print(index.count(txn), len(list(index.rows(txn))))"
        opened = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(tmp_path / "cache"), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(opened.communicate(), 60)
        assert (opened.returncode, said) == (0, b"0 0\n")
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 20) as edge:
            await fill(edge)
            await written(edge, len(PATHS))
            await until(lambda: before.isdisjoint((tmp_path / "cache").glob("*.seg")))


@pytest.mark.parametrize("damage", [overwritten, taken_away, replaced])
async def test_an_index_that_is_damaged_in_use_is_put_aside_and_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 17) as edge:
            await fill(edge)
            await written(edge, len(PATHS))
            damage(tmp_path)
            await fill(edge)
            await until(lambda: any("is put aside" in record.getMessage() for record in caplog.records))
            await until(lambda: index_file(tmp_path).exists() and edge.tier is not None and edge.tier.serial() > 0)
            assert await edge.pipeline.purge(Purge(host="a.test")) >= 0
            await fill(edge)
            await written(edge, len(PATHS) // 2)
        lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(lines) < 10, lines
        asked = origin.count
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
            await fill(edge)
        assert origin.count < asked + len(PATHS)


async def test_a_purge_while_the_index_is_damaged_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be answered that it is not on record. It is in force all the same, also when the index has been made anew."""
    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 17) as edge,
    ):
        await fill(edge)
        await written(edge, len(PATHS))
        overwritten(tmp_path)
        async with asyncio.timeout(20):
            with contextlib.suppress(SourceError):
                await edge.pipeline.purge(Purge(host="a.test"))
        asked = origin.count
        await fill(edge)
        assert origin.count == asked + len(PATHS)
        await until(lambda: any("is put aside" in record.getMessage() for record in caplog.records))
        await until(lambda: edge.tier is not None and edge.tier.serial() > 0)
        async with asyncio.timeout(20):
            await edge.pipeline.purge(Purge(everything=True))
        asked = origin.count
        await fill(edge)
        assert origin.count == asked + len(PATHS)


READ = """
import sys, time
from pathlib import Path
from edgecache.store.disk import DiskSettings
from edgecache.store.disk.crashes import CrashRecord
from edgecache.store.disk.opening import open_index
index = open_index(DiskSettings(path=Path(sys.argv[1]), capacity_bytes=64 << 20))
record = CrashRecord(Path(sys.argv[1]), index.identity)
with index.reading() as txn:
    print(len(list(index.rows(txn))), flush=True)
if len(sys.argv) > 2:
    time.sleep(60)
record.close()
"""


async def test_what_has_killed_one_process_does_not_kill_the_next(tmp_path: Path) -> None:
    """LMDB aborts where a page within its tree is none. Others of the tier, and those that were killed, are no sign of it."""

    async def read(*more: str) -> asyncio.subprocess.Process:
        command = (sys.executable, "-c", READ, str(tmp_path / "cache"), *more)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)

    async with origin_of(answer) as origin:
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 20) as edge:
            await fill(edge)
            await written(edge, len(PATHS))
        living = await read("stay")
        assert living.stdout is not None
        assert await asyncio.wait_for(living.stdout.readline(), 60) == b"40\n"
        killed = await read("stay")
        assert killed.stdout is not None
        assert await asyncio.wait_for(killed.stdout.readline(), 60) == b"40\n"
        killed.kill()
        await killed.wait()
        sound = index_file(tmp_path).read_bytes()
        died = 0
        for start in range(8192, len(sound), 4096):
            index_file(tmp_path).write_bytes(sound[:start] + bytes(4096) + sound[start + 4096 :])
            reader = await read()
            await asyncio.wait_for(reader.communicate(), 60)
            assert reader.returncode is not None
            if reader.returncode < 0:
                died = reader.returncode
                break
        assert died == -signal.SIGABRT, "no page that is zeroed kills a reader"
        reader = await read()
        said, told = await asyncio.wait_for(reader.communicate(), 60)
        assert (reader.returncode, said) == (0, b"0\n")
        assert b"a process died reading its index: Fatal Python error: Aborted" in told
        living.kill()
        await living.communicate()
        async with edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 20) as edge:
            await fill(edge)
            await written(edge, len(PATHS))
        assert not list((tmp_path / "cache").glob("crash-*"))


async def test_a_copy_of_the_index_does_not_bring_back_what_was_purged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, disk=settings(tmp_path), rule=RULE, capacity_bytes=1 << 17) as edge,
    ):
        await fill(edge)
        await written(edge, len(PATHS))
        copy = index_file(tmp_path).read_bytes()
        await edge.pipeline.purge(Purge(host="a.test"))
        (tmp_path / "copy").write_bytes(copy)
        (tmp_path / "copy").rename(index_file(tmp_path))
        assert edge.tier is not None
        born = edge.tier.serial()
        await until(lambda: any("in its place" in record.getMessage() for record in caplog.records))
        await until(lambda: edge.tier is not None and edge.tier.serial() > born)
        asked = origin.count
        await fill(edge)
        assert origin.count == asked + len(PATHS)


async def test_serving_processes_that_a_cut_off_index_ends_come_back(tmp_path: Path) -> None:
    """Mapped memory beyond a file's end is a SIGBUS: it ends each process once at most, and never the edge."""
    async with origin_of(answer) as origin:
        state = tmp_path / "state"
        site = Site(name="site", hosts=("*",), origins=(origin.url,), rule=RULE, from_config=True)
        edge = WholeEdge(
            Config(
                listen=Address("127.0.0.1", 0),
                state_dir=state,
                control=ControlSettings(state_dir=state, port=0),
                serve=ServeSettings(processes=2, drain_timeout=5),
                cache=CacheSettings(memory_bytes=1 << 20, disk=settings(tmp_path)),
                sites=(site,),
            )
        )
        try:
            served, _ = await edge.start()

            async def hits() -> int:
                """How many paths are answered from the cache, each over a connection of its own."""
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
                    found = 0
                    for path in PATHS:
                        with contextlib.suppress(aiohttp.ClientError):
                            async with http.get(f"http://{served}{path}", headers=HOST) as response:
                                assert await response.read() == content(path, 20000)
                                found += "; hit" in response.headers["Cache-Status"]
                    return found

            async with asyncio.timeout(60):
                while await hits() < len(PATHS):
                    await asyncio.sleep(0.2)
            cut_off(tmp_path)
            for number in range(100, 200):
                with contextlib.suppress(aiohttp.ClientError):
                    async with aiohttp.request("GET", f"http://{served}/20000/{number}", headers=HOST) as response:
                        await response.read()
            async with asyncio.timeout(60):
                while await hits() < len(PATHS):
                    await asyncio.sleep(0.2)
        finally:
            await edge.close()
