"""A disk tier that is small, full, damaged or locked, while clients leave, origins break and purges come: no body is another's or
half, nobody waits for ever, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.policy.upstream import Timeouts, UpstreamRule
from edgecache.serve.misses.spooling import SpoolingBody
from edgecache.serve.settings import ServeSettings
from edgecache.source import SourceError
from edgecache.store.disk import DiskSettings
from edgecache.store.disk.segments import SegmentWriter
from edgecache.store.disk.spool import Spool
from tests.integration.aftermath_support import (
    Remains,
    defects,
    descriptors,
    descriptors_beyond,
    left_over,
    not_once,
    recorded,
    total,
    wrong_pages,
)
from tests.integration.chaos_support import ANSWER_SECONDS, Generations, meanwhile, proof, proven, requests, seeds
from tests.integration.proxy_support import Edge, edge_for, raw_origin, read_head

REQUESTS = requests(500)
CLIENTS = 12
PATHS = 30
MIB = 1 << 20
_FAULTS = ("plain",) * 6 + ("chunked",) * 3 + ("pieces", "close in body", "chunked close", "stalls", "private", "reset")
_SIZES = (0, 100, 20_000, 100_000, 300_000, 300_000, 900_000, 3_000_000)
_HOLD = """
import lmdb, sys, time
index = lmdb.open(sys.argv[1], max_dbs=32, map_size=0)
with index.begin(write=True) as txn:
    time.sleep(float(sys.argv[2]))
    txn.abort()
"""


@dataclass
class Chaos:
    """An origin."""

    random: random.Random
    generations: Generations
    made: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """What each ETag stands for."""
    calm: bool = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await read_head(reader)).split(b" ", 2)[1].decode()
            fault = "plain" if self.calm else self.random.choice(_FAULTS)
            size, generation = self.random.choice(_SIZES), self.generations.next()
            body = proof(path, "-", generation, size)
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            self.made[etag] = (path, generation, size)
            control = "private" if fault == "private" else "max-age=600"
            fields = f"Cache-Control: {control}\r\nETag: {etag}\r\nX-Path: {path}\r\nCache-Tag: t{int(path[2:]) % 3}\r\n"
            if fault.startswith("chunked"):
                writer.write(f"HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n".encode())
                for start in range(0, len(body), 250_000):
                    piece = body[start : start + 250_000]
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                if fault == "chunked close":
                    return
                writer.write(b"0\r\n\r\n")
                continue
            writer.write(f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode())
            end = self.random.randrange(len(body)) if fault in {"close in body", "stalls", "reset"} else len(body)
            step = 200_000 if fault == "pieces" else len(body)
            for start in range(0, end, step):
                writer.write(body[start : min(start + step, end)])
                await writer.drain()
                await asyncio.sleep(0.005 if fault == "pieces" else 0)
            if fault == "stalls":
                await asyncio.sleep(0.7)
            if fault == "reset":
                writer.transport.abort()
            if end < len(body):
                return


@dataclass
class Client:
    """One of many. Whatever it is told with 200 is its own and whole; with 206, a part of what was said."""

    edge: Edge
    random: random.Random
    generations: Generations
    made: dict[str, tuple[str, int, int]]
    statuses: Counter[int] = field(default_factory=Counter)

    async def run(self, requests: int) -> None:
        while requests > 0:
            reader, writer = await asyncio.open_connection(*self.edge.address, limit=1 << 16)
            try:
                async with asyncio.timeout(ANSWER_SECONDS * 3):
                    for _ in range(self.random.randint(1, 8)):
                        requests -= 1
                        if not await self._ask(reader, writer):
                            break
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        path, floor = f"/p{self.random.randrange(PATHS)}", self.generations.floor
        asked = self.random.choice((None,) * 4 + ("bytes=0-9", "bytes=-500", "bytes=150000-", "bytes=0-1,5-9,70-99"))
        ranges = "" if asked is None else f"Range: {asked}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: e\r\n{ranges}\r\n".encode())
        leaves = self.random.random()
        if leaves < 0.05:
            await asyncio.sleep(self.random.choice((0, 0.002, 0.02)))
            return False
        lines = (await read_head(reader)).decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        status = int(lines[0].split(" ")[1])
        if leaves < 0.12:
            await asyncio.sleep(self.random.choice((0, 0.002, 0.02)))
            return False
        if leaves < 0.2:
            await asyncio.sleep(0.3)
        body = await self._body(reader, fields)
        self.statuses[status] += 1
        if status == 200:
            of, _, generation = proven(body)
            assert (of, fields["x-path"]) == (path, path)
            assert generation > floor
        elif status == 206 and "," not in (asked or ""):
            of, generation, size = self.made[fields["etag"]]
            whole = proof(of, "-", generation, size)
            first, _, rest = fields["content-range"].removeprefix("bytes ").partition("-")
            last, _, total = rest.partition("/")
            assert (of, int(total)) == (path, len(whole))
            assert body == whole[int(first) : int(last) + 1]
            assert generation > floor
        return fields.get("connection") != "close"

    async def _body(self, reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return await reader.readexactly(int(fields["content-length"]))
        if "transfer-encoding" not in fields:
            return await reader.read(-1)
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body


async def meddle(edge: Edge, chance: random.Random, generations: Generations, cache: Path) -> None:
    """What an operator does meanwhile, and what becomes of the disk."""
    while True:
        await asyncio.sleep(chance.random() * 0.2)
        segments = sorted(cache.glob("*.seg"))
        match chance.randrange(8):
            case 0:
                floor = generations.made
                if await on_record(edge, Purge(everything=True)):
                    generations.floor = floor
            case 1:
                await on_record(edge, Purge(urls=(f"http://e/p{chance.randrange(PATHS)}",), soft=chance.random() < 0.5))
            case 2:
                await on_record(edge, Purge(tag=f"t{chance.randrange(3)}"))
            case 3 if segments:
                # To nothing: of one that is cut elsewhere, Linux zeroes the rest of the folio (up to 2 MiB), and with it what
                # sendfile(2) has given to a socket.
                with contextlib.suppress(OSError):
                    os.truncate(chance.choice(segments), 0)
            case 4 if segments:
                chance.choice(segments).unlink(missing_ok=True)
            case 5:
                # A writer that holds the index.
                holding = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", _HOLD, str(cache / "index"), str(chance.choice((0.0, 0.3))),
                    stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                await holding.wait()
            case _:
                edge.clock.advance(chance.choice((0, 1, 601)))


async def on_record(edge: Edge, purge: Purge) -> bool:
    """Whether a purge is on the disk: one that is full may refuse it, and then a restart may undo it."""
    try:
        await edge.pipeline.purge(purge)
    except SourceError as error:
        assert error.reason == "purge-not-recorded", error
        return False
    return True


@contextlib.asynccontextmanager
async def small_disk(path: Path, mib: int) -> AsyncIterator[bool]:
    """A file system of that size, where one may be mounted."""
    path.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path))
    try:
        mounted = await (await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)).wait() == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            await (await asyncio.create_subprocess_exec("umount", "-l", str(path))).wait()


def unclosed(each: object) -> bool:
    """A segment's writer that is closed is only a number."""
    return not isinstance(each, SegmentWriter) or each._fd >= 0


@pytest.mark.parametrize("seed", seeds(2))
async def test_whatever_goes_wrong_bodies_are_whole_and_nothing_is_left(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    generations = Generations()
    origin = Chaos(random.Random(chance.random()), generations)
    serve = ServeSettings(keepalive_timeout=1.0, head_timeout=2.0, write_timeout=2.0)
    rule = CacheRule(max_object_bytes=chance.choice((1 * MIB, 64 * MIB)))
    upstream = UpstreamRule(timeouts=Timeouts(connect=1.0, first_byte=0.4, between_bytes=0.4), ejection=None)
    async with contextlib.AsyncExitStack() as stack:
        remains = stack.enter_context(Remains(Spool, SpoolingBody, SegmentWriter, of=unclosed))
        mounted = seed % 2 == 1 and await stack.enter_async_context(small_disk(tmp_path / "small", 12))
        path = tmp_path / ("small" if mounted else "large") / "cache"
        disk = DiskSettings(path=path, capacity_bytes=(64 if mounted else 16) * MIB, large_bytes=400_000, queue_bytes=4 * MIB)
        url = await stack.enter_async_context(raw_origin(origin.handle))
        for turn in range(2):
            async with edge_for(
                url, rule=rule, settings=serve, upstream_rule=upstream, disk=disk, capacity_bytes=1 * MIB
            ) as edge:  # fmt: skip
                before = descriptors()
                origin.calm = False
                clients = [Client(edge, random.Random(chance.random()), generations, origin.made) for _ in range(CLIENTS)]
                async with meanwhile(meddle(edge, random.Random(chance.random()), generations, path)):
                    await asyncio.gather(*(client.run(REQUESTS // CLIENTS // 2) for client in clients))
                # One segment may be the tier's, which all share.
                assert await left_over(edge, remains, allowed=Counter(SegmentWriter=1)) == Counter()
                assert [text for text in defects(caplog.records) if not text.startswith("disk tier ")] == []
                assert total(client.statuses for client in clients)[200] > REQUESTS // 8
                assert not_once(recorded(edge)) == {}
                origin.calm = True
                assert await wrong_pages(edge, PATHS) == []
                await edge.client.close()
                # What is kept to origins, segments that are open, and no more.
                assert await descriptors_beyond(before + 4 * CLIENTS + 40) == 0
            # Between two runs anything may become of what lies there.
            for segment in path.glob("*.seg"):
                data = bytearray(segment.read_bytes())
                for _ in range(3 if data and turn == 0 else 0):
                    data[chance.randrange(len(data))] ^= 1
                with contextlib.suppress(OSError):
                    segment.write_bytes(data)
