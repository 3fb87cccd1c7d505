"""RFC 9110 and RFC 9111, field by field: which fields pass, which are kept, and how odd values of those that matter are read."""

from __future__ import annotations

import pytest

from tests.conformance.scenario import Ask, Reply, Scenario, not_reused, play, stored

_FRESH = "Cache-Control: max-age=60"
_HOP = (
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Upgrade",
)
_END = (
    ("Clear-Site-Data", '"cache"'),
    ("Content-Foo", "bar"),
    ("Content-Language", "de"),
    ("Content-Location", "/elsewhere"),
    ("Content-MD5", "N7UdGUp1E+RbVvZSTy1R8g=="),
    ("Content-Security-Policy", "default-src 'self' cdn.example"),
    ("Link", "</a>; rel=next"),
    ("Location", "/moved"),
    ("Pragma", "no-cache"),
    ("Retry-After", "120"),
    ("Server", "something/1.0"),
    ("Set-Cookie", "a=b; Path=/"),
    ("Set-Cookie2", "a=b"),
    ("Strict-Transport-Security", "max-age=31536000"),
    ("Surrogate-Key", "a b"),
    ("Warning", '110 - "stale"'),
    ("X-Content-Foo", "bar"),
    ("X-Frame-Options", "sameorigin"),
    ("X-XSS-Protection", "1; mode=block"),
)


def _kept(name: str, value: str) -> Scenario:
    line = f"{name}: {value}"
    return Scenario(
        f"RFC9111-3.1 {name} is kept", (Reply(f"{_FRESH} | {line}"),), (Ask(comes_from="origin", has=line), Ask(has=line))
    )


def _dropped(name: str) -> Scenario:
    fields = f"{_FRESH} | {name}: timeout=1"
    asks = (Ask(comes_from="origin", lacks=(name,)), Ask(lacks=(name,)))
    return Scenario(f"RFC9110-7.6.1 {name} ends here", (Reply(fields),), asks)


def _expires(value: str, *, fresh: bool) -> Scenario:
    name = f"RFC9111-5.3 Expires: {value}"
    return (stored if fresh else not_reused)(name, f"Expires: {value} | Last-Modified: {{date-100000}}")


def _targeted(name: str, value: str, *, counts: bool) -> Scenario:
    """Whether a CDN-Cache-Control counts against a Cache-Control that forbids storing."""
    make = stored if counts else not_reused
    return make(f"RFC9213-2.1 {name}", f"CDN-Cache-Control: {value} | Cache-Control: no-store")


SCENARIOS = [
    *(_kept(name, value) for name, value in _END),
    *(_dropped(name) for name in _HOP),
    Scenario(
        "RFC9110-7.6.1 Connection lists fields of a request that end here",
        (Reply(),),
        (Ask("Connection: x-hop | X-Hop: 1 | X-End: 2", comes_from="origin", origin_saw="X-End: 2", origin_lacks=("X-Hop",)),),
    ),
    *(
        Scenario(
            f"RFC9110-7.6.1 {name} of a request ends here",
            (Reply(),),
            (Ask(f"{name}: x", comes_from="origin", origin_lacks=(name,)),),
        )
        for name in ("Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE")
    ),
    *(
        Scenario(
            f"RFC9110-7.6 {line.partition(':')[0]} of a request passes",
            (Reply(),),
            (Ask(line, comes_from="origin", origin_saw=line),),
        )
        for line in ("Cookie: a=b", "X-Strange: , ,;", "User-Agent: me", "Referer: http://a/", "Origin: http://a", "DNT: 1")
    ),
    Scenario(
        "RFC9111-7.2 Cookie is no part of the key", (Reply(),), (Ask("Cookie: a=b", comes_from="origin"), Ask("Cookie: c=d"))
    ),
    Scenario(
        "RFC9110-7.6.3 Via is added both ways",
        (Reply(),),
        (Ask(comes_from="origin", has="Via: 1.1 edgecache", origin_saw="Via: 1.1 edgecache"), Ask(has="Via: 1.1 edgecache")),
    ),
    Scenario(
        "RFC9110-8.6 Content-Length is that of the stored body",
        (Reply(body="twelve bytes"),),
        (Ask(comes_from="origin", has="Content-Length: 12"), Ask(has="Content-Length: 12", body="twelve bytes")),
    ),
    Scenario(
        "RFC9111-5.2.2.7 private with field names keeps those out",
        (Reply('Cache-Control: max-age=60, private="x-a" | X-A: 1 | X-B: 2'),),
        (Ask(comes_from="origin", has="X-A: 1"), Ask(has="X-B: 2", lacks=("X-A",))),
    ),
    not_reused("RFC9111-4.2.1 private with and without names: the stricter", 'Cache-Control: private="a", private, max-age=60'),
    not_reused(
        "RFC9111-4.2.1 no-cache with and without names: the stricter", 'Cache-Control: no-cache, no-cache="a", max-age=60'
    ),
    stored("RFC9111-5.2 a directive inside a quoted string is none", 'Cache-Control: max-age=60, x="no-store, private"'),
    not_reused("RFC9111-5.2 a quote that is never closed hides nothing", 'Cache-Control: max-age=60, x="a, no-store'),
    stored("RFC9111-5.2 escapes in quoted strings", 'Cache-Control: max-age=60, x="a\\", no-store"'),
    stored(
        "RFC9111-5.2.2.9 public alone adds no lifetime, Last-Modified does",
        "Cache-Control: public | Last-Modified: {date-100000}",
    ),
    not_reused("RFC9111-5.2.2.9 public alone", "Cache-Control: public"),
    stored("RFC9111-5.2.2.3 no-store beside must-understand, any order", "Cache-Control: no-store, max-age=60, must-understand"),
    not_reused("RFC9111-5.2.2.3 must-understand adds no lifetime", "Cache-Control: must-understand"),
    not_reused("RFC9111-5.2.2.5 no-store goes before public", "Cache-Control: public, no-store, max-age=60"),
    stored("RFC9111-5.4 Pragma of a response means nothing", f"{_FRESH} | Pragma: no-cache"),
    stored("RFC9111-3 Content-Disposition means nothing", f"{_FRESH} | Content-Disposition: attachment"),
    stored("RFC9111-5.2.2.2 must-revalidate while fresh", "Cache-Control: max-age=60, must-revalidate"),
    stored("RFC9111-5.2.2.8 proxy-revalidate while fresh", "Cache-Control: max-age=60, proxy-revalidate"),
    stored("RFC8246-2 immutable while fresh", "Cache-Control: max-age=60, immutable"),
    Scenario(
        "RFC8246-2 a reload does not validate what is immutable",
        (Reply("Cache-Control: max-age=60, immutable"),),
        (Ask(comes_from="origin"), Ask("Cache-Control: max-age=0", after=1)),
    ),
    *(
        _expires(value, fresh=False)
        for value in (
            "-1",
            "never",
            "Fri, 32 Jan 2038 01:01:01 GMT",
            "Fri, 01 Foo 2038 01:01:01 GMT",
            "Fri, 01 Jan 2038 25:01:01 GMT",
            "Fri, 01 Jan 2038 1:01:01 GMT",
            "Fri, 01 Jan 2038 01:01:01",
            "Fri, 01 Jan 2038 01:01:01 UTC",
            "Fri, 01 Jan 2038 01:01:01 +0100",
            "Fri 01 Jan 2038 01:01:01 GMT",
            "Fri, 1 Jan 2038 01:01:01 GMT",
            "2038-01-01T01:01:01Z",
            "2145920461",
            "Thu, 01 Jan 1970 00:00:00 GMT",
        )
    ),
    *(
        _expires(value, fresh=True)
        for value in ("Fri, 01 Jan 2038 01:01:01 GMT", "fri, 01 jan 2038 01:01:01 gmt", "Tue, 19 Jan 2038 14:14:08 GMT")
    ),
    not_reused("RFC9111-5.3 two Expires that differ", "Expires: {date+60} | Expires: {date+120} | Last-Modified: {date-100000}"),
    stored("RFC9111-4.2.1 Expires without Date", "Expires: {date+60}"),
    stored("RFC9111-4.2.1 s-maxage goes before Expires", "Cache-Control: s-maxage=60 | Expires: 0"),
    not_reused("RFC9111-4.2.1 s-maxage=0 goes before max-age", "Cache-Control: max-age=60, s-maxage=0"),
    not_reused("RFC9111-4.2.1 an s-maxage that is no number", "Cache-Control: max-age=60, s-maxage=x"),
    *(
        _targeted(value, value, counts=True)
        for value in ("max-age=60;p=1", "max-age=60, x;y", "max-age=60, a=(1 2), b=:aGk=:", "s-maxage=60")
    ),
    *(
        _targeted(value, value, counts=False)
        for value in (
            "max-age=60.0",
            "max-age=abc",
            "max-age",
            "max-age=(60)",
            "max-age=?1",
            "max-age =60",
            "max-age= 60",
            "Max-Age=60",
            "max-age=60,",
            "max-age=60; =1",
            "max-age=60, no-store=1",
            'max-age=60, b="open',
            "60",
            "",
        )
    ),
    _targeted("a number repeated: the last counts", "max-age=0, max-age=60", counts=True),
    stored(
        "RFC9213-2.1 two lines are one field", "CDN-Cache-Control: foo | CDN-Cache-Control: max-age=60 | Cache-Control: no-store"
    ),
    Scenario(
        "RFC9213-2.1 the field passes unchanged",
        (Reply("CDN-Cache-Control: max-age=60"),),
        (Ask(comes_from="origin", has="CDN-Cache-Control: max-age=60"), Ask(has="CDN-Cache-Control: max-age=60")),
    ),
    Scenario(
        "RFC9213-2.1 no-store switched off does not count",
        (Reply("CDN-Cache-Control: max-age=60, no-store=?0 | Cache-Control: no-store"),),
        (Ask(comes_from="origin"), Ask()),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_how_fields_are_read_and_passed(scenario: Scenario) -> None:
    await play(scenario)
