"""RFC 9111 sections 3 and 5.2: what is kept, and for whom. RFC 9213: by which of two fields."""

from __future__ import annotations

import pytest

from tests.conformance.scenario import Ask, Reply, Scenario, not_reused, play, stored

_MODIFIED = "Last-Modified: {date-100000}"


def _authorized(name: str, fields: str, *, shared: bool) -> Scenario:
    first = Ask("Authorization: x", comes_from="origin")
    return Scenario(name, (Reply(fields),), (first, Ask(comes_from="cache" if shared else "origin")))


def _posted(name: str, fields: str, kept: bool) -> Scenario:
    """A GET after a POST to the same target."""
    asks = (Ask(method="POST", path="/p", comes_from="origin"), Ask(path="/p", comes_from="cache" if kept else "origin"))
    return Scenario(name, (Reply(fields),), asks)


def _status(status: int, fields: str, *, kept: bool) -> Scenario:
    name = f"RFC9110-15.1 {status} {'with' if 'max-age' in fields else 'without'} a lifetime"
    return stored(name, fields, status=status) if kept else not_reused(name, fields, status=status)


SCENARIOS = [
    stored("RFC9111-3 explicit lifetime", "Cache-Control: max-age=60"),
    not_reused("RFC9111-3 nothing said", "X-A: b"),
    not_reused("RFC9111-5.2.2.5 no-store", "Cache-Control: no-store, max-age=60"),
    not_reused("RFC9111-5.2.2.5 No-StOrE in any case", "Cache-Control: No-StOrE, max-age=60"),
    not_reused("RFC9111-5.2.2.5 no-store on a line of its own", "Cache-Control: max-age=60 | Cache-Control: no-store"),
    not_reused("RFC9111-5.2.2.7 private", "Cache-Control: private, max-age=60"),
    not_reused("RFC9111-5.2.2.4 no-cache", "Cache-Control: no-cache, max-age=60"),
    stored("RFC9111-5.2.3 unknown directives", 'Cache-Control: foo=bar, baz="max-age=0, no-store", max-age=60'),
    stored("RFC9111-5.2.2.3 must-understand overrules no-store", "Cache-Control: must-understand, no-store, max-age=60"),
    not_reused("RFC9111-5.2.2.3 must-understand of an unknown status", "Cache-Control: must-understand, max-age=60", status=599),
    stored("RFC9111-7.3 Set-Cookie with a lifetime", "Cache-Control: max-age=60 | Set-Cookie: a=b"),
    not_reused("RFC9111-7.3 Set-Cookie with a guessed one", f"{_MODIFIED} | Set-Cookie: a=b"),
    Scenario(
        "RFC9111-3.1 Connection and what it lists is not kept",
        (Reply("Cache-Control: max-age=60 | Connection: x-hop | X-Hop: 1 | X-End: 2"),),
        (Ask(comes_from="origin", lacks=("X-Hop",)), Ask(has="X-End: 2", lacks=("X-Hop", "Connection"))),
    ),
    Scenario(
        "RFC9111-5.2.2.4 no-cache with field names keeps those out",
        (Reply('Cache-Control: no-cache="x-a, x-b", max-age=60 | X-A: 1 | X-B: 2 | X-C: 3'),),
        (Ask(comes_from="origin", has="X-A: 1"), Ask(has="X-C: 3", lacks=("X-A", "X-B"))),
    ),
    Scenario(
        "RFC9110-5.1 unknown fields pass both ways unchanged",
        (Reply("Cache-Control: max-age=60 | X-Strange: a;b, c"),),
        (Ask("X-Asked: d ; e", comes_from="origin", origin_saw="X-Asked: d ; e", has="X-Strange: a;b, c"), Ask()),
    ),
    Scenario(
        "RFC9110-4.2.3 another query is another resource",
        (Reply(),),
        (Ask(path="/?a=1", comes_from="origin"), Ask(path="/?a=2", comes_from="origin"), Ask(path="/?a=1")),
    ),
    Scenario("RFC9110-9.2.3 the answer to POST is not kept", (Reply(),), (Ask(method="POST", comes_from="origin"),) * 2),
    _posted(
        "RFC9110-9.3.3 a POST that brings the target's representation", "Content-Location: /p | Cache-Control: max-age=60", True
    ),
    _posted("RFC9110-9.3.3 which must have a lifetime", f"Content-Location: /p | {_MODIFIED}", False),
    _posted("RFC9110-9.3.3 and be the target's own", "Content-Location: /q | Cache-Control: max-age=60", False),
    _posted("RFC9110-9.3.3 and no other origin's", "Content-Location: http://x.test/p | Cache-Control: max-age=60", False),
    _posted("RFC9110-9.3.3 and say so", "Cache-Control: max-age=60", False),
    _posted("RFC9110-9.3.3 and may be stored", "Content-Location: /p | Cache-Control: max-age=60, no-store", False),
    _authorized("RFC9111-3.5 Authorization", "Cache-Control: max-age=60", shared=False),
    _authorized("RFC9111-3.5 Authorization and public", "Cache-Control: max-age=60, public", shared=True),
    _authorized("RFC9111-3.5 Authorization and must-revalidate", "Cache-Control: max-age=60, must-revalidate", shared=True),
    _authorized("RFC9111-3.5 Authorization and s-maxage", "Cache-Control: s-maxage=60", shared=True),
    stored("RFC9213-2.1 CDN-Cache-Control alone", "CDN-Cache-Control: max-age=60"),
    stored("RFC9213-2.1 it overrules no-store", "CDN-Cache-Control: max-age=60 | Cache-Control: no-store"),
    stored("RFC9213-2.1 it overrules Expires", "CDN-Cache-Control: max-age=60 | Expires: {date-100}"),
    not_reused("RFC9213-2.1 its no-store counts", "CDN-Cache-Control: no-store | Cache-Control: max-age=60"),
    not_reused("RFC9213-2.1 its private counts", "CDN-Cache-Control: private | Cache-Control: max-age=60"),
    not_reused("RFC9213-2.1 its no-cache counts", "CDN-Cache-Control: no-cache | Cache-Control: max-age=60"),
    not_reused("RFC9213-2.1 its lifetime counts", "CDN-Cache-Control: max-age=1 | Cache-Control: max-age=60", after=2),
    not_reused("RFC9213-2.1 a wrong type: ignored whole", 'CDN-Cache-Control: max-age="60" | Cache-Control: no-store'),
    not_reused("RFC9213-2.1 no structured field: ignored whole", "CDN-Cache-Control: max-age=60, && | Cache-Control: no-store"),
    stored("RFC9213-2.1 unknown members", "CDN-Cache-Control: foobar, max-age=60"),
    stored("RFC9213-2.2 Surrogate-Control comes second", "Surrogate-Control: max-age=60 | Cache-Control: no-store"),
    not_reused("RFC9213-2.2 CDN-Cache-Control comes first", "Surrogate-Control: max-age=60 | CDN-Cache-Control: no-store"),
    *(_status(status, "Cache-Control: max-age=60", kept=True) for status in (200, 203, 204, 300, 301, 302, 303, 307, 308)),
    *(
        _status(status, "Cache-Control: max-age=60", kept=True)
        for status in (400, 404, 405, 410, 414, 451, 499, 500, 501, 503, 599)
    ),
    *(_status(status, _MODIFIED, kept=True) for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)),
    *(_status(status, _MODIFIED, kept=False) for status in (201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 599)),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_what_is_kept(scenario: Scenario) -> None:
    await play(scenario)
