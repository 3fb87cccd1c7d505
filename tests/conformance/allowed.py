"""Whether RFC 9111 allows an answer, given all that an origin has said (`book`) and what was purged or made untrustworthy.

From the RFC's words, not from what the edge does. Where they leave a choice, either is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.conformance.book import Book, Exchange, directives
from tests.integration.proxy_support import Got

HEURISTIC: Final = (200, 204, 206, 301, 404, 410)
"""Statuses of this origin that may be stored without a lifetime (RFC 9110 section 15.1)."""

_HEARD: Final = 4
"""So many events later the edge has heard of a failure for sure."""


@dataclass(frozen=True)
class Asked:
    """A request under way, and how the world was when it was sent."""

    path: str
    method: str
    fields: Mapping[str, str]
    begun: int
    now: float

    @property
    def client(self) -> str:
        return self.fields["X-Client"]

    @property
    def wants(self) -> dict[str, str]:
        return directives(self.fields.get("Cache-Control", ""))


@dataclass(frozen=True)
class Forgotten:
    """What came before `since` may not answer (or, softly, only as what is stale) who asks after `until`."""

    since: int
    until: int
    path: str | None = None
    """None: all."""
    tag: str | None = None
    soft: bool = False

    def concerns(self, exchange: Exchange, asked: Asked, tags: set[str]) -> bool:
        if self.path not in (None, exchange.path) or (self.tag is not None and self.tag not in tags):
            return False
        return exchange.at < self.since and asked.begun > self.until


@dataclass
class Rules:
    """The judge."""

    book: Book
    limit_bytes: int
    """Longer content is not stored."""
    forgotten: list[Forgotten] = field(default_factory=list)
    delivered: dict[int, tuple[int, int]] = field(default_factory=dict)
    """When a whole answer of that number was asked for, and when it had come."""
    purged: int = 0
    """When the last purge or unsafe request was in force. What was on its way then is not stored."""

    def check(self, asked: Asked, got: Got | None) -> None:
        """Raises AssertionError where no cache may answer so. None: the answer broke off."""
        failures = {how for at, how in self.book.failed if at + _HEARD > asked.begun}
        where = f"{asked} got {None if got is None else (got.status, dict(got.headers), got.body)} at {self.book.now}, {failures}"
        if got is None:
            assert "mid" in failures, where
            return
        if "X-Number" not in got.headers:
            self._without_number(asked, got, failures, where)
            return
        exchange = self.book.exchanges[int(got.headers["X-Number"])]
        where = f"{where}\nby {exchange}"
        assert exchange.path == asked.path, where
        _check_content(asked, got, exchange, where)
        if exchange.client == asked.client:
            if (got.status, asked.method) == (200, "GET"):
                self.delivered[exchange.number] = asked.begun, self.book.event()
            assert "only-if-cached" not in asked.wants, where
            return
        _check_sharing(asked, got, exchange, where)
        soft = self._check_purges(asked, exchange, where)
        # What was on its way when the request came may be shared, whatever its age (section 4).
        if self.book.sent.get(exchange.number, exchange.at) < asked.begun:
            self._check_reuse(asked, got, exchange, failures, where, soft=soft)

    def _without_number(self, asked: Asked, got: Got, failures: set[str], where: str) -> None:
        match got.status:
            case 504 if "only-if-cached" in asked.wants:
                pass
            case 416:
                assert "Range" in asked.fields, where
            case 500 | 502 | 503 | 504:
                assert failures, where
            case _:
                raise AssertionError(where)

    def _check_purges(self, asked: Asked, exchange: Exchange, where: str) -> bool:
        """Whether it was purged softly."""
        tags = {exchange.edition.tag} | self.book.tags.get(exchange.number, set())
        concerning = [each for each in self.forgotten if each.concerns(exchange, asked, tags)]
        for each in concerning:
            assert each.soft, f"{where}\nafter {each}"
        return bool(concerning)

    def _check_reuse(self, asked: Asked, got: Got, exchange: Exchange, failures: set[str], where: str, *, soft: bool) -> None:
        """RFC 9111 section 4: fresh, or allowed to be served stale."""
        said, wants = exchange.edition.directives, asked.wants
        assert "no-cache" not in wants, where
        self._check_recent(asked, exchange, where)
        old = exchange.edition.age + asked.now - exchange.time
        assert int(got.headers.get("Age", "0")) >= int(old), where
        lifetime = _lifetime(exchange)
        assert lifetime is not None, where
        stale = max(0.0, old - lifetime)
        if old < lifetime and not soft:
            if not failures:
                assert "max-age" not in wants or old <= int(wants["max-age"]), where
                assert "min-fresh" not in wants or lifetime - old >= int(wants["min-fresh"]), where
            return
        assert _may_be_stale(said, wants, stale, failures), f"{where}\n{stale} s stale, {soft=}"

    def _check_recent(self, asked: Asked, exchange: Exchange, where: str) -> None:
        """RFC 9111 section 4: of several that may answer, the most recent one."""
        for number, (begun, ended) in self.delivered.items():
            other = self.book.exchanges[number]
            if ended < asked.begun and other.time > exchange.time and other.edition == exchange.edition:
                alike = (other.path, other.selected) == (exchange.path, exchange.selected)
                unstored = "Authorization" in other.asked or "no-store" in other.asked.get("Cache-Control", "")
                unstored = unstored or len(other.content) > self.limit_bytes or begun < self.purged
                assert not alike or unstored, f"{where}\nafter {other}"


def _lifetime(exchange: Exchange) -> float | None:
    """RFC 9111 section 4.2.1; None: it may not be stored for want of one (section 3)."""
    said, edition = exchange.edition.directives, exchange.edition
    for name in ("s-maxage", "max-age"):
        if name in said:
            return int(said[name])
    if edition.status not in HEURISTIC and "public" not in said:
        return None
    return 86_400.0 if edition.validator == "date" and edition.status == 200 else 0.0


def _may_be_stale(said: Mapping[str, str], wants: Mapping[str, str], stale: float, failures: set[str]) -> bool:
    """RFC 9111 section 4.2.4, RFC 5861."""
    if said.keys() & {"must-revalidate", "proxy-revalidate"}:
        return False
    accepts_stale = not (wants.keys() & {"max-age", "min-fresh"}) or "max-stale" in wants
    if accepts_stale and stale <= int(said.get("stale-while-revalidate", "-1")):
        return True
    if "s-maxage" not in said and "max-stale" in wants and stale <= int(wants["max-stale"] or "999999"):
        return True
    if failures and stale <= max(int(each.get("stale-if-error", "-1")) for each in (said, wants)):
        return True
    return "reset" in failures and "s-maxage" not in said and "stale-if-error" not in said


def _check_sharing(asked: Asked, got: Got, exchange: Exchange, where: str) -> None:
    """RFC 9111 sections 3, 3.5, 4.1: what was said to one client may be said to another."""
    said, edition = exchange.edition.directives, exchange.edition
    assert exchange.method in ("GET", "HEAD", "POST"), where
    assert "no-store" not in said, where
    assert said.get("private") != "", where
    assert said.get("no-cache") != "", where
    assert "no-store" not in directives(exchange.asked.get("Cache-Control", "")), where
    if "Authorization" in exchange.asked:
        assert said.keys() & {"public", "must-revalidate", "s-maxage"}, where
    assert "*" not in edition.vary, where
    for name in edition.vary:
        assert exchange.asked.get(name) == asked.fields.get(name), f"{where}\nvaries on {name}"
    if "x-secret" in (said.get("private"), said.get("no-cache")):
        assert "X-Secret" not in got.headers, where


def _check_content(asked: Asked, got: Got, exchange: Exchange, where: str) -> None:
    content = b"" if exchange.edition.status == 204 else exchange.content
    match got.status:
        case 206:
            assert exchange.edition.status == 200 and "Range" in asked.fields, where
            assert asked.method == "GET", where
            if "If-Range" in asked.fields:
                validators = [value for value in exchange.validators().values() if not value.startswith("W/")]
                assert asked.fields["If-Range"] in validators, where
            for line, body in _parts(got):
                span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", line)
                assert span is not None, where
                first, last, length = map(int, span.groups())
                assert (body, length) == (content[first : last + 1], len(content)), where
        case 304:
            assert exchange.edition.status == 200, where
            if "If-None-Match" in asked.fields:
                assert asked.fields["If-None-Match"].removeprefix("W/") == exchange.tag.removeprefix("W/"), where
            else:
                assert "If-Modified-Since" in asked.fields, where
        case _:
            assert got.status == exchange.edition.status, where
            assert got.body == (b"" if asked.method == "HEAD" else content), where
            assert got.headers.get("Content-Length", f"{len(content)}") == f"{len(content)}", where


def _parts(got: Got) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part."""
    if "Content-Range" in got.headers:
        return [(got.headers["Content-Range"], got.body)]
    boundary = re.fullmatch(r"multipart/byteranges; *boundary=\"?([^\"]+)\"?", got.headers["Content-Type"])
    assert boundary is not None, got
    pieces = got.body.split(b"--" + boundary[1].encode())[1:-1]
    found = []
    for piece in pieces:
        head, _, body = piece.partition(b"\r\n\r\n")
        line = re.search(rb"content-range: *([^\r]+)", head, re.IGNORECASE)
        assert line is not None, got
        found.append((line[1].decode(), body.removesuffix(b"\r\n")))
    return found
