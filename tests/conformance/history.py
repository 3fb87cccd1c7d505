"""What may happen to two URLs behind an edge, as steps, and their playing over real sockets, each answer judged by `allowed`.

The clock is the edge's only fake. `test_histories_shared` draws histories.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from tests.conformance.allowed import Asked, Forgotten, Rules
from tests.conformance.book import Book, Edition
from tests.integration.proxy_support import Edge, Got, edge_for, origin_of

PATHS = ("/a", "/b")


@dataclass(frozen=True)
class Ask:
    path: str = "/a"
    how: str = "plain"
    kind: bool = False
    cookie: bool = False
    authorized: bool = False
    control: str = ""
    back: int = 0
    """Conditions are about the version so many before the current one."""
    method: str = "GET"
    hold: str = ""
    """The origin takes its time: `before` it makes its answer, `after`, or in the middle of the `body`."""


@dataclass(frozen=True)
class Change:
    """At the origin, and nobody is told: new content, or only other words about it."""

    path: str
    edition: Edition | None
    content: bool = True


@dataclass(frozen=True)
class Unsafe:
    path: str
    method: str = "PUT"
    status: int = 204
    field: str = ""
    """`Location` or `Content-Location` that names the other URL, or the same (`stores`)."""
    stores: bool = False
    """Its answer may answer later GETs."""


@dataclass(frozen=True)
class Purges:
    what: str
    path: str
    tag: str
    mode: str = ""


@dataclass(frozen=True)
class Wait:
    seconds: int


@dataclass(frozen=True)
class Failures:
    how: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """Answers that the origin holds are sent."""


Step = Ask | Change | Unsafe | Purges | Wait | Failures | Release


@dataclass(frozen=True)
class History:
    """What two URLs are at first, and what happens to them."""

    editions: dict[str, Edition]
    rule: CacheRule
    steps: list[Step]
    purge_at_once: int


@dataclass(frozen=True)
class Wire:
    """How clients talk to the edge."""

    fetch: Callable[[str, str, Mapping[str, str], bytes | None], Awaitable[Got | None]]
    """Method, path, fields and content of a request, to its answer; None: that broke off."""
    base: str
    """What URLs begin with."""
    host: str


Over = Callable[[Edge], AbstractAsyncContextManager[Wire]]


@dataclass
class Play:
    """One history under way."""

    edge: Edge
    wire: Wire
    book: Book
    rules: Rules
    unsafe: dict[str, tuple[Unsafe, int]] = field(default_factory=dict)
    """By client: what to answer, and when it was answered."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    clients: int = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        client = request.headers.get("X-Client", "")
        if client not in self.unsafe:
            return await self.book.answer(request)
        step, _ = self.unsafe[client]
        self.unsafe[client] = step, self.book.event()
        fields = {}
        if step.status < 400:
            for path in _touched(step):
                self.book.versions[path] = self.book.versions.setdefault(path, 1) + 1
        if step.field:
            fields[step.field] = PATHS[step.path == PATHS[0]]
        if not step.stores:
            return web.Response(status=step.status, headers=fields)
        made = self.book.note(request.path, request.method, request.headers)
        return web.Response(
            body=b"" if made.edition.status == 204 else made.content,
            status=made.edition.status,
            headers={**made.fields(), "Content-Location": step.path},
        )

    async def step(self, step: Step) -> None:
        match step:
            case Ask():
                await self._begin(step)
            case Change(path, edition, content):
                if edition is not None:
                    self.book.editions[path] = edition
                if content:
                    self.book.versions[path] = self.book.versions.setdefault(path, 1) + 1
            case Unsafe():
                await self._unsafe(step)
            case Purges():
                await self._purge(step)
            case Wait(seconds):
                self.edge.clock.advance(seconds)
                self.book.now = self.edge.clock.now
            case Failures(how):
                self.book.failing = list(how)
            case Release():
                self.book.release()
        await asyncio.sleep(0.001)
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.discard(task)
            task.result()

    async def end(self) -> None:
        while self.tasks:
            self.book.release()
            done, self.tasks = await asyncio.wait(self.tasks, timeout=0.01)
            for task in done:
                task.result()

    def _client(self) -> str:
        self.clients += 1
        return f"{self.clients}"

    async def _begin(self, ask: Ask) -> None:
        """Ask, and wait for the answer unless the origin holds it."""
        client = self._client()
        if ask.hold:
            self.book.holds[client] = ask.hold
        asked = Asked(ask.path, ask.method, self._fields(ask, client), self.book.event(), self.book.now)
        task = asyncio.create_task(self._ask(asked))
        self.tasks.add(task)
        while not task.done():
            await asyncio.wait([task], timeout=0.015)
            if self.book.held:
                return

    async def _ask(self, asked: Asked) -> None:
        got = await self.wire.fetch(asked.method, asked.path, asked.fields, None)
        self.rules.check(asked, got)

    def _fields(self, ask: Ask, client: str) -> dict[str, str]:
        fields = {"X-Client": client}
        fields |= {"X-Kind": "k"} if ask.kind else {}
        fields |= {"Cookie": "c=1"} if ask.cookie else {}
        fields |= {"Authorization": "Basic eDp5"} if ask.authorized else {}
        fields |= {"Cache-Control": ask.control} if ask.control else {}
        about = self.book.imagined(ask.path, fields, ask.back)
        tag = about.tag if about.edition.validator != "date" else about.modified
        return (
            fields
            | {
                "plain": {},
                "range": {"Range": "bytes=70-90"},
                "tail": {"Range": "bytes=84-"},
                "ranges": {"Range": "bytes=0-3,80-90"},
                "if-range": {"Range": "bytes=70-90", "If-Range": tag},
                "if-none-match": {"If-None-Match": about.tag},
                "if-modified-since": {"If-Modified-Since": about.modified},
            }[ask.how]
        )

    async def _unsafe(self, step: Unsafe) -> None:
        client = self._client()
        self.unsafe[client] = step, 0
        got = await self.wire.fetch(step.method, step.path, {"X-Client": client}, b"x")
        answered = self.unsafe[client][1]
        assert answered and got is not None, got
        if got.status < 400:
            until = self.rules.purged = self.book.event()
            self.rules.forgotten += [Forgotten(answered, until, path) for path in _touched(step)]

    async def _purge(self, step: Purges) -> None:
        uri = self.wire.base + step.path
        wanted: dict[str, object] = {
            "url": {"urls": (uri,)},
            "prefix": {"prefix": uri},
            "tag": {"tag": step.tag},
            "host": {"host": self.wire.host},
            "site": {"site": "site"},
        }[step.what]
        since = self.book.event()
        mode = {step.mode: True} if step.mode else {}
        await self.edge.pipeline.purge(Purge(**wanted, **mode))  # type: ignore[arg-type]
        until = self.rules.purged = self.book.event()
        if step.mode != "refresh":
            path = step.path if step.what in ("url", "prefix") else None
            tag = step.tag if step.what == "tag" else None
            self.rules.forgotten.append(Forgotten(since, until, path, tag, step.mode == "soft"))


def _touched(step: Unsafe) -> tuple[str, ...]:
    return PATHS if step.field else (step.path,)


@asynccontextmanager
async def http_1(edge: Edge) -> AsyncIterator[Wire]:
    """Over HTTP/1.1, without TLS."""

    async def fetch(method: str, path: str, fields: Mapping[str, str], body: bytes | None) -> Got | None:
        try:
            return await edge.fetch(path, method, headers=fields, data=body, skip_auto_headers=("Accept-Encoding", "Accept"))
        except aiohttp.ClientError:
            return None

    yield Wire(fetch, edge.uri("/").removesuffix("/"), edge.address[0])


async def play(history: History, over: Over = http_1, **options: Any) -> None:
    """Raises AssertionError where no cache may answer so. `options`: the edge's."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await playing.answer(request)

    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, rule=history.rule, purge_at_once=history.purge_at_once, **options) as edge,
        over(edge) as wire,
    ):
        book = Book(edge.clock.now, dict(history.editions))
        playing = Play(edge, wire, book, Rules(book, history.rule.max_object_bytes))
        try:
            for step in history.steps:
                await playing.step(step)
            await playing.end()
        finally:
            for task in playing.tasks:
                task.cancel()
            await asyncio.gather(*playing.tasks, return_exceptions=True)
