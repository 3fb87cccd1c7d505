"""The shop's server: routes, validators, and the knobs obeyed, on aiohttp. Broken answers are written to the transport directly.

`Shop` starts and stops it; `__main__` and the tests call it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from email.utils import formatdate, parsedate_to_datetime
from types import TracebackType
from typing import Any, Final

from aiohttp import web

from origin_sim import pages, proof, rawanswer, routes
from origin_sim.faults import FaultBook, FaultError, Faults, knobs_of
from origin_sim.pages import Page

MAX_COUNTED_PATHS: Final = 10_000
MAX_ADMIN_BYTES: Final = 64 << 10
PIECE_BYTES: Final = 64 << 10
LAST_MODIFIED_TIME: Final = parsedate_to_datetime(pages.LAST_MODIFIED).timestamp()


class Shop:
    """One running shop. `async with Shop(port=0) as shop:` listens on `shop.url`."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._host, self._port, self._clock = host, port, clock
        self._faults = FaultBook()
        self._requests: Counter[str] = Counter()
        self._reviews: Counter[int] = Counter()
        self._errors_due: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Shop:
        app = web.Application(client_max_size=MAX_ADMIN_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        port = self._runner.addresses[0][1]
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{shown}:{port}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def requests(self) -> dict[str, int]:
        """Requests since the start or the last reset, by path; admin calls are not counted."""
        return dict(self._requests)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/_admin/"):
            return _plain(await self._admin(request), request.raw_path)
        self._count(request.path)
        try:
            faults = self._faults.take(request.path, knobs_of(request.query.items()))
        except FaultError as error:
            return _plain(pages.api_error(400, str(error)), request.raw_path)
        if faults.delay:
            await asyncio.sleep(faults.delay)
        if faults.broken is not None:
            return rawanswer.Broken(faults.broken)
        return await self._send(request, await self._page(request, faults), faults)

    def _count(self, path: str) -> None:
        known = path in self._requests or len(self._requests) < MAX_COUNTED_PATHS
        self._requests[path if known else "(others)"] += 1

    async def _page(self, request: web.Request, faults: Faults) -> Page:
        if faults.error_rate and self._error_is_due(request.path, faults.error_rate):
            return pages.api_error(500, "one of the errors that _error_rate asks for")
        if request.method in {"GET", "HEAD"}:
            return routes.read(request, self._reviews, self._clock())
        return await routes.change(request, self._reviews)

    def _error_is_due(self, path: str, rate: float) -> bool:
        """Spread evenly, the same on every run: the n-th answer fails when floor(n·rate) grows."""
        key = path if path in self._errors_due or len(self._errors_due) < MAX_COUNTED_PATHS else "(others)"
        before = self._errors_due[key]
        self._errors_due[key] += 1
        return math.floor((before + 1) * rate + 1e-9) > math.floor(before * rate + 1e-9)

    async def _send(self, request: web.Request, page: Page, faults: Faults) -> web.StreamResponse:
        target, status = request.raw_path, faults.status or page.status
        compressed = faults.gzip and faults.size is None and "gzip" in request.headers.get("Accept-Encoding", "")
        body = gzip.compress(page.body, mtime=0) if compressed else page.body
        bodyless = status in {204, 304}
        length = 0 if bodyless else len(body) if faults.size is None else faults.size
        digest = await _digest(target, body, faults.size)
        etag = _etag(digest or f"{target} {faults.size}", status)
        validators = page.validators and not faults.no_validators and status == 200
        if validators and _unmodified(request, etag):
            status, length, bodyless = 304, 0, True
        fields = list(_fields(page, faults, target, compressed=compressed))
        fields += [("ETag", etag), ("Last-Modified", pages.LAST_MODIFIED)] if validators else []
        fields += [("Repr-Digest", digest)] if digest and not bodyless else []
        blocks: Iterable[bytes] = () if request.method == "HEAD" or bodyless else _blocks(body, target, faults.size)
        pieces = _pieces(blocks, faults)
        if faults.cl_lie and not bodyless:
            return rawanswer.Lying(status, [*fields, ("Content-Length", str(max(0, length + faults.cl_lie)))], pieces)
        response = web.StreamResponse(status=status)
        for name, value in fields:
            response.headers.add(name, value)
        if faults.chunked and not bodyless:
            response.enable_chunked_encoding()
        elif status not in {204, 304}:
            response.content_length = length
        await response.prepare(request)
        await _stream(request, response, pieces, faults)
        return response

    async def _admin(self, request: web.Request) -> Page:
        match (request.method, request.path.removeprefix("/_admin/")):
            case ("GET", "requests"):
                return pages.api_answer({"total": self._requests.total(), "paths": self.requests})
            case ("GET", "faults"):
                return pages.api_answer({"faults": self._rules()})
            case ("POST", "faults"):
                return await self._set_faults(request)
            case ("DELETE", "faults"):
                self._faults.clear()
                return pages.api_answer({"faults": []})
            case ("POST", "reset"):
                self._faults.clear()
                for counter in (self._requests, self._reviews, self._errors_due):
                    counter.clear()
                return pages.api_answer({"reset": True})
            case _:
                return pages.api_error(
                    404, "there are GET, POST and DELETE /_admin/faults, GET /_admin/requests, POST /_admin/reset"
                )

    async def _set_faults(self, request: web.Request) -> Page:
        try:
            data = json.loads(await request.read())
            prefix, times = data.get("prefix", "/"), data.get("times")
            knobs = tuple(_knobs(data.get("faults", {})))
            if not isinstance(prefix, str) or not (times is None or isinstance(times, int)):
                raise FaultError("prefix must be text, times a whole number")
            self._faults.set(prefix, knobs, times)
        except (ValueError, AttributeError, RecursionError) as error:
            wanted = 'send {"prefix": "/api", "faults": {"delay": "200ms"}, "times": 3}'
            return pages.api_error(400, f"{error}; {wanted}")
        return pages.api_answer({"faults": self._rules()})

    def _rules(self) -> list[dict[str, Any]]:
        return [{"prefix": rule.prefix, "faults": list(rule.knobs), "times": rule.left} for rule in self._faults.rules()]


def _knobs(faults: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(faults, dict):
        raise FaultError("faults must be an object")
    for name, value in faults.items():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str | int | float):
                raise FaultError(f"{name[:60]!r} must be text or a number")
            yield name, ("1" if one else "0") if isinstance(one, bool) else str(one)


def _plain(page: Page, target: str) -> web.Response:
    response = web.Response(status=page.status, body=page.body)
    for name, value in _fields(page, Faults(), target, compressed=False):
        response.headers[name] = value
    return response


def _fields(page: Page, faults: Faults, target: str, *, compressed: bool) -> Iterator[tuple[str, str]]:
    yield "Content-Type", "application/octet-stream" if faults.size is not None else page.content_type
    yield "Date", formatdate(usegmt=True)
    yield proof.TARGET_FIELD, target
    if cache_control := page.cache_control if faults.cc is None else faults.cc:
        yield "Cache-Control", cache_control
    vary = [name for name in (page.vary, "Accept-Encoding" if faults.gzip else "") if name]
    if vary:
        yield "Vary", ", ".join(vary)
    if compressed:
        yield "Content-Encoding", "gzip"
    if page.tags:
        yield "Cache-Tag", ",".join(page.tags)
    yield from page.fields
    yield from faults.header


async def _digest(target: str, body: bytes, size: int | None) -> str | None:
    if size is None:
        return proof.digest(body)
    if size > proof.DIGEST_LIMIT_BYTES:
        return None
    return await asyncio.to_thread(proof.filler_digest, target, size)


def _etag(of: str, status: int) -> str:
    return f'"{hashlib.sha256(f"{status} {of}".encode()).hexdigest()[:20]}"'


def _unmodified(request: web.Request, etag: str) -> bool:
    """RFC 9110 section 13.2.2: If-None-Match decides where it is present, else If-Modified-Since."""
    if (wanted := request.headers.get("If-None-Match")) is not None:
        tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
        return "*" in tags or etag in tags
    since = request.if_modified_since
    return since is not None and since.timestamp() >= LAST_MODIFIED_TIME


def _blocks(body: bytes, target: str, size: int | None) -> Iterator[bytes]:
    if size is not None:
        yield from proof.filler(target, size)
        return
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


async def _pieces(blocks: Iterable[bytes], faults: Faults) -> AsyncIterator[bytes]:
    """The body as it is to be sent: dripped where asked, and cut where it is to end early."""
    cuts = [cut for cut in (faults.reset_at, faults.stall_at) if cut is not None]
    left = min(cuts, default=math.inf)
    for block in blocks:
        step = faults.drip_bytes if faults.drip else len(block)
        for start in range(0, len(block), step):
            if faults.drip:
                await asyncio.sleep(faults.drip)
            piece = block[start : start + step][: int(min(left, step))]
            left -= len(piece)
            if piece:
                yield piece
            if left <= 0:
                return


async def _stream(request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes], faults: Faults) -> None:
    async for piece in pieces:
        await response.write(piece)
    if faults.reset_at is not None:
        rawanswer.reset(request)
    elif faults.stall_at is not None:
        await asyncio.sleep(rawanswer.STALL_SECONDS)
    else:
        await response.write_eof()
