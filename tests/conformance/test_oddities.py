"""RFC 9110 and RFC 9111: values that are malformed, contradict each other, or mean the same in other words."""

from __future__ import annotations

import pytest
from aiohttp import web

from tests.conformance.scenario import Ask, Reply, Scenario, not_reused, play, stored
from tests.integration.proxy_support import edge_for, origin_of

_FIRST = Ask(comes_from="origin")
_FRESH = "Cache-Control: max-age=60"
_DATED = f"{_FRESH} | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"
_LONG_AGO = "Last-Modified: {date-100000}"
_OLDER, _NEWER = "Fri, 31 Dec 1999 00:00:00 GMT", "Sun, 02 Jan 2000 00:00:00 GMT"


def _aged(name: str, fields: str, age: int) -> Scenario:
    """What Age says a second after the response came."""
    asks = (_FIRST, Ask(after=1, has=f"Age: {age + 1}"))
    return Scenario(f"RFC9111-4.2.3 {name}", (Reply(f"Cache-Control: max-age=99999 | {fields}"),), asks)


def _varies(name: str, field: str, first: str, second: str, *, same: bool) -> Scenario:
    """Whether two values of a field that Vary names select the same response."""
    asks = (Ask(f"{field}: {first}", comes_from="origin"), Ask(f"{field}: {second}", comes_from="cache" if same else "origin"))
    return Scenario(f"RFC9111-4.1 {field}, {name}", (Reply(f"{_FRESH} | Vary: {field}"),), asks)


def _asked(name: str, fields: str, sends: str, status: int, *, method: str = "GET", origin: int = 200) -> Scenario:
    """What the cache says to a condition."""
    asks = (Ask(comes_from="origin", status=origin), Ask(sends, method=method, status=status))
    return Scenario(name, (Reply(fields, origin),), asks)


def _ranged(name: str, fields: str, condition: str, status: int) -> Scenario:
    return _asked(f"RFC9110-13.1.5 {name}", fields, f"Range: bytes=0-1 | If-Range: {condition}", status)


def _wanted(name: str, fields: str, sends: str, *, after: float, comes_from: str, status: int = 200) -> Scenario:
    """What a client's directives bring about."""
    return Scenario(name, (Reply(fields),), (_FIRST, Ask(sends, after=after, comes_from=comes_from, status=status)))


def _moved(name: str, field: str, where: str, *, ended: bool, path: str = "/d/b") -> Scenario:
    """Whether an unsafe request to /d/a ends what is stored for `path`. `{edge}` is the edge's host and port."""
    asks = (
        Ask(path=path, comes_from="origin"),
        Ask(method="PUT", path="/d/a", comes_from="origin"),
        Ask(path=path, comes_from="origin" if ended else "cache"),
    )
    return Scenario(f"RFC9111-4.4 {field}: {name}", (Reply(), Reply(f"{field}: {where}"), Reply()), asks)


def _after_304(name: str, first: str, brought: str, then: Ask) -> Scenario:
    replies = (Reply(first), Reply(brought, 304), Reply("Cache-Control: no-store", body="new"))
    return Scenario(f"RFC9111-4.3.4 {name}", replies, (_FIRST, Ask(after=3, comes_from="origin", body="body"), then))


_BRIEF = 'Cache-Control: max-age=2 | ETag: "1"'

SCENARIOS = [
    *(
        not_reused(f"RFC9111-1.2.2 max-age={value} is no lifetime", f"Cache-Control: max-age={value}")
        for value in ("+60", "1e3", "0x60", "60s", "60 60", "6 0", '"60', '60"', '""', "%36%30", "²", "60;x=1", "NaN", "inf")
    ),
    *(
        not_reused(f"RFC9111-5.2.2.10 s-maxage={value} is no lifetime", f"Cache-Control: max-age=60, s-maxage={value}")
        for value in ("-1", "", "60.5", "'60'", "x")
    ),
    not_reused("RFC9111-4.2.1 of two max-age on one line the first counts", "Cache-Control: max-age=0, max-age=60"),
    stored("RFC9111-4.2.1 the first, though the second is stale", "Cache-Control: max-age=60, max-age=0"),
    stored("RFC9111-4.2.1 the first line, though the second is stale", "Cache-Control: max-age=60 | Cache-Control: max-age=0"),
    stored("RFC9111-5.2 a directive quoted within another is none", 'Cache-Control: x="max-age=0", max-age=60'),
    not_reused("RFC9111-5.2 a lifetime within quotes is none", 'Cache-Control: x="max-age=60"'),
    not_reused("RFC9111-5.2 semicolons do not separate", "Cache-Control: public; max-age=60"),
    stored("RFC9111-5.2 tabs around members", "Cache-Control:\tpublic\t,\tmax-age=60"),
    stored("RFC9111-5.2 an argument where none is due", "Cache-Control: public=yes, max-age=60"),
    not_reused("RFC9111-5.2 no-store with an argument still forbids", "Cache-Control: no-store=0, max-age=60"),
    not_reused("RFC9111-5.2.2.7 private with a list that is none", 'Cache-Control: private="", max-age=60'),
    not_reused("RFC9111-5.2.2.7 private with an unquoted list's rest", "Cache-Control: private=@, max-age=60"),
    _aged("Age", "Age: 30", 30),
    _aged("Date", "Date: {date-30}", 30),
    _aged("the greater of Age and what Date tells: Age", "Age: 30 | Date: {date-10}", 30),
    _aged("the greater of Age and what Date tells: Date", "Age: 10 | Date: {date-30}", 30),
    _aged("a Date in the future", "Date: {date+3600}", 0),
    _aged("a Date that is none", "Date: yesterday", 0),
    _aged("an Age that is empty", "Age: ", 0),
    *(
        _aged(f"Age: {value} is ignored", f"Age: {value}", 0)
        for value in ("+30", "30s", "30.0;x=1", ";30", "x, 30", '"30"', "0x1e", "-1")
    ),
    _aged("Age: 30, x counts", "Age: 30, x", 30),
    _aged("Age: 30;x=1 counts", "Age: 30;x=1", 30),
    _aged("Age: 30 ; x=1 counts", "Age: 30 ; x=1", 30),
    _aged("Age: 0030 counts", "Age: 0030", 30),
    stored("RFC9111-4.2.1 Expires is counted from Date, ahead", "Expires: {date+3660} | Date: {date+3600}", after=59),
    not_reused(
        "RFC9111-4.2.1 Expires is counted from Date, ahead, and ends", "Expires: {date+3660} | Date: {date+3600}", after=61
    ),
    stored("RFC9111-5.3 Expires twice, the same", "Expires: {date+60} | Expires: {date+60}"),
    not_reused("RFC9111-5.3 Expires in the form of RFC 850, long ago", "Expires: Sunday, 06-Nov-94 08:49:37 GMT"),
    not_reused("RFC9111-5.3 Expires in the form of asctime, long ago", "Expires: Sun Nov  6 08:49:37 1994"),
    not_reused("RFC9111-4.2.2 Last-Modified in the future", "Last-Modified: {date+1000}"),
    not_reused("RFC9111-4.2.2 Last-Modified that is no date", "Last-Modified: once"),
    not_reused("RFC9111-4.2.2 a guess ends after a day", "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT", after=86_401),
    stored("RFC9111-4.2.2 a guess lasts a day", "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT", after=86_399),
    not_reused("RFC9111-4.2.2 no guess beside max-age=0", f"Cache-Control: max-age=0 | {_LONG_AGO}"),
    not_reused("RFC9111-4.2.2 no guess beside Expires", f"Expires: 0 | {_LONG_AGO}"),
    not_reused("RFC9111-4.2.2 no guess from an ETag", 'ETag: "1"'),
    stored("RFC9111-5.2.2.9 public: a guess for any status", f"Cache-Control: public | {_LONG_AGO}", status=599),
    *(
        stored(
            f"RFC9111-5.2.2.3 must-understand, {status}", "Cache-Control: must-understand, no-store, max-age=60", status=status
        )
        for status in (203, 300, 301, 302, 307, 308, 404, 410, 451, 501, 503)
    ),
    *(
        not_reused(f"RFC9111-5.2.2.3 must-understand, {status}", "Cache-Control: must-understand, max-age=60", status=status)
        for status in (299, 418, 499, 599)
    ),
    *(not_reused(f"RFC6585 {status} is never stored", _FRESH, status=status) for status in (428, 429, 431, 511)),
    *(not_reused(f"RFC9110-15 {status} speaks of one request", _FRESH, status=status) for status in (412, 416, 417)),
    _varies("space", "Accept", "text/html,  */*", "text/html,*/*", same=True),
    _varies("case", "Accept", "Text/HTML", "text/html", same=True),
    _varies("weights written otherwise", "Accept", "a/b;q=1.0, c/d;q=0.50", "a/b, c/d;q=0.5", same=True),
    _varies("weights that only rank", "Accept-Language", "de;q=0.9, en;q=0.8", "de, en;q=0.1", same=True),
    _varies("weights that rank otherwise", "Accept-Language", "de;q=0.9, en;q=0.8", "de;q=0.8, en;q=0.9", same=False),
    _varies("what is refused", "Accept-Language", "de, en;q=0", "de", same=False),
    _varies("a parameter of a media type", "Accept", "a/b;v=1", "a/b;v=2", same=False),
    _varies("order and case", "Accept-Encoding", "br, gzip", "GZIP,br", same=True),
    _varies("weights", "Accept-Encoding", "gzip;q=0.5, br", "gzip, br;q=0.1", same=True),
    _varies("identity goes without saying", "Accept-Encoding", "gzip, identity", "gzip", same=True),
    _varies("identity refused", "Accept-Encoding", "gzip, identity;q=0", "gzip", same=False),
    _varies("x-gzip is gzip", "Accept-Encoding", "x-gzip", "gzip", same=True),
    _varies("a coding refused is none", "Accept-Encoding", "gzip, br;q=0", "gzip", same=True),
    _varies("order", "Accept-Charset", "utf-8, latin1", "latin1, utf-8", same=True),
    _varies("case of a field of unknown meaning", "X-A", "a", "A", same=False),
    _varies("order of a field of unknown meaning", "X-A", "a, b", "b, a", same=False),
    _varies("the same bytes", "Cookie", "a=b; c=d", "a=b; c=d", same=True),
    _varies("other bytes", "Cookie", "a=b", "a=c", same=False),
    Scenario(
        "RFC9111-4.1 lines of the same Vary field are one list",
        (Reply(f"{_FRESH} | Vary: X-A | Vary: X-B"),),
        (Ask("X-A: 1 | X-B: 1", comes_from="origin"), Ask("X-A: 1 | X-B: 2", comes_from="origin"), Ask("X-A: 1 | X-B: 1")),
    ),
    not_reused("RFC9110-12.5.5 a star on a second line", f"{_FRESH} | Vary: X-A | Vary: *"),
    stored("RFC9110-12.5.5 a Vary without members", f"{_FRESH} | Vary: ,"),
    _ranged("the same date", _DATED, "Sat, 01 Jan 2000 00:00:00 GMT", 206),
    _ranged("the same date in another form", _DATED, "Saturday, 01-Jan-00 00:00:00 GMT", 206),
    _ranged("an earlier date", _DATED, _OLDER, 200),
    _ranged("a later date", _DATED, _NEWER, 200),
    _ranged("a date that is none", _DATED, "once", 200),
    _ranged("a date too near to be strong", f"{_FRESH} | Last-Modified: {{date}} | Date: {{date}}", "{date}", 200),
    _ranged("a tag where there is only a date", _DATED, '"1"', 200),
    _ranged("a date where there is only a tag", f'{_FRESH} | ETag: "1"', "Sat, 01 Jan 2000 00:00:00 GMT", 200),
    _ranged("the same weak tag", f'{_FRESH} | ETag: W/"1"', 'W/"1"', 200),
    _asked("RFC9110-13.1.5 If-Range without Range means nothing", f'{_FRESH} | ETag: "1"', 'If-Range: "2"', 200),
    _asked("RFC9110-13.1.3 a condition of HEAD", _DATED, f"If-Modified-Since: {_NEWER}", 304, method="HEAD"),
    _asked("RFC9110-13.1.2 a tag and HEAD", f'{_FRESH} | ETag: "1"', 'If-None-Match: "1"', 304, method="HEAD"),
    _asked("RFC9110-13.1.3 a date that is none", _DATED, "If-Modified-Since: once", 200),
    _asked(
        "RFC9110-13.1.3 does not count beside If-None-Match", _DATED, f'If-Modified-Since: {_NEWER} | If-None-Match: "1"', 200
    ),
    _asked(
        "RFC9110-13.1.4 does not count beside If-Match",
        f'{_DATED} | ETag: "1"',
        f'If-Unmodified-Since: {_OLDER} | If-Match: "1"',
        200,
    ),
    _asked("RFC9110-13.2.1 no condition of what is not there", f'{_FRESH} | ETag: "1"', 'If-None-Match: "1"', 404, origin=404),
    _asked("RFC9110-13.2.1 no condition of what has moved", f'{_FRESH} | ETag: "1"', 'If-None-Match: "1"', 301, origin=301),
    _asked("RFC9110-14.2 no range of what is not there", _FRESH, "Range: bytes=0-1", 404, origin=404),
    _asked("RFC9110-14.2 two Range lines", _FRESH, "Range: bytes=0-1 | Range: bytes=2-3", 200),
    _asked("RFC9110-14.1.1 ends before it begins", _FRESH, "Range: bytes=3-1", 200),
    _asked("RFC9110-14.1.2 a suffix of nothing", _FRESH, "Range: bytes=-0", 416),
    _asked("RFC9110-14.1.1 one range outside, one inside", _FRESH, "Range: bytes=9-10, 0-1", 206),
    _asked("RFC9110-14.3 the origin says that ranges are none", f"{_FRESH} | Accept-Ranges: none", "Range: bytes=0-1", 200),
    _wanted(
        "RFC9111-5.2.1.5 no-store of a client uses what is stored", _FRESH, "Cache-Control: no-store", after=1, comes_from="cache"
    ),
    _wanted(
        "RFC9111-5.2.1.2 max-stale without a bound",
        "Cache-Control: max-age=2",
        "Cache-Control: max-stale",
        after=999,
        comes_from="stored",
    ),
    _wanted(
        "RFC9111-5.2.2.2 must-revalidate against max-stale",
        "Cache-Control: max-age=2, must-revalidate",
        "Cache-Control: max-stale",
        after=3,
        comes_from="origin",
    ),
    _wanted(
        "RFC9111-5.2.2.10 s-maxage against max-stale",
        "Cache-Control: s-maxage=2",
        "Cache-Control: max-stale",
        after=3,
        comes_from="origin",
    ),
    *(
        _wanted(
            f"RFC9111-5.2.1 {asked}: stale while it is revalidated: {comes_from}",
            "Cache-Control: max-age=2, stale-while-revalidate=60",
            f"Cache-Control: {asked}",
            after=3,
            comes_from=comes_from,
        )
        for asked, comes_from in (
            ("max-age=30", "origin"),
            ("min-fresh=1", "origin"),
            ("max-stale=1, min-fresh=1", "origin"),
            ("max-age=30, max-stale=1", "stored"),
            ("max-age=2, max-stale=1", "origin"),
        )
    ),
    _wanted(
        "RFC9111-5.2.1.7 only-if-cached, and it is stale",
        "Cache-Control: max-age=2",
        "Cache-Control: only-if-cached",
        after=3,
        comes_from="nobody",
        status=504,
    ),
    _wanted(
        "RFC9111-5.2.1.7 only-if-cached and max-stale",
        "Cache-Control: max-age=2",
        "Cache-Control: only-if-cached, max-stale=10",
        after=3,
        comes_from="stored",
    ),
    _wanted("RFC9111-5.2.1 a number that is none", _FRESH, "Cache-Control: max-age=x", after=1, comes_from="cache"),
    _wanted("RFC9111-5.2.1 directives have no case", _FRESH, "Cache-Control: No-CACHE", after=1, comes_from="origin"),
    _wanted("RFC9111-5.2.1 unknown directives", _FRESH, "Cache-Control: foo, bar=1", after=1, comes_from="cache"),
    _wanted("RFC9111-5.4 Pragma of another word", _FRESH, "Pragma: foo", after=1, comes_from="cache"),
    _wanted(
        "RFC8246-2 no-cache validates what is immutable",
        f"{_FRESH}, immutable",
        "Cache-Control: no-cache",
        after=1,
        comes_from="origin",
    ),
    _wanted("RFC8246-2 immutable ends with the lifetime", f"{_FRESH}, immutable", "", after=61, comes_from="origin"),
    _wanted(
        "RFC8246-2 and what is stale is validated on reload",
        f"{_FRESH}, immutable",
        "Cache-Control: max-age=0",
        after=61,
        comes_from="origin",
    ),
    _wanted("RFC8246-2 immutable alone is no lifetime", "Cache-Control: immutable", "", after=1, comes_from="origin"),
    _wanted(
        "RFC5861-3 must-revalidate overrules stale-while-revalidate",
        "Cache-Control: max-age=1, must-revalidate, stale-while-revalidate=60",
        "",
        after=2,
        comes_from="origin",
    ),
    _wanted(
        "RFC5861-3 a number that is none", "Cache-Control: max-age=1, stale-while-revalidate=x", "", after=2, comes_from="origin"
    ),
    Scenario(
        "RFC5861-4 stale-if-error of a request",
        (Reply("Cache-Control: max-age=2"), Reply("", 503, "down")),
        (_FIRST, Ask("Cache-Control: stale-if-error=60", after=3, comes_from="stored", body="body")),
    ),
    _moved("an absolute path", "Location", "/d/b", ended=True),
    _moved("relative", "Content-Location", "b", ended=True),
    _moved("upwards", "Location", "../e", ended=True, path="/e"),
    _moved("only a query", "Content-Location", "?x=1", ended=True, path="/d/a?x=1"),
    _moved("with a fragment", "Location", "/d/b#part", ended=True),
    _moved("another path", "Location", "/d/c", ended=False),
    _moved("another port", "Location", "http://127.0.0.1:1/d/b", ended=False),
    _moved("another scheme", "Content-Location", "https://127.0.0.1/d/b", ended=False),
    _moved("another host", "Location", "//evil.example/d/b", ended=False),
    _moved("no URI at all", "Location", "http://[", ended=False),
    _after_304("without more than a Date: as before", _BRIEF, "Date: {date}", Ask(comes_from="cache", body="body")),
    _after_304(
        "Expires is replaced",
        f"{_BRIEF} | Expires: 0",
        'Cache-Control: max-age=60 | Expires: {date+60} | ETag: "1"',
        Ask(after=30),
    ),
    _after_304("two lines replace one", f"{_BRIEF} | X-A: 1", f"{_FRESH} | X-A: 2 | X-A: 3", Ask(has="X-A: 2")),
    _after_304("its Age counts", _BRIEF, f'{_FRESH} | Age: 50 | ETag: "1"', Ask(after=11, comes_from="origin", body="new")),
    _after_304(
        "the old Age does not", f"{_BRIEF} | Age: 1", f'{_FRESH} | ETag: "1" | Date: {{date}}', Ask(after=30, has="Age: 30")
    ),
    _after_304(
        "Content-Type is replaced",
        f"{_BRIEF} | Content-Type: text/a",
        f"{_FRESH} | Content-Type: text/b",
        Ask(has="Content-Type: text/b"),
    ),
    _after_304("a weak form of the tag", _BRIEF, f'{_FRESH} | ETag: W/"1"', Ask(body="body")),
    Scenario(
        "RFC9111-4.3.4 a strong tag says nothing of what has its weak form",
        (Reply('Cache-Control: max-age=2 | ETag: W/"1"'), Reply(_FRESH + ' | ETag: "1"', 304), Reply(body="new")),
        (_FIRST, Ask(after=3, comes_from="new", body="new"), Ask(body="new")),
    ),
    Scenario(
        "RFC9111-4.3.4 unless who codes has weakened it on the way",
        (Reply('Cache-Control: max-age=2 | ETag: W/"1" | Content-Encoding: x'), Reply(_FRESH + ' | ETag: "1"', 304)),
        (_FIRST, Ask(after=3, comes_from="origin", body="body"), Ask(body="body", has='ETag: W/"1"')),
    ),
    Scenario(
        "RFC9111-4.3.4 of another date updates nothing",
        (
            Reply("Cache-Control: max-age=2 | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"),
            Reply(f"Last-Modified: {_NEWER}", 304),
            Reply(body="new"),
        ),
        (_FIRST, Ask(after=3, comes_from="new", body="new"), Ask(body="new")),
    ),
    Scenario(
        "RFC9111-4.3.5 HEAD of another length",
        (Reply(_BRIEF), Reply(f'{_FRESH} | ETag: "1"', body="longer"), Reply("Cache-Control: no-store", body="new")),
        (_FIRST, Ask(method="HEAD", after=3, comes_from="origin"), Ask(comes_from="origin", body="new")),
    ),
    Scenario(
        "RFC9111-3 the answer to HEAD is not stored",
        (Reply(_FRESH),),
        (Ask(method="HEAD", comes_from="origin"), Ask(comes_from="origin"), Ask(method="HEAD")),
    ),
    *(
        not_reused(f"RFC9213-2.1 {field}", f"CDN-Cache-Control: {field} | {_FRESH}, public")
        for field in (
            "max-age=0",
            "s-maxage=0",
            "max-age=-1",
            "no-cache",
            "no-store, max-age=60",
            "private",
            'private="x", private',
        )
    ),
    stored("RFC9213-2.1 an empty field does not count", f"CDN-Cache-Control:  | {_FRESH}"),
    stored("RFC9213-2.1 a list of names restricts those", f'CDN-Cache-Control: max-age=60, private="x-a" | {_FRESH}'),
    not_reused("RFC9213-2.1 Age counts against it", "CDN-Cache-Control: max-age=60 | Age: 61"),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_oddities(scenario: Scenario) -> None:
    await play(scenario)


async def test_the_time_an_answer_takes_is_age() -> None:
    """RFC 9111 section 4.2.3: response_delay is added to Age."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        edge.clock.advance(10)
        return web.Response(body=b"body", headers={"Cache-Control": "max-age=60", "Age": "5"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        await edge.fetch("/")
        assert (await edge.fetch("/")).headers["Age"] == "15"
        edge.clock.advance(44)
        assert "hit" in (await edge.fetch("/")).cache
        edge.clock.advance(2)
        assert "hit" not in (await edge.fetch("/")).cache
