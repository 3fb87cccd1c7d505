"""RFC 9111 sections 4, 4.1, 4.3, 4.4 and 5.2.1, RFC 9110 sections 13 and 14: which requests what is kept answers, and how."""

from __future__ import annotations

import pytest

from tests.conformance.scenario import Ask, Reply, Scenario, play

_FIRST = Ask(comes_from="origin")
_BODY = "0123456789"
_TAGGED = 'Cache-Control: max-age=60 | ETag: "1" | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT'
_2000 = "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"
_LATER = "If-Modified-Since: Sun, 02 Jan 2000 00:00:00 GMT"


def _vary(name: str, names: str, one: str, other: str, *, same: bool) -> Scenario:
    """The second request selects the first one's response, or not."""
    reply = Reply(f"Cache-Control: max-age=60 | Vary: {names}")
    return Scenario(name, (reply,), (Ask(one, comes_from="origin"), Ask(other, comes_from="cache" if same else "origin")))


def _condition(name: str, sends: str, status: int, fields: str = _TAGGED) -> Scenario:
    """A client's condition on what is kept and fresh is judged here."""
    body = {200: "body", 304: ""}.get(status)
    return Scenario(name, (Reply(fields),), (_FIRST, Ask(sends, status=status, body=body)))


def _range(name: str, sends: str, status: int, body: str | None, has: str = "") -> Scenario:
    return Scenario(name, (Reply(_TAGGED, body=_BODY),), (_FIRST, Ask(sends, status=status, body=body, has=has)))


def _wants(name: str, sends: str, comes_from: str, fields: str = "Cache-Control: max-age=60", after: float = 0.0) -> Scenario:
    status = 504 if comes_from == "nobody" else 200
    return Scenario(name, (Reply(fields),), (_FIRST, Ask(sends, after=after, comes_from=comes_from, status=status)))


def _invalidates(method: str, *, gone: bool, reply: Reply, path: str = "/a", name: str = "") -> Scenario:
    """A request with `method` for `path`, and then `/a` is asked for again."""
    first, write = Ask(path="/a", comes_from="origin"), Ask(method=method, path=path, comes_from="origin", status=reply.status)
    then = Ask(path="/a", comes_from="origin" if gone else "cache")
    return Scenario(name or f"RFC9111-4.4 {method} answered {reply.status}", (Reply(), reply, Reply()), (first, write, then))


def _updates(field: str, old: str, new: str, *, updated: bool) -> Scenario:
    """What a 304 does to a stored field."""
    first = Reply(f'Cache-Control: max-age=2 | ETag: "1" | {field}: {old}')
    second = Reply(f'Cache-Control: max-age=60 | ETag: "1" | {field}: {new}', 304)
    kept = f"{field}: {new if updated else old}"
    asks = (_FIRST, Ask(after=3, comes_from="origin", has=kept, body="body"), Ask(has=kept, body="body"))
    return Scenario(f"RFC9111-3.2 a 304 and {field}", (first, second), asks)


SCENARIOS = [
    _vary("RFC9111-4.1 the same value", "X-A", "X-A: 1", "X-A: 1", same=True),
    _vary("RFC9111-4.1 another value", "X-A", "X-A: 1", "X-A: 2", same=False),
    _vary("RFC9111-4.1 the field is absent", "X-A", "X-A: 1", "", same=False),
    _vary("RFC9111-4.1 the field was absent", "X-A", "", "X-A: 1", same=False),
    _vary("RFC9111-4.1 absent both times", "X-A, X-B", "X-A: 1", "X-A: 1", same=True),
    _vary("RFC9111-4.1 fields that Vary does not name", "X-A", "X-A: 1 | X-B: 1", "X-A: 1 | X-B: 2", same=True),
    _vary("RFC9111-4.1 one of several differs", "X-A, X-B", "X-A: 1 | X-B: 2", "X-A: 1 | X-B: 3", same=False),
    _vary("RFC9111-4.1 the order of fields", "X-A, X-B", "X-A: 1 | X-B: 2", "X-B: 2 | X-A: 1", same=True),
    _vary("RFC9111-4.1 names have no case", "x-A", "X-a: 1", "X-A: 1", same=True),
    _vary("RFC9111-4.1 star", "*", "", "", same=False),
    _vary("RFC9111-4.1 star among others", "X-A, *", "X-A: 1", "X-A: 1", same=False),
    _vary("RFC9111-4.1 lines are combined", "X-A", "X-A: 1, 2", "X-A: 1 | X-A: 2", same=True),
    _vary("RFC9111-4.1 space around members", "X-A", "X-A: 1,2", "X-A: 1 ,  2", same=True),
    _vary("RFC9110-12.5.4 case of languages", "Accept-Language", "Accept-Language: en, de", "Accept-Language: EN, De", same=True),
    _vary("RFC9110-12.5.4 order of languages", "Accept-Language", "Accept-Language: en, de", "Accept-Language: de,en", same=True),
    _vary("RFC9110-12.5.4 rank", "Accept-Language", "Accept-Language: en, de;q=0.1", "Accept-Language: en;q=0.1, de", same=False),
    _vary("RFC9110-12.5.3 codings", "Accept-Encoding", "Accept-Encoding: gzip, br", "Accept-Encoding: br;q=0.9, gzip", same=True),
    Scenario(
        "RFC9111-4.1 variants stand side by side",
        (Reply("Cache-Control: max-age=60 | Vary: X-A", body="1"), Reply("Cache-Control: max-age=60 | Vary: X-A", body="2")),
        (
            Ask("X-A: 1", comes_from="origin"),
            Ask("X-A: 2", comes_from="origin"),
            Ask("X-A: 1", body="1"),
            Ask("X-A: 2", body="2"),
        ),
    ),
    _condition("RFC9110-13.1.2 the same tag", 'If-None-Match: "1"', 304),
    _condition("RFC9110-13.1.2 another tag", 'If-None-Match: "2"', 200),
    _condition("RFC9110-13.1.2 one of a list", 'If-None-Match: "2", "1"', 304),
    _condition("RFC9110-13.1.2 on several lines", 'If-None-Match: "2" | If-None-Match: "1"', 304),
    _condition("RFC9110-13.1.2 weak comparison", 'If-None-Match: W/"1"', 304),
    _condition("RFC9110-13.1.2 star", "If-None-Match: *", 304),
    _condition("RFC9110-13.1.3 the same date", _2000, 304),
    _condition("RFC9110-13.1.3 a later date", _LATER, 304),
    _condition("RFC9110-13.1.3 an earlier date", "If-Modified-Since: Fri, 31 Dec 1999 00:00:00 GMT", 200),
    _condition("RFC9110-13.1.3 no date at all", "If-Modified-Since: yesterday", 200),
    _condition("RFC9110-13.2.2 the tag goes before the date", f'If-None-Match: "2" | {_LATER}', 200),
    _range("RFC9110-14.1.2 first bytes", "Range: bytes=0-1", 206, "01", "Content-Range: bytes 0-1/10"),
    _range("RFC9110-14.1.2 to the end", "Range: bytes=7-", 206, "789", "Content-Range: bytes 7-9/10"),
    _range("RFC9110-14.1.2 last bytes", "Range: bytes=-1", 206, "9", "Content-Range: bytes 9-9/10"),
    _range("RFC9110-14.1.2 beyond the end is cut", "Range: bytes=8-99", 206, "89", "Content-Range: bytes 8-9/10"),
    _range("RFC9110-15.5.17 nothing there", "Range: bytes=10-", 416, None, "Content-Range: bytes */10"),
    _range("RFC9110-14.2 another unit", "Range: lines=0-1", 200, _BODY),
    _range("RFC9110-14.2 no range at all", "Range: bytes=b-a", 200, _BODY),
    _range("RFC9110-13.1.5 If-Range of this tag", 'Range: bytes=0-1 | If-Range: "1"', 206, "01"),
    _range("RFC9110-13.1.5 If-Range of another", 'Range: bytes=0-1 | If-Range: "2"', 200, _BODY),
    _range("RFC9110-13.1.5 If-Range needs a strong tag", 'Range: bytes=0-1 | If-Range: W/"1"', 200, _BODY),
    _wants("RFC9111-5.2.1.4 no-cache", "Cache-Control: no-cache", "origin"),
    _wants("RFC9111-5.4 Pragma", "Pragma: no-cache", "origin"),
    _wants("RFC9111-5.4 Pragma beside Cache-Control", "Pragma: no-cache | Cache-Control: max-age=60", "cache"),
    _wants("RFC9111-5.2.1.1 max-age=0", "Cache-Control: max-age=0", "origin", after=1),
    _wants("RFC9111-5.2.1.1 younger than asked for", "Cache-Control: max-age=10", "cache", after=5),
    _wants("RFC9111-5.2.1.1 older than asked for", "Cache-Control: max-age=10", "origin", after=15),
    _wants("RFC9111-5.2.1.3 min-fresh, enough left", "Cache-Control: min-fresh=10", "cache", after=45),
    _wants("RFC9111-5.2.1.3 min-fresh, too little left", "Cache-Control: min-fresh=10", "origin", after=55),
    _wants("RFC9111-5.2.1.2 max-stale", "Cache-Control: max-stale=30", "stored", after=70),
    _wants("RFC9111-5.2.1.2 staler than accepted", "Cache-Control: max-stale=5", "origin", after=70),
    _wants("RFC9111-5.2.1.7 only-if-cached, and it is", "Cache-Control: only-if-cached", "cache"),
    _wants("RFC9111-5.2.1.7 only-if-cached, and it is not", "Cache-Control: only-if-cached", "nobody", "Cache-Control: no-store"),
    *(
        _invalidates(method, gone=True, reply=Reply("", status))
        for method in ("POST", "PUT", "DELETE", "PATCH", "M-SEARCH")
        for status in (200, 201, 303)
    ),
    *(_invalidates(method, gone=False, reply=Reply("", 500)) for method in ("POST", "PUT", "DELETE", "M-SEARCH")),
    *(
        _invalidates("POST", gone=True, reply=Reply(f"{field}: /a"), path="/b", name=f"RFC9111-4.4 {field} too")
        for field in ("Location", "Content-Location")
    ),
    *(
        _invalidates("POST", gone=False, reply=Reply(f"{field}: http://x.test/a"), path="/b", name=f"RFC9111-4.4 foreign {field}")
        for field in ("Location", "Content-Location")
    ),
    _invalidates("OPTIONS", gone=False, reply=Reply(""), name="RFC9110-9.2.1 a safe method invalidates nothing"),
    *(
        _updates(field, old, new, updated=True)
        for field, old, new in (
            ("X-Test", "1", "2"),
            ("Content-Location", "/foo", "/bar"),
            ("Content-Security-Policy", "default-src 'self'", "default-src 'none'"),
            ("X-Frame-Options", "deny", "sameorigin"),
        )
    ),
    _updates("Content-Encoding", "x-a", "x-b", updated=False),
    _updates("Content-Range", "a", "b", updated=False),
    Scenario(
        "RFC9111-3.2 what a 304 leaves out stays",
        (Reply('Cache-Control: max-age=2 | ETag: "1" | X-A: 1'), Reply('ETag: "1"', 304)),
        (_FIRST, Ask(after=3, comes_from="origin", has="X-A: 1", body="body")),
    ),
    Scenario(
        "RFC9111-4.3.1 validation sends both validators",
        (Reply(_TAGGED.replace("60", "2")), Reply(_TAGGED, 304)),
        (_FIRST, Ask(after=3, comes_from="origin", origin_saw=f'If-None-Match: "1" | {_2000}', body="body"), Ask(body="body")),
    ),
    Scenario(
        "RFC9111-4.3.4 a 304 about another tag updates nothing",
        (Reply('Cache-Control: max-age=2 | ETag: "1"'), Reply('ETag: "9"', 304), Reply('ETag: "9"', body="new")),
        (_FIRST, Ask(after=3, comes_from="new", body="new")),
    ),
    Scenario(
        "RFC9110-9.3.2 HEAD is answered by a stored GET",
        (Reply("Cache-Control: max-age=60 | X-A: 1"),),
        (_FIRST, Ask(method="HEAD", has="X-A: 1 | Content-Length: 4", body="")),
    ),
    Scenario(
        "RFC9111-4.3.5 HEAD about other content makes the stored response stale",
        (Reply('Cache-Control: max-age=60 | ETag: "1"'), Reply('Cache-Control: max-age=60 | ETag: "2"'), Reply(body="new")),
        (_FIRST, Ask("Cache-Control: no-cache", method="HEAD", comes_from="origin"), Ask(comes_from="origin", body="new")),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_which_requests_it_answers(scenario: Scenario) -> None:
    await play(scenario)
