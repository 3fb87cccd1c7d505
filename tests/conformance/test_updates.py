"""RFC 9111 sections 3.2, 4.3 and 4.4: how later messages change, confirm or end what is stored."""

from __future__ import annotations

import pytest

from tests.conformance.scenario import Ask, Reply, Scenario, play

_FIRST = Ask(comes_from="origin")
_BRIEF = 'Cache-Control: max-age=2 | ETag: "1"'
_FRESH = 'Cache-Control: max-age=60 | ETag: "1"'
_BOTH = f"{_FRESH} | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"


def _head(name: str, answer: str, *, then: Ask, status: int = 200, stored: str = _BRIEF) -> Scenario:
    """A HEAD once the stored response is stale, then a GET."""
    replies = (Reply(stored), Reply(answer, status), Reply("Cache-Control: no-store", body="new"))
    asks = (_FIRST, Ask(method="HEAD", after=3, comes_from="origin", status=status), then)
    return Scenario(name, replies, asks)


def _validated(name: str, stored: str, sent: str) -> Scenario:
    """What is sent to ask whether the stored response is current."""
    asks = (_FIRST, Ask(after=3, comes_from="origin", origin_saw=sent, body="body"))
    return Scenario(name, (Reply(stored), Reply("", 304)), asks)


def _brought(name: str, fields: str, then: Ask) -> Scenario:
    """A 304 with these fields, then another GET."""
    replies = (Reply(_BRIEF), Reply(fields, 304), Reply("Cache-Control: no-store", body="new"))
    return Scenario(name, replies, (_FIRST, Ask(after=3, comes_from="origin", body="body"), then))


def _answered(name: str, stored: str, sends: str, status: int) -> Scenario:
    return Scenario(name, (Reply(stored),), (_FIRST, Ask(sends, status=status)))


SCENARIOS = [
    _head("RFC9111-4.3.5 HEAD renews the lifetime", _FRESH, then=Ask(body="body")),
    _head(
        "RFC9111-4.3.5 HEAD brings fields", f"{_FRESH} | X-A: 2", then=Ask(has="X-A: 2", body="body"), stored=f"{_BRIEF} | X-A: 1"
    ),
    _head(
        "RFC9111-4.3.5 HEAD of another tag", 'Cache-Control: max-age=60 | ETag: "2"', then=Ask(comes_from="origin", body="new")
    ),
    _head(
        "RFC9111-4.3.5 HEAD of another date",
        "Cache-Control: max-age=60 | Last-Modified: Sun, 02 Jan 2000 00:00:00 GMT",
        then=Ask(comes_from="origin", body="new"),
        stored="Cache-Control: max-age=2 | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT",
    ),
    _head("RFC9111-4.3.5 HEAD of another status", _FRESH, status=410, then=Ask(comes_from="origin", body="new")),
    _validated("RFC9111-4.3.1 a strong tag", _BRIEF, 'If-None-Match: "1"'),
    _validated("RFC9111-4.3.1 a weak tag", 'Cache-Control: max-age=2 | ETag: W/"1"', 'If-None-Match: W/"1"'),
    _validated(
        "RFC9111-4.3.1 a date",
        "Cache-Control: max-age=2 | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT",
        "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT",
    ),
    Scenario(
        "RFC9111-4.3.1 the client's own tags are not sent on with it",
        (Reply(_BRIEF), Reply("", 304)),
        (_FIRST, Ask('If-None-Match: "2"', after=3, comes_from="origin", origin_saw='If-None-Match: "1"', body="body")),
    ),
    Scenario(
        "RFC9111-4.3.2 the client's own tag gets 304 after validation",
        (Reply(_BRIEF), Reply("", 304)),
        (_FIRST, Ask('If-None-Match: "1"', after=3, comes_from="origin", status=304)),
    ),
    _brought("RFC9111-4.3.4 304 renews the lifetime", _FRESH, Ask(after=30, body="body")),
    _brought("RFC9111-3.2 304 replaces a field", f"{_FRESH} | X-A: 2", Ask(has="X-A: 2", body="body")),
    _brought("RFC9111-3.2 304 does not replace Content-Length", f"{_FRESH} | Content-Length: 99", Ask(has="Content-Length: 4")),
    _brought("RFC9111-3.2 304 brings Set-Cookie", f"{_FRESH} | Set-Cookie: a=c", Ask(has="Set-Cookie: a=c", body="body")),
    _brought("RFC9111-5.2.2.5 304 brings no-store", 'Cache-Control: no-store | ETag: "1"', Ask(comes_from="origin", body="new")),
    _brought("RFC9111-5.2.2.7 304 brings private", 'Cache-Control: private | ETag: "1"', Ask(comes_from="origin", body="new")),
    Scenario(
        "RFC9111-3.2 what a 304 brings is told to the client, though it is not stored",
        (Reply(_BRIEF), Reply('Cache-Control: no-store | ETag: "1"', 304)),
        (_FIRST, Ask(after=3, comes_from="origin", body="body", has="Cache-Control: no-store")),
    ),
    _brought("RFC9111-3.1 hop-by-hop fields of a 304 are not kept", f"{_FRESH} | Connection: x-a | X-A: 1", Ask(lacks=("X-A",))),
    Scenario(
        "RFC9111-4.3.3 a full answer replaces what is stored",
        (Reply(_BRIEF), Reply('Cache-Control: max-age=60 | ETag: "2"', body="second")),
        (_FIRST, Ask(after=3, comes_from="origin", body="second"), Ask(body="second", has='ETag: "2"')),
    ),
    Scenario(
        "RFC9111-4.3.3 an error of the origin passes, and what is stored stays",
        (Reply(_BRIEF), Reply("", 500, "broken"), Reply(_FRESH, 304)),
        (_FIRST, Ask(after=3, comes_from="origin", status=500, body="broken"), Ask(comes_from="origin", body="body")),
    ),
    Scenario(
        "RFC9111-4.3.3 a full answer that may not be stored ends what is",
        (Reply(_BRIEF), Reply("Cache-Control: no-store", body="second"), Reply("Cache-Control: no-store", body="third")),
        (_FIRST, Ask(after=3, comes_from="origin", body="second"), Ask(comes_from="origin", body="third")),
    ),
    _answered(
        "RFC9110-13.1.2 a tag without quotes matches itself", "Cache-Control: max-age=60 | ETag: abc", "If-None-Match: abc", 304
    ),
    _answered("RFC9110-13.1.2 a list with an empty member", _FRESH, 'If-None-Match: , "1"', 304),
    _answered("RFC9110-13.1.2 a comma in a tag", 'Cache-Control: max-age=60 | ETag: "a,b"', 'If-None-Match: "a,b"', 304),
    _answered("RFC9110-13.1.2 part of a tag", 'Cache-Control: max-age=60 | ETag: "a,b"', 'If-None-Match: "a"', 200),
    _answered("RFC9110-8.8.3 tags have case", 'Cache-Control: max-age=60 | ETag: "a"', 'If-None-Match: "A"', 200),
    _answered("RFC9110-13.1.2 without a tag to compare", "Cache-Control: max-age=60", 'If-None-Match: "1"', 200),
    _answered(
        "RFC9110-13.1.3 the date in the form of RFC 850", _BOTH, "If-Modified-Since: Saturday, 01-Jan-00 00:00:00 GMT", 304
    ),
    _answered("RFC9110-13.1.3 the date in the form of asctime", _BOTH, "If-Modified-Since: Sat Jan  1 00:00:00 2000", 304),
    _answered("RFC9111-4.3.2 without Last-Modified Date takes its place", _FRESH, "If-Modified-Since: {date+5}", 304),
    _answered("RFC9111-4.3.2 and is later than asked", _FRESH, "If-Modified-Since: {date-5000}", 200),
    _answered("RFC9110-13.1.1 If-Match of this tag", _FRESH, 'If-Match: "1"', 200),
    _answered("RFC9110-13.1.1 If-Match star", _FRESH, "If-Match: *", 200),
    _answered(
        "RFC9110-13.1.4 If-Unmodified-Since a later date", _BOTH, "If-Unmodified-Since: Sun, 02 Jan 2000 00:00:00 GMT", 200
    ),
    Scenario(
        "RFC9110-15.4.5 what a 304 says",
        (Reply(f"{_BOTH} | Vary: X-A | Content-Location: /a | Expires: Fri, 01 Jan 2038 01:01:01 GMT | Content-Language: de"),),
        (
            _FIRST,
            Ask(
                'If-None-Match: "1"',
                status=304,
                has=f"{_FRESH} | Vary: X-A | Content-Location: /a | Expires: Fri, 01 Jan 2038 01:01:01 GMT",
                lacks=("Content-Length", "Content-Language", "Content-Type"),
                body="",
            ),
        ),
    ),
    Scenario(
        "RFC9110-13.1.2 a condition on what is not stored is answered with what the origin sends",
        (Reply(_FRESH),),
        (Ask('If-None-Match: "1"', comes_from="origin", status=304, origin_lacks=("If-None-Match",)), Ask(body="body")),
    ),
    *(
        Scenario(
            f"RFC9111-4.4 {method} with {status} invalidates nothing",
            (Reply(), Reply("", status)),
            (_FIRST, Ask(method=method, comes_from="origin", status=status), Ask()),
        )
        for method in ("POST", "DELETE", "REPORT")
        for status in (400, 404, 409, 503)
    ),
    Scenario(
        "RFC9111-4.4 a method not known here invalidates",
        (Reply(), Reply(""), Reply(body="new")),
        (_FIRST, Ask(method="REPORT", comes_from="origin"), Ask(comes_from="origin", body="new")),
    ),
    Scenario(
        "RFC9111-4.4 all variants are invalidated",
        (Reply("Cache-Control: max-age=60 | Vary: X-A"),),
        (
            Ask("X-A: 1", comes_from="origin"),
            Ask("X-A: 2", comes_from="origin"),
            Ask(method="PUT", comes_from="origin"),
            Ask("X-A: 1", comes_from="origin"),
            Ask("X-A: 2", comes_from="origin"),
        ),
    ),
    Scenario(
        "RFC9111-4.4 Location relative to the target",
        (Reply(), Reply("Location: b"), Reply(body="new")),
        (
            Ask(path="/d/b", comes_from="origin"),
            Ask(method="POST", path="/d/a", comes_from="origin"),
            Ask(path="/d/b", comes_from="origin"),
        ),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_what_later_messages_do(scenario: Scenario) -> None:
    await play(scenario)
