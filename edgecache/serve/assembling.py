"""Pages made of templates and fragments (Edge Side Includes). Reads templates with `policy.esi`, fetches fragments through the
pipeline, each with its own key and lifetime, and sends all in order. `pipeline` calls it; what is stored is never a page.

Fragments are fetched in parallel as soon as the template names them. How many, how deep, how large and how long has bounds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from edgecache.policy.authority import authority_of, is_authority
from edgecache.policy.coding import code
from edgecache.policy.connection import hop_by_hop
from edgecache.policy.esi import Include, Parser, Piece, assembled_head
from edgecache.policy.fields import freeze, without
from edgecache.policy.forwarding import CONDITIONAL_FIELDS
from edgecache.policy.message import Request
from edgecache.serve.answer import Answer
from edgecache.serve.call import Call
from edgecache.serve.compressing import CodedBody
from edgecache.sites import Route
from edgecache.source import Body, Culprit, SourceError

_log = logging.getLogger(__name__)

MAX_DEPTH: Final = 3
"""Fragments within fragments within fragments of a page."""
MAX_INCLUDES: Final = 64
"""Fragments asked for by one page, alternatives and fragments of fragments included."""
MAX_FRAGMENT_BYTES: Final = 1 << 20
MAX_FRAGMENTS_BYTES: Final = 16 << 20
"""All fragments of one page."""
MAX_SECONDS: Final = 10.0
"""From asking for a fragment to its last byte, alternatives and inner fragments included. After that it has failed."""
PARALLEL: Final = 8
_PIECE_BYTES: Final = 16 << 10
"""Of a template, read before others have a turn."""
_AHEAD: Final = 64
"""Pieces of a page that wait for those before them."""

_WHOLE: Final = frozenset({200, 203, 204})
_OF_THE_PAGE: Final = CONDITIONAL_FIELDS | {
    "accept-encoding",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "pragma",
    "x-request-id",
}
"""What the client asked of the page is not asked of its fragments."""
_CREDENTIALS: Final = frozenset({"authorization", "cookie"})

Fetch = Callable[[Call], Awaitable[Answer]]
Router = Callable[[Request], Route | None]


class Failed(Exception):
    """A fragment cannot be had. `reason` is one of a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Spent:
    """What a page has used of its bounds."""

    includes: int = 0
    fragment_bytes: int = 0


def assemble(call: Call, answer: Answer, fetch: Fetch, route: Router) -> Answer:
    """The page in place of its template."""
    response, coding = code(call.request, assembled_head(answer.response), call.route.rule.compress)
    extra = tuple((name, value) for name, value in answer.extra if name != "Age")
    if call.request.method == "HEAD":
        return replace(answer, response=response, length=None, extra=extra, template=False)
    body: Body = Page(answer.body, Fragments(call, fetch, route))
    if coding is not None:
        body = CodedBody(body, coding, prompt=True)
    return replace(answer, response=response, body=body, length=None, extra=extra, template=False)


class Fragments:
    """The fragments of one page."""

    def __init__(self, call: Call, fetch: Fetch, route: Router) -> None:
        self._call = call
        self._fetch = fetch
        self._route = route
        self._slots = asyncio.Semaphore(PARALLEL)
        self._spent = _Spent()

    async def content(self, include: Include) -> bytes:
        """What stands in the place of `include` in the page that the client asked for."""
        deadline = asyncio.get_running_loop().time() + MAX_SECONDS
        return await self._content(include, self._call.request, 1, deadline)

    async def _content(self, include: Include, page: Request, depth: int, deadline: float) -> bytes:
        reason = "no-src"
        for reference in (include.src, include.alt):
            if reference is None:
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._fragment(reference, page, depth, deadline)
            except Failed as failed:
                reason = failed.reason
            except TimeoutError:
                reason = "timeout"
        if self._spent.includes <= MAX_INCLUDES + 1:
            _log.info("%s: a fragment failed: %s (%s)", self._call.request.uri, include.src, reason)
        return _in_place_of(include, reason)

    async def _fragment(self, reference: str, page: Request, depth: int, deadline: float) -> bytes:
        if depth > MAX_DEPTH:
            raise Failed("depth")
        self._spent.includes += 1
        if self._spent.includes > MAX_INCLUDES:
            raise Failed("includes")
        request = fragment_request(reference, page)
        route = self._route(request)
        if route is None or route.site.name != self._call.route.site.name:
            raise Failed("foreign")
        asked = replace(self._call, request=request, body=None, route=route, prepared=False, on_interim=None)
        async with self._slots:
            answer = await self._fetch(asked)
            content = await self._read(answer)
        return await self._expanded(content, request, depth + 1, deadline) if answer.template else content

    async def _read(self, answer: Answer) -> bytes:
        if answer.response.status not in _WHOLE or "Content-Encoding" in answer.response.headers:
            await answer.close()
            raise Failed("coded" if answer.response.status in _WHOLE else f"status-{answer.response.status}")
        try:
            content = await answer.read(MAX_FRAGMENT_BYTES)
        except SourceError as error:
            raise Failed(error.reason) from error
        self._spent.fragment_bytes += len(content)
        if len(content) > MAX_FRAGMENT_BYTES or self._spent.fragment_bytes > MAX_FRAGMENTS_BYTES:
            raise Failed("too-large")
        return content

    async def _expanded(self, template: bytes, page: Request, depth: int, deadline: float) -> bytes:
        """A fragment that is a template itself; `depth` is that of the fragments in it."""
        parser = Parser()
        pieces: list[Piece] = []
        async for chunk in _chunks(template):
            pieces += parser.feed(chunk)
        pieces += parser.finish()
        includes = [piece for piece in pieces if isinstance(piece, Include)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._content(each, page, depth, deadline)) for each in includes[:MAX_INCLUDES]]
        contents = [task.result() for task in tasks]
        contents += [_in_place_of(each, "includes") for each in includes[MAX_INCLUDES:]]
        filled = iter(contents)
        return b"".join(next(filled) if isinstance(piece, Include) else piece for piece in pieces)


class Page:
    """The body of a page: the template's text and its fragments, in order."""

    def __init__(self, template: bytes | Body, fragments: Fragments) -> None:
        self._template = template
        self._fragments = fragments
        self._pieces: asyncio.Queue[bytes | asyncio.Task[bytes] | SourceError | None] = asyncio.Queue(_AHEAD)
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._reader: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        while True:
            match await self._pieces.get():
                case None:
                    raise StopAsyncIteration
                case SourceError() as error:
                    raise error
                case bytes() as text:
                    return text
                case task:
                    if content := await task:
                        return content

    async def close(self) -> None:
        tasks = [task for task in (self._reader, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if not isinstance(self._template, bytes):
            await self._template.close()

    async def _read(self) -> None:
        """Ahead of what is sent, so that fragments are on their way before their turn comes."""
        parser = Parser()
        try:
            async for chunk in _chunks(self._template):
                await self._queue(parser.feed(chunk))
            await self._queue(parser.finish())
        except SourceError as error:
            await self._pieces.put(error)
        except Exception:
            _log.exception("a template could not be assembled")
            await self._pieces.put(SourceError(Culprit.EDGE, "assembling", status=500))
        else:
            await self._pieces.put(None)

    async def _queue(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Include):
                task = asyncio.create_task(self._fragments.content(piece))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                await self._pieces.put(task)
            else:
                await self._pieces.put(piece)


def fragment_request(reference: str, page: Request) -> Request:
    """What to ask for the fragment that `reference` names in `page`: over the page's scheme, for the same visitor.

    Credentials go to the page's own host only. Raises Failed("reference") for what is no http or https URL.
    """
    try:
        url = urlsplit(urljoin(page.uri, reference.strip()))
        authority = authority_of(url.netloc, url.scheme) if url.scheme in ("http", "https") else ""
    except ValueError:
        raise Failed("reference") from None
    if not authority or not is_authority(authority):
        raise Failed("reference")
    target = quote(url.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(url.query, safe="/%:@!$&'()*+,;=~?[]") if url.query else ""
    )
    dropped = _OF_THE_PAGE | hop_by_hop(page.headers)
    if authority != page.authority:
        dropped = dropped | _CREDENTIALS
    fields = [(name, authority if name.lower() == "host" else value) for name, value in without(page.headers, dropped)]
    return Request("GET", page.scheme, authority, target, freeze(fields))


def _in_place_of(include: Include, reason: str) -> bytes:
    """What stands where a fragment cannot be had."""
    return b"" if include.continues else b"<!-- esi:include failed: %b -->" % reason.encode()


async def _chunks(template: bytes | Body) -> AsyncIterator[bytes]:
    """In pieces, with a turn for others after each: what comes of one may be nothing at all, or thousands of fragments."""
    if isinstance(template, bytes):
        for start in range(0, len(template), _PIECE_BYTES):
            yield template[start : start + _PIECE_BYTES]
            await asyncio.sleep(0)
        return
    async for chunk in template:
        async for piece in _chunks(chunk):
            yield piece
