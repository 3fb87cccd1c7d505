"""One resource at its origin, and what RFC 9111 lets an edge answer for it at a given moment.

`test_histories` plays with it. A version has a field of its own, so that bodies are told apart where there is no validator.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from aiohttp import web

from tests.integration.proxy_support import Got


@dataclass(frozen=True)
class Resource:
    """How its origin speaks of it."""

    max_age: int
    validator: str
    """`strong`, `weak`, `date`, or empty."""
    sized: bool
    """Its responses have a Content-Length."""
    ranges: bool
    conditions: bool
    """It judges what clients ask on condition."""
    varies: bool
    """On X-Kind."""
    swr: int
    text: bool = False
    """Long enough to be compressed, where the edge does that."""


@dataclass(frozen=True)
class Get:
    """A request: `version` is what the client's condition is about, counted back from the current one."""

    how: str
    kind: str = ""
    back: int = 0
    first: int = 0
    last: int = 5
    method: str = "GET"
    gzip: bool = False


class World:
    """The resource at its origin, and what an edge may know of it."""

    def __init__(self, resource: Resource, edge_now: float) -> None:
        self.resource = resource
        self.now = edge_now
        self.born = edge_now
        self.current = 1
        self.floor = 1
        """The version that the last request known to have changed it made: no older one may answer."""
        self.told: dict[tuple[int, str], float] = {}
        """When the origin last said that a version was the current one."""
        self.failing = False
        self.made = asyncio.Event()
        self.sent = asyncio.Event()
        """While it is not set, answers that are made wait."""
        self.sent.set()

    def content(self, version: int, kind: str) -> bytes:
        """Of another length for each version: a HEAD tells versions without validators apart by it."""
        kind = kind if self.resource.varies else ""
        return bytes(
            (version * 31 + len(kind) * 101 + at * 7) % 251 for at in range((1500 if self.resource.text else 40) + version)
        )

    def tag(self, version: int, kind: str) -> str:
        kind = kind if self.resource.varies else ""
        return ("W/" if self.resource.validator == "weak" else "") + f'"{version}{kind}"'

    def modified(self, version: int) -> float:
        return self.born - 100_000 + 10 * version

    def fields(self, version: int, kind: str) -> dict[str, str]:
        found = {
            "Cache-Control": f"max-age={self.resource.max_age}",
            "Date": formatdate(self.now, usegmt=True),
            "X-Version": f"{version}",
            "Content-Type": "text/plain" if self.resource.text else "image/x",
        }
        if self.resource.swr:
            found["Cache-Control"] += f", stale-while-revalidate={self.resource.swr}"
        if self.resource.validator == "date":
            found["Last-Modified"] = formatdate(self.modified(version), usegmt=True)
        elif self.resource.validator:
            found["ETag"] = self.tag(version, kind)
        if self.resource.varies:
            found["Vary"] = "X-Kind"
        return found

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the origin says."""
        if request.method == "PUT":
            self.current += 1
            return web.Response(status=204)
        if self.failing:
            self.failing = False
            return web.Response(status=500, text="broken")
        kind = request.headers.get("X-Kind", "")
        content = self.content(self.current, kind)
        status, body, fields = self._judged(request, kind, content)
        if status != 412:
            self.told[self.current, kind if self.resource.varies else ""] = self.now
        self.made.set()
        await self.sent.wait()
        if status in (304, 412):
            return web.Response(status=status, headers=fields)
        response = web.StreamResponse(status=status, headers=fields)
        if self.resource.sized:
            response.content_length = len(body)
        elif request.method != "HEAD":
            response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(body)
        await response.write_eof()
        return response

    def _judged(self, request: web.BaseRequest, kind: str, content: bytes) -> tuple[int, bytes, dict[str, str]]:
        fields = self.fields(self.current, kind)
        asked = request.headers
        if self.resource.conditions:
            tag, modified = fields.get("ETag", ""), fields.get("Last-Modified", "")
            if "If-Match" in asked and (tag.startswith("W/") or tag not in _tags(asked["If-Match"])):
                return 412, b"", {}
            if "If-None-Match" in asked:
                if tag and tag.removeprefix("W/") in [each.removeprefix("W/") for each in _tags(asked["If-None-Match"])]:
                    return 304, b"", fields
            elif modified and "If-Modified-Since" in asked and _instant(modified) <= _instant(asked["If-Modified-Since"]):
                return 304, b"", fields
        if "If-Range" in asked and asked["If-Range"] not in (fields.get("Last-Modified"), fields.get("ETag")):
            return 200, content, fields
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get("Range", ""))
        if wanted is None or not self.resource.ranges or request.method != "GET":
            return 200, content, fields
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if first > last:
            return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
        return 206, content[first : last + 1], {**fields, "Content-Range": f"bytes {first}-{last}/{len(content)}"}

    def asks(self, get: Get) -> dict[str, str]:
        """The fields of a client's request."""
        about = max(1, self.current - get.back)
        date = formatdate(self.modified(about), usegmt=True)
        tag = self.tag(about, get.kind)
        first, last = sorted((get.first, get.last))
        span = f"bytes={first}-{last}"
        fields = {
            "plain": {},
            "range": {"Range": span},
            "if-none-match": {"If-None-Match": tag},
            "if-modified-since": {"If-Modified-Since": date},
            "if-match": {"If-Match": tag},
            "if-range": {"Range": span, "If-Range": date if self.resource.validator == "date" else tag},
            "no-cache": {"Cache-Control": "no-cache"},
            "only-if-cached": {"Cache-Control": "only-if-cached"},
        }[get.how]
        fields |= {"Accept-Encoding": "gzip"} if get.gzip else {}
        return {**fields, **({"X-Kind": get.kind} if get.kind else {})}

    def check(self, get: Get, asked: dict[str, str], got: Got, was: range) -> None:
        """Raises AssertionError where no edge may answer so. `was`: the versions that were current meanwhile."""
        where = f"{get} {asked} {got.status} {dict(got.headers)} {got.body!r} at {self.now - self.born}, {self.told}"
        if got.status == 500:
            assert got.body in (b"broken", b""), where
            return
        if got.status == 504:
            assert get.how == "only-if-cached", where
            return
        if got.status == 412:
            assert get.how == "if-match" and self.resource.conditions, where
            tags = [self.tag(version, get.kind) for version in was]
            assert self.resource.validator in ("weak", "date", "") or set(tags) != {asked["If-Match"]}, where
            return
        if got.status == 416:
            lengths = {len(self.content(version, get.kind)) for version in range(self.floor, self.current + 1)}
            assert get.gzip or int(got.headers["Content-Range"].rpartition("/")[2]) in lengths, where
            return
        version = int(got.headers["X-Version"])
        content = self.content(version, get.kind)
        self._check_age(get, got, version, was, where)
        coded = "Content-Encoding" in got.headers
        assert get.gzip or not coded, where
        match got.status:
            case 200 if coded:
                assert not got.headers.get("ETag", "").startswith('"'), where
                assert get.method == "HEAD" or zlib.decompress(got.body, wbits=31) == content, where
            case 200:
                assert got.body == (content if get.method == "GET" else b""), where
                assert got.headers.get("Content-Length", f"{len(content)}") == f"{len(content)}", where
            case 206 if coded:
                assert "Range" in asked and "If-Range" not in asked, where
            case 206:
                span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", got.headers["Content-Range"])
                assert "Range" in asked and span is not None, where
                first, last, length = map(int, span.groups())
                assert (got.body, length) == (content[first : last + 1], len(content)), where
                if "If-Range" in asked:
                    validators = self.fields(version, get.kind)
                    assert asked["If-Range"] in (validators.get("ETag"), validators.get("Last-Modified")), where
            case 304 if get.how == "if-none-match":
                assert asked["If-None-Match"].removeprefix("W/") == self.tag(version, get.kind).removeprefix("W/"), where
                assert self.resource.validator in ("strong", "weak"), where
            case 304:
                assert get.how == "if-modified-since", where
                made = self.modified(version) if self.resource.validator == "date" else _instant(got.headers["Date"])
                assert made <= _instant(asked["If-Modified-Since"]), where
            case _:
                raise AssertionError(where)
        if get.how == "if-match" and self.resource.conditions:
            assert asked["If-Match"] == self.tag(version, get.kind), where

    def _check_age(self, get: Get, got: Got, version: int, was: range, where: str) -> None:
        """Whether this version may answer now."""
        if version in was:
            return
        assert "hit" in got.cache, where
        assert self.floor <= version < was.start, where
        assert get.how != "no-cache", where
        old = self.now - self.told[version, get.kind if self.resource.varies else ""]
        assert old < self.resource.max_age + self.resource.swr + 1, where
        assert int(got.headers["Age"]) >= int(old) - 1, where


def _tags(line: str) -> list[str]:
    return re.findall(r'(?:W/)?"[^"]*"', line)


def _instant(date: str) -> float:
    return parsedate_to_datetime(date).timestamp()
