"""Origins and clients that misbehave at random: no body is another's, nobody waits for ever, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.policy.upstream import BreakerRule, RetryRule, Timeouts, UpstreamRule
from edgecache.serve.call import Call
from edgecache.serve.connection import Connection
from edgecache.serve.errand import Errand
from edgecache.serve.settings import ServeSettings
from edgecache.serve.turnstile import Turnstile
from edgecache.upstream.begun import BegunExchange, Sent
from edgecache.upstream.collapse import Seat
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import Edge, edge_for, raw_origin, read_head, until

REQUESTS = int(os.environ.get("EDGECACHE_FAULT_REQUESTS", "1500"))
"""For a longer hunt, more: each seed sends so many."""
CLIENTS = 24
PATHS = 40
ANSWER_SECONDS = 10.0
"""Within which a request is answered or its connection closed; far more than the sum of the edge's own limits below."""
_FAULTS = (
    "plain", "plain", "plain", "plain", "plain", "chunked", "pieces", "chunked pieces", "no length", "private", "no-cache",
    "varies", "selects", "selects", "close after", "close before", "close in head", "close in body", "silent", "stalls",
    "longer", "two",
    "hints", "continue", "no content", "error", "no http", "two lengths", "both framings", "folded", "large head", "large",
    "204 with body", "unasked 206",
)  # fmt: skip

_OF_ONE = re.compile(rb"\r\n(?:Authorization: |Cache-Control: no-store)")
"""What is said in answer to such requests is for nobody else, though its Cache-Control says nothing of it."""


def proof(path: str, who: str, generation: int, size: int) -> bytes:
    """A body that tells whose it is, and that it is whole."""
    text = f"{path} {who} {generation} ".encode() + b"x" * size
    return hashlib.sha256(text).hexdigest().encode() + b" " + text


def proven(body: bytes) -> tuple[str, str, int]:
    """Path, client and generation of a body. AssertionError: it is broken."""
    digest, _, text = body.partition(b" ")
    assert hashlib.sha256(text).hexdigest().encode() == digest, body[:200]
    path, who, generation, _ = text.split(b" ")
    return path.decode(), who.decode(), int(generation)


@dataclass
class Generations:
    """Of all that origins say."""

    made: int = 0
    floor: int = 0
    """What was made up to here has been purged."""

    def next(self) -> int:
        self.made += 1
        return self.made


@dataclass
class Chaos:
    """An origin."""

    random: random.Random
    generations: Generations
    calm: bool = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            if not await self._answer(head, writer):
                return

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """False: close the connection."""
        method, target, _ = head.split(b" ", 2)
        path = target.decode()
        found = re.search(rb"\r\n[Cc]ookie: who=(\w+)", head)
        who = found[1].decode() if found else "-"
        fault = "plain" if self.calm else self.random.choice(_FAULTS)
        shared = fault not in {"private", "varies"} and not _OF_ONE.search(head)
        language = re.search(rb"\r\nAccept-Language: (\w+)", head)
        chosen = language[1].decode() if fault == "selects" and language else "-"
        whose = chosen if shared else who
        sizes = {"large": 300_000, "plain": self.random.choice((0, 10, 2000, 40_000))}
        body = proof(path, whose, self.generations.next(), sizes.get(fault, 50))
        control = {"private": "private, max-age=60", "no-cache": "no-cache"}.get(fault, "max-age=60")
        vary = {"varies": "Vary: Cookie\r\n", "selects": "Vary: Accept-Language\r\n"}.get(fault, "")
        fields = f'Cache-Control: {control}\r\n{vary}ETag: "{hashlib.sha256(body).hexdigest()[:8]}"\r\nX-Path: {path}\r\n'
        length = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode()
        chunked = f"HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n".encode()
        evil = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nevil"
        if method == b"HEAD":
            body = b""
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        says: dict[str, list[bytes]] = {
            "chunked": [chunked + (chunks if method != b"HEAD" else b"")],
            "pieces": [length[:30], length[30:] + body[:20], body[20:]],
            "chunked pieces": [chunked, *([chunks[:40], chunks[40:]] if method != b"HEAD" else [])],
            "no length": [f"HTTP/1.1 200 OK\r\n{fields}Connection: close\r\n\r\n".encode() + body],
            "close before": [],
            "close in head": [length[:40]],
            "close in body": [length + body[:-10]],
            "silent": [],
            "stalls": [length + body[:-10]],
            "longer": [length + body + b"and more"],
            "two": [length + body + evil],
            "hints": [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + length + body],
            "continue": [b"HTTP/1.1 100 Continue\r\n\r\n", length + body],
            "no content": [f"HTTP/1.1 204 No Content\r\nX-Path: {path}\r\n\r\n".encode()],
            "error": [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n" + (b"bad" if body else b"")],
            "no http": [b"what do you mean?\r\n\r\n"],
            "two lengths": [length.replace(b"Content-Length", b"Content-Length: 7\r\nContent-Length") + body],
            "both framings": [length.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length") + chunks],
            "folded": [length.replace(b"X-Path: ", b"X-Path:\r\n ") + body],
            "large head": [length.replace(b"X-Path", b"X-Large: " + b"y" * 60_000 + b"\r\nX-Path") + body],
            "204 with body": [f"HTTP/1.1 204 No Content\r\nX-Path: {path}\r\nContent-Length: 4\r\n\r\nevil".encode()],
            "unasked 206": [length.replace(b"200 OK", b"206 Partial Content") + body],
        }
        for part in says.get(fault, [length + body]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(self.random.choice((0, 0.003)))
        if fault in {"silent", "stalls"}:
            await asyncio.sleep(0.7)
        closing = ("close", "no length", "silent", "stalls", "both", "no http", "two lengths")
        return not fault.startswith(closing)


@dataclass
class Client:
    """One of many. Whatever it is told with 200 is its own."""

    edge: Edge
    random: random.Random
    name: str
    generations: Generations
    complete: Counter[str] = field(default_factory=Counter)
    """Request IDs of answers that came whole."""
    statuses: Counter[int] = field(default_factory=Counter)

    async def run(self, requests: int) -> None:
        while requests > 0:
            reader, writer = await asyncio.open_connection(*self.edge.address)
            try:
                async with asyncio.timeout(ANSWER_SECONDS * 3):
                    requests -= await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                requests -= 1
            finally:
                writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """How many requests it has sent."""
        sent = 0
        for _ in range(self.random.randint(1, 12)):
            wanted = [self._request() for _ in range(self.random.choice((1, 1, 1, 2, 5)))]
            data = b"".join(self._encoded(method, path, extra) for method, path, extra in wanted)
            leaves, floor = self.random.random(), self.generations.floor
            if leaves < 0.03:
                writer.write(data[: self.random.randrange(len(data))])
                return sent + 1
            if self.random.random() < 0.1:
                cut = self.random.randrange(len(data))
                writer.write(data[:cut])
                await asyncio.sleep(0.002)
                data = data[cut:]
            writer.write(data)
            sent += len(wanted)
            if leaves < 0.12:
                await asyncio.sleep(self.random.choice((0, 0.001, 0.02)))
                return sent
            for method, path, _ in wanted:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if not await self._read(reader, method, path, floor):
                        return sent
        return sent

    @property
    def language(self) -> str:
        return f"l{int(self.name[1:]) % 3}"

    def _request(self) -> tuple[str, str, str]:
        method = self.random.choice(("GET",) * 8 + ("HEAD", "POST"))
        extra = self.random.choice(
            ("",) * 12
            + ("Range: bytes=0-9\r\n", 'If-None-Match: "x"\r\n', "Authorization: me\r\n", "Cache-Control: no-cache\r\n")
            + ("Cache-Control: no-store\r\n", "Connection: close\r\n", "TE: trailers\r\nConnection: TE\r\n")
        )
        return method, f"/p{self.random.randrange(PATHS)}", extra

    def _encoded(self, method: str, path: str, extra: str) -> bytes:
        body = "Content-Length: 3\r\n\r\nabc" if method == "POST" else "\r\n"
        who = f"Cookie: who={self.name}\r\nAccept-Language: {self.language}\r\n"
        return f"{method} {path} HTTP/1.1\r\nHost: e\r\n{who}{extra}{body}".encode()

    async def _read(self, reader: asyncio.StreamReader, method: str, path: str, floor: int) -> bool:
        """One answer, made after `floor`. False: the connection is not for another one."""
        status, fields = 100, dict[str, str]()
        while status < 200:
            lines = (await read_head(reader)).decode("latin-1").split("\r\n")
            assert lines[0].startswith("HTTP/1.1 "), lines[0]
            status = int(lines[0].split(" ")[1])
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        body = b""
        if method != "HEAD" and status not in {204, 304}:
            if "transfer-encoding" in fields:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
            elif "content-length" in fields:
                body = await reader.readexactly(int(fields["content-length"]))
            else:
                body = await reader.read(-1)
        self.statuses[status] += 1
        self.complete[fields["x-request-id"]] += 1
        if status == 200:
            assert fields["x-path"] == path
        if status == 200 and method != "HEAD":
            of, who, generation = proven(body)
            assert of == path
            assert generation > floor
            assert who in {"-", self.name, self.language}
        return fields.get("connection") != "close"


def rule_of(chance: random.Random) -> UpstreamRule:
    return UpstreamRule(
        timeouts=Timeouts(connect=1.0, first_byte=0.4, between_bytes=0.4),
        retries=RetryRule(attempts=chance.choice((0, 1, 2)), statuses=chance.choice(((), (503,)))),
        breaker=BreakerRule(max_connections=chance.choice((None, 4, 16)), max_pending=64),
        ejection=None,
    )


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def quiet(edge: Edge) -> bool:
    places = [origin.connections + origin.pending for origin in edge.upstreams.figures()]
    return len(edge.pipeline.flights) == 0 and not any(places) and edge.listener.connections == 0


def defects(records: list[logging.LogRecord]) -> list[str]:
    """What the edge has logged that no peer may make it log."""
    ours = ("edgecache", "aiohttp")
    return [record.getMessage() for record in records if record.levelno >= logging.ERROR and record.name.startswith(ours)]


def left_over() -> Counter[str]:
    """What lives for a request or a connection, and is still there."""
    gc.collect()
    kinds = (Errand, Seat, BegunExchange, Sent, Call, Connection, Turnstile)
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))


async def meddle(edge: Edge, chance: random.Random, generations: Generations) -> None:
    """What an operator does meanwhile."""
    while True:
        await asyncio.sleep(chance.random() * 0.1)
        match chance.randrange(5):
            case 0:
                floor = generations.made
                await edge.pipeline.purge(Purge(everything=True))
                generations.floor = floor
            case 1:
                await edge.pipeline.purge(Purge(urls=(f"http://e/p{chance.randrange(PATHS)}",), soft=chance.random() < 0.5))
            case 2:
                edge.sites.replace(edge.sites.snapshot.sites)
            case 3:
                edge.clock.advance(chance.choice((1, 61)))
            case _:
                edge.pipeline.change(edge.pipeline.settings, UpstreamSettings())


@pytest.mark.parametrize("seed", range(int(os.environ.get("EDGECACHE_FAULT_SEEDS", "4"))))
async def test_whatever_goes_wrong_answers_are_their_askers_and_nothing_is_left(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    generations, of_others = Generations(), left_over()
    origins = [Chaos(random.Random(chance.random()), generations) for _ in range(2)]
    settings = ServeSettings(keepalive_timeout=1.0, head_timeout=2.0)
    rule = CacheRule(max_object_bytes=chance.choice((30_000, 1 << 20)))
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(raw_origin(origin.handle)) for origin in origins]
        edge = await stack.enter_async_context(edge_for(*urls, rule=rule, settings=settings, upstream_rule=rule_of(chance)))
        before = descriptors()
        clients = [Client(edge, random.Random(chance.random()), f"c{number}", generations) for number in range(CLIENTS)]
        meddling = asyncio.create_task(meddle(edge, chance, generations))
        await asyncio.gather(*(client.run(REQUESTS // CLIENTS) for client in clients))
        meddling.cancel()
        await until(lambda: quiet(edge), ANSWER_SECONDS)
        await until(lambda: not left_over() - of_others, ANSWER_SECONDS)
        assert defects(caplog.records) == []
        statuses = sum((client.statuses for client in clients), Counter[int]())
        assert statuses[200] > REQUESTS // 4, statuses
        assert edge.pipeline.errands.answered > 0
        logged = Counter(record.request_id for record in edge.records)
        assert [identity for identity, times in logged.items() if times != 1] == []
        told = sum((client.complete for client in clients), Counter[str]())
        assert told.keys() - logged.keys() == set()
        # It works as if nothing had been.
        for origin in origins:
            origin.calm = True
        await edge.pipeline.purge(Purge(everything=True))
        for number in range(PATHS):
            got = await edge.fetch(f"/p{number}", headers={"Host": "e"})
            assert (got.status, proven(got.body)[0]) == (200, f"/p{number}")
        await edge.client.close()
        # What is kept to origins, and no more.
        await until(lambda: descriptors() <= before + 4 * CLIENTS, ANSWER_SECONDS)
