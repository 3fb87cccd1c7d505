"""Histories of two URLs that several clients ask for, drawn at random and played over real sockets: purges of every kind, unsafe
methods that name the other URL, origins that change their mind about directives, Vary and status, that fail, that answer late.

Whatever the edge makes of them, each answer is one that RFC 9111 allows at that moment (`allowed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    """The origin takes its time: `before` it makes its answer, or `after`."""


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


@dataclass
class Play:
    """One history under way."""

    edge: Edge
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
        try:
            got: Got | None = await self.edge.fetch(
                asked.path, asked.method, headers=asked.fields, skip_auto_headers=("Accept-Encoding", "Accept")
            )
        except aiohttp.ClientError:
            got = None
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
        got = await self.edge.fetch(step.path, step.method, headers={"X-Client": client}, data=b"x")
        answered = self.unsafe[client][1]
        assert answered, got
        if got.status < 400:
            until = self.book.event()
            self.rules.forgotten += [Forgotten(answered, until, path) for path in _touched(step)]

    async def _purge(self, step: Purges) -> None:
        uri = self.edge.uri(step.path)
        wanted: dict[str, object] = {
            "url": {"urls": (uri,)},
            "prefix": {"prefix": uri},
            "tag": {"tag": step.tag},
            "host": {"host": self.edge.address[0]},
            "site": {"site": "site"},
        }[step.what]
        since = self.book.event()
        mode = {step.mode: True} if step.mode else {}
        await self.edge.pipeline.purge(Purge(**wanted, **mode))  # type: ignore[arg-type]
        until = self.book.event()
        if step.mode != "refresh":
            path = step.path if step.what in ("url", "prefix") else None
            tag = step.tag if step.what == "tag" else None
            self.rules.forgotten.append(Forgotten(since, until, path, tag, step.mode == "soft"))


def _touched(step: Unsafe) -> tuple[str, ...]:
    return PATHS if step.field else (step.path,)


async def play(history: History) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await playing.answer(request)

    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, rule=history.rule, purge_at_once=history.purge_at_once) as edge,
    ):
        book = Book(edge.clock.now, dict(history.editions))
        playing = Play(edge, book, Rules(book))
        try:
            for step in history.steps:
                await playing.step(step)
            await playing.end()
        finally:
            for task in playing.tasks:
                task.cancel()


_CONTROLS = [
    *["max-age=60", "max-age=5", "max-age=2"] * 2,
    *["max-age=0", "unheard-of", "no-store", "no-cache", "private, max-age=60"],
    *['private="x-secret", max-age=60', 'no-cache="x-secret", max-age=60'],
    *["public, max-age=60", "public, max-age=2", "s-maxage=5, max-age=60", "max-age=2, must-revalidate"],
    *["max-age=2, proxy-revalidate", "max-age=60, must-revalidate"],
    *["max-age=2, stale-while-revalidate=3", "max-age=60, stale-while-revalidate=3"],
    *["max-age=2, stale-if-error=4", "max-age=60, stale-if-error=4"],
    "max-age=2, must-revalidate, stale-if-error=4, stale-while-revalidate=4",
]
_WISHES = [
    *["", "", "", "", "no-cache", "no-store", "only-if-cached", "max-age=0", "max-age=1", "min-fresh=3", "max-stale=2"],
    *["max-stale", "stale-if-error=3", "max-age=1, max-stale=5"],
]
_HOWS = ["plain", "plain", "plain", "range", "tail", "ranges", "if-range", "if-none-match", "if-modified-since"]
_FAILURES = [Failures((how,) * times) for how in ("500", "503", "reset", "mid") for times in (1, 1, 2, 3)]


@dataclass(frozen=True)
class History:
    editions: dict[str, Edition]
    rule: CacheRule
    steps: list[Step]
    purge_at_once: int


@st.composite
def _histories(draw: st.DrawFn) -> History:
    """Each is about a few things only, drawn first: of everything at once, little would meet."""

    def few(options: Sequence[Any]) -> st.SearchStrategy[Any]:
        return st.sampled_from(draw(st.lists(st.sampled_from(options), min_size=1, max_size=2)))

    editions = st.builds(
        Edition,
        control=few(_CONTROLS),
        validator=few(["strong", "strong", "weak", "date", ""]),
        vary=few([(), (), ("X-Kind",), ("X-Kind",), ("Cookie",), ("X-Kind", "Cookie"), ("*",)]),
        tag=few(["red", "blue"]),
        status=few([*[200] * 9, 204, 301, 302, 404, 410]),
        age=few([0, 0, 0, 1, 4]),
        bare=few([False, True]),
        ranges=few([False, True]),
        sized=few([False, True]),
    )
    paths = few(["/a", "/a", "/b"])
    asks = {
        "path": paths,
        "how": few(_HOWS),
        "kind": few([False, True]),
        "cookie": few([False, False, True]),
        "authorized": few([False, False, False, True]),
        "control": few(_WISHES),
        "back": few([0, 1]),
        "method": few(["GET", "GET", "GET", "HEAD"]),
    }
    unsafe = st.builds(
        Unsafe,
        path=paths,
        method=few(["PUT", "POST", "DELETE"]),
        status=few([200, 204, 303, 404, 500]),
        field=few(["", "Location", "Content-Location"]),
    )
    stores = st.builds(Unsafe, path=paths, method=st.just("POST"), status=st.just(200), stores=st.just(True))
    what, mode = few(["url", "prefix", "tag", "host", "site"]), few(["", "", "soft", "refresh"])
    purges = st.builds(Purges, what=what, path=paths, tag=few(["red", "blue"]), mode=mode)
    changes = st.builds(Change, paths, editions, st.booleans()) | st.builds(Change, paths, st.none(), st.just(True))
    waits = st.builds(Wait, few([1, 2, 3, 6]))
    rare = [changes, unsafe, stores, purges, waits, st.sampled_from(_FAILURES)]
    kinds = draw(st.lists(st.sampled_from(rare), min_size=1, max_size=3, unique_by=id))
    held = [st.builds(Ask, hold=st.sampled_from(["before", "after"]), **asks), st.just(Release())] if draw(st.booleans()) else []
    # Of a strategy that is named twice, `one_of` takes one.
    often = [st.builds(Ask, **asks) for _ in range(len(kinds) + 1)]
    steps = draw(st.lists(st.one_of(*often, *held, *kinds), min_size=6, max_size=24))
    targeted = draw(few([False, False, True]))
    soundly = [
        replace(step, edition=_soundly(step.edition, targeted=targeted))
        if isinstance(step, Change) and step.edition is not None
        else step
        for step in steps
    ]
    return History(
        {path: _soundly(draw(editions), targeted=targeted) for path in PATHS},
        draw(few([CacheRule(), CacheRule(), CacheRule(forward_ranges=True), CacheRule(max_object_bytes=85)])),
        soundly,
        draw(st.sampled_from([0, 500])),
    )


def _soundly(edition: Edition, *, targeted: bool) -> Edition:
    """What leaves nothing open: where an origin says less than before, caches that freshen what they hold keep the old words."""
    if edition.validator == "":
        # A HEAD would not tell its versions apart.
        edition = replace(edition, sized=True)
    return replace(edition, targeted=edition.control, control="max-age=60") if targeted else edition


def _of(first: Edition, *steps: Step) -> History:
    return History({"/a": first, "/b": Edition()}, CacheRule(), list(steps), 500)


_BRIEF = Edition("max-age=2")
_BARE = Edition("max-age=2", validator="")
_VARYING = ("X-Kind",)
FOUND = {
    "a 304 brings another Vary": _of(
        _BRIEF,
        *[Ask(), Wait(3), Change("/a", replace(_BRIEF, vary=_VARYING), content=False)],
        *[Ask(hold="after"), Ask(kind=True), Release()],
    ),
    "a HEAD brings another Vary": _of(
        _BARE,
        *[Ask(), Wait(3), Change("/a", Edition(validator="", vary=_VARYING), content=False)],
        *[Ask(method="HEAD"), Ask(kind=True)],
    ),
    "a 304 brings other tags, and comes after a purge by the old one": _of(
        _BRIEF,
        *[Ask(), Wait(3), Change("/a", Edition(tag="blue"), content=False)],
        *[Ask(hold="after"), Purges("tag", "/a", "red"), Ask(), Release()],
    ),
    "a HEAD brings other tags, and comes after a purge by the new one": _of(
        _BARE,
        *[Ask(), Wait(3), Change("/a", Edition(validator="", tag="blue"), content=False)],
        *[Ask(method="HEAD", hold="after"), Purges("tag", "/a", "blue"), Release(), Ask()],
    ),
    "a 304 is not stored": _of(_BRIEF, Ask(), Purges("url", "/a", "red", "soft"), Ask(control="no-store")),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    asyncio.run(play(FOUND[name]))


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(_histories())
def test_each_answer_is_one_that_a_shared_cache_may_give(history: History) -> None:
    asyncio.run(play(history))
