"""What happens to an edge at random: origins that misbehave, whose bodies tell whose they are and that they are whole, and an
operator who meddles. For the random fault tests; what must hold when they are over is `aftermath_support`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.policy.upstream import BreakerRule, RetryRule, Timeouts, UpstreamRule
from edgecache.serve.settings import ServeSettings
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import Edge, edge_for, raw_origin, read_head

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


def seeds(count: int) -> range:
    """Of a test that is run for `count` seeds; for a longer hunt, more, or others."""
    first = int(os.environ.get("EDGECACHE_FAULT_FIRST_SEED", "0"))
    return range(first, first + int(os.environ.get("EDGECACHE_FAULT_SEEDS", str(count))))


def requests(count: int) -> int:
    """How many each seed sends; for a longer hunt, more."""
    return int(os.environ.get("EDGECACHE_FAULT_REQUESTS", str(count)))


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


def assert_whose(body: bytes, path: str, floor: int, whose: Collection[str] = ("-",)) -> None:
    """A body of 200 is whole, of `path`, for one of `whose`, and made after `floor`."""
    of, who, generation = proven(body)
    assert of == path, f"the body of {of} for {path}"
    assert who in whose, f"the body of {who} for {whose}"
    assert generation > floor, f"body {generation}, though all up to {floor} were purged before it was asked for"


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
class Asker:
    """One client of many, and what it has been told."""

    edge: Edge
    random: random.Random
    name: str
    generations: Generations
    complete: Counter[str] = field(default_factory=Counter)
    """Request IDs of answers that came whole."""
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def language(self) -> str:
        """Which it shares with others."""
        return f"l{int(self.name[1:]) % 3}"

    def told(self, status: int, fields: Mapping[str, str]) -> None:
        """An answer has come whole."""
        self.statuses[status] += 1
        self.complete[fields["x-request-id"]] += 1

    def assert_own(self, path: str, floor: int, fields: Mapping[str, str], body: bytes) -> None:
        """What was told with 200."""
        assert fields["x-path"] == path, f"the head of {fields['x-path']} for {path}"
        assert_whose(body, path, floor, {"-", self.name, self.language})


@contextlib.asynccontextmanager
async def chaotic(
    origins: Sequence[Chaos], chance: random.Random, settings: ServeSettings, upgrade: tuple[Upgradable, ...] = ()
) -> AsyncIterator[Edge]:
    """An edge before these origins, with limits that are short, and few, as chance has it."""
    rule = CacheRule(max_object_bytes=chance.choice((30_000, 1 << 20)))
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(raw_origin(origin.handle)) for origin in origins]
        upstream = UpstreamRule(
            timeouts=Timeouts(connect=1.0, first_byte=0.4, between_bytes=0.4),
            retries=RetryRule(attempts=chance.choice((0, 1, 2)), statuses=chance.choice(((), (503,)))),
            breaker=BreakerRule(max_connections=chance.choice((None, 4, 16)), max_pending=64),
            ejection=None,
        )
        yield await stack.enter_async_context(
            edge_for(*urls, rule=rule, settings=settings, upstream_rule=upstream, upgrade=upgrade)
        )


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


@contextlib.asynccontextmanager
async def meanwhile(meddling: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """`meddling`, which has no end of its own, for as long as the block runs. Raises what it does."""
    task = asyncio.create_task(meddling)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
