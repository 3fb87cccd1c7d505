"""An origin of a few URLs that writes down each answer it makes: what it said, when, and to whom.

Every answer has a number of its own, in a field that caches store and 304s renew: by it `allowed` tells what a client was
answered with, whatever the edge has made of it. `test_histories_shared` plays with both.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

KINDS: Final = ("X-Kind", "Cookie")
"""Request fields that responses may vary on."""


@dataclass(frozen=True)
class Edition:
    """How the origin speaks of a URL for the time being. One value for each of KINDS is all that clients send."""

    control: str = "max-age=60"
    targeted: str | None = None
    """Its CDN-Cache-Control."""
    validator: str = "strong"
    """`strong`, `weak`, `date`, or empty."""
    vary: tuple[str, ...] = ()
    tag: str = "red"
    status: int = 200
    age: int = 0
    """It comes with this Age, as from a cache."""
    bare: bool = False
    """Its 304s have no validators."""
    ranges: bool = True
    sized: bool = True

    @property
    def directives(self) -> dict[str, str]:
        """Those that a shared cache with a CDN's target list obeys (RFC 9213 section 2.2)."""
        return directives(self.control if self.targeted is None else self.targeted)


def directives(text: str) -> dict[str, str]:
    """Of a Cache-Control without commas in its arguments."""
    pairs = (member.strip().partition("=") for member in text.split(",") if member.strip())
    return {name: value.strip('"') for name, _, value in pairs}


@dataclass(frozen=True)
class Exchange:
    """One answer of the origin."""

    number: int
    at: int
    """Its place among all that happened."""
    time: float
    path: str
    version: int
    edition: Edition
    asked: Mapping[str, str]
    method: str

    @property
    def client(self) -> str:
        return self.asked.get("X-Client", "")

    @property
    def selected(self) -> tuple[tuple[str, str], ...]:
        """What of the request has selected the representation. Without any, it is the one of times when nothing was varied on."""
        return tuple((name, self.asked[name]) for name in KINDS if name in self.edition.vary and name in self.asked)

    @property
    def content(self) -> bytes:
        """Of another length for each version, and for each selection: a HEAD tells them apart by it."""
        chosen = sum(1 << KINDS.index(name) for name, _ in self.selected)
        proof = f"{self.path} {self.version} {self.selected} ".encode().ljust(80, b".")
        return proof + bytes((self.version * 31 + at * 7) % 251 for at in range(self.version * 4 + chosen))

    @property
    def tag(self) -> str:
        chosen = "".join(value for _, value in self.selected)
        return ("W/" if self.edition.validator == "weak" else "") + f'"{self.version}{chosen}"'

    @property
    def modified(self) -> str:
        return formatdate(1_000_000_000 + 100 * self.version + len(self.selected), usegmt=True)

    def fields(self) -> dict[str, str]:
        edition = self.edition
        found = {"Date": formatdate(self.time, usegmt=True), "X-Number": f"{self.number}", "Cache-Tag": edition.tag}
        found |= {"Content-Type": "image/x", "X-Secret": f"{self.number}"}
        found["Cache-Control"] = edition.control
        if edition.targeted is not None:
            found["CDN-Cache-Control"] = edition.targeted
        if edition.age:
            found["Age"] = f"{edition.age}"
        if edition.ranges:
            found["Accept-Ranges"] = "bytes"
        if edition.vary:
            found["Vary"] = ", ".join(edition.vary)
        if edition.status in (301, 302):
            found["Location"] = "/elsewhere"
        return found | self.validators()

    def validators(self) -> dict[str, str]:
        if self.edition.status != 200:
            return {}
        if self.edition.validator == "date":
            return {"Last-Modified": self.modified}
        return {"ETag": self.tag} if self.edition.validator else {}


@dataclass
class Book:
    """The origin, and what has happened so far."""

    now: float
    editions: dict[str, Edition]
    versions: dict[str, int] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    events: int = 0
    failing: list[str] = field(default_factory=list)
    """How its next answers fail: by a status, by a reset of the connection, before them or `mid`way."""
    failed: list[tuple[int, str]] = field(default_factory=list)
    """When and how answers have failed."""
    holds: dict[str, str] = field(default_factory=dict)
    """Clients whose answers wait: `before` they are made, `after`, or in the middle of the `body`."""
    held: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    """When the answer of that number was sent."""
    tags: dict[int, set[str]] = field(default_factory=dict)
    """Of a 304, by its number: those that the stored response may have had."""
    _gate: asyncio.Event = field(default_factory=asyncio.Event)

    def event(self) -> int:
        self.events += 1
        return self.events

    def release(self) -> None:
        """Answers that wait are sent."""
        gate, self._gate = self._gate, asyncio.Event()
        gate.set()

    async def _hold(self) -> None:
        self.held += 1
        try:
            await self._gate.wait()
        finally:
            self.held -= 1

    def note(self, path: str, method: str, asked: Mapping[str, str]) -> Exchange:
        made = Exchange(
            number=len(self.exchanges),
            at=self.event(),
            time=self.now,
            path=path,
            version=self.versions.setdefault(path, 1),
            edition=self.editions[path],
            asked=CIMultiDict(asked),
            method=method,
        )
        self.exchanges.append(made)
        return made

    def imagined(self, path: str, asked: Mapping[str, str], back: int) -> Exchange:
        """What it would say now, or would have said so many versions ago: for conditions."""
        version = max(1, self.versions.setdefault(path, 1) - back)
        return Exchange(-1, -1, self.now, path, version, self.editions[path], asked, "GET")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """To a GET or HEAD."""
        hold = self.holds.get(request.headers.get("X-Client", ""))
        if hold == "before":
            await self._hold()
        failure = self.failing.pop(0) if self.failing else ""
        made = None if failure not in ("", "mid") else self.note(request.path, request.method, request.headers)
        if hold == "after":
            await self._hold()
        if failure not in ("", "mid"):
            self.failed.append((self.event(), failure))
        if made is None:
            if failure == "reset":
                _abort(request)
                return web.Response()
            return web.Response(status=int(failure), text="broken")
        return await self.send(request, made, broken=failure == "mid")

    async def send(self, request: web.BaseRequest, made: Exchange, *, broken: bool = False) -> web.StreamResponse:
        self.sent[made.number] = self.event()
        status, body, fields = _judged(made)
        if status == 304:
            # What is stored has brought the same content, with a tag of then.
            same = [each for each in self.exchanges if (each.path, each.content) == (made.path, made.content)]
            self.tags[made.number] = {each.edition.tag for each in same}
        if status in (204, 304):
            return web.Response(status=status, headers=fields)
        response = web.StreamResponse(status=status, headers=fields)
        if made.edition.sized:
            response.content_length = len(body)
        elif request.method != "HEAD":
            response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method != "HEAD":
            if broken:
                await response.write(body[: len(body) // 2])
                await asyncio.sleep(0.002)
                self.sent[made.number] = self.event()
                self.failed.append((self.sent[made.number], "mid"))
                _abort(request)
                return response
            await response.write(body[: len(body) // 2])
            if body and self.holds.get(made.client) == "body":
                await self._hold()
            await response.write(body[len(body) // 2 :])
        await response.write_eof()
        return response


def _abort(request: web.BaseRequest) -> None:
    assert request.transport is not None
    request.transport.abort()


def _judged(made: Exchange) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and fields: conditions and ranges are judged for 200 alone (RFC 9110 section 13.2.1)."""
    fields, asked, edition = made.fields(), made.asked, made.edition
    if edition.status != 200:
        return edition.status, b"" if edition.status == 204 else made.content, fields
    tag, modified = fields.get("ETag", ""), fields.get("Last-Modified", "")
    unchanged = False
    if "If-None-Match" in asked:
        listed = [each.removeprefix("W/") for each in re.findall(r'(?:W/)?"[^"]*"', asked["If-None-Match"])]
        unchanged = bool(tag) and tag.removeprefix("W/") in listed
    elif "If-Modified-Since" in asked:
        unchanged = modified == asked["If-Modified-Since"]
    if unchanged:
        validators = made.validators() if edition.bare else {}
        return 304, b"", {name: value for name, value in fields.items() if name not in validators}
    content = made.content
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get("Range", ""))
    if "If-Range" in asked and asked["If-Range"] not in (modified, tag if not tag.startswith("W/") else None):
        wanted = None
    if wanted is None or not edition.ranges or made.method != "GET":
        return 200, content, fields
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if first > last:
        return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
    return 206, content[first : last + 1], {**fields, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
