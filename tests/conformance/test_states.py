"""RFC 9111 section 4.3.2: If-Match and If-Unmodified-Since are the origin's to evaluate.

A cache ignores them where what it holds meets them (RFC 9110 sections 13.1.1 and 13.1.4), and passes the request on where it does
not, or holds nothing."""

from __future__ import annotations

import pytest

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request, Response
from edgecache.policy.rule import CacheRule
from edgecache.sites import ActiveVersion, GeneratorRoutes, OnError
from edgecache.source import Body, Interim
from edgecache.source import Reply as Answered
from edgecache.upstream.http1.body import BytesBody
from tests.conformance.scenario import Ask, Reply, Scenario, play
from tests.integration.proxy_support import edge_for

_TAG = 'Cache-Control: max-age=60 | ETag: "1"'
_DATE = "Cache-Control: max-age=60 | Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"
_EARLIER = "If-Unmodified-Since: Fri, 31 Dec 1999 00:00:00 GMT"
_LATER = "If-Unmodified-Since: Sun, 02 Jan 2000 00:00:00 GMT"
_REFUSAL = Reply("", 412, "not that one")
_FIRST = Ask(comes_from="origin")


def _met(name: str, fields: str, sends: str, *, status: int = 200) -> Scenario:
    return Scenario(name, (Reply(fields, status),), (Ask(comes_from="origin", status=status), Ask(sends, status=status)))


def _not_met(name: str, fields: str, sends: str) -> Scenario:
    """The origin is asked what the client asks, refuses, and what is stored stays."""
    asked = Ask(sends, status=412, body="not that one", comes_from="origin", origin_saw=sends)
    return Scenario(name, (Reply(fields), _REFUSAL), (_FIRST, asked, Ask(body="body")))


SCENARIOS = [
    _met("RFC9110-13.1.1 the tag that is held", _TAG, 'If-Match: "1"'),
    _met("RFC9110-13.1.1 one of several tags", _TAG, 'If-Match: "2", "1"'),
    _met("RFC9110-13.1.1 any", _TAG, "If-Match: *"),
    _met("RFC9110-13.1.4 the date that is held", _DATE, "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT"),
    _met("RFC9110-13.1.4 a later date", _DATE, _LATER),
    _met("RFC9110-13.1.4 a date that is none", _DATE, "If-Unmodified-Since: once"),
    _met("RFC9110-13.1.4 there is no date to compare", _TAG, _EARLIER),
    _met("RFC9110-13.1.4 does not count beside If-Match", f'{_DATE} | ETag: "1"', f'If-Match: "1" | {_EARLIER}'),
    _met("RFC9110-13.2.1 no condition of what is not there", _TAG, 'If-Match: "2"', status=404),
    _not_met("RFC9110-13.1.1 another tag", _TAG, 'If-Match: "2"'),
    _not_met("RFC9110-13.1.1 compares strongly", 'Cache-Control: max-age=60 | ETag: W/"1"', 'If-Match: W/"1"'),
    _not_met("RFC9110-13.1.1 there is no tag to compare", "Cache-Control: max-age=60", 'If-Match: "1"'),
    _not_met("RFC9110-13.1.4 an earlier date", _DATE, _EARLIER),
    _not_met("RFC9110-13.2.2 goes before If-None-Match", _TAG, 'If-Match: "2" | If-None-Match: "1"'),
    _not_met("RFC9110-13.2.2 goes before Range", _TAG, 'If-Match: "2" | Range: bytes=0-1'),
    Scenario(
        "RFC9110-13.2.2 met, If-None-Match counts",
        (Reply(_TAG),),
        (_FIRST, Ask('If-Match: "1" | If-None-Match: "1"', status=304)),
    ),
    Scenario(
        "RFC9110-13.2.2 met, Range counts",
        (Reply(_TAG),),
        (_FIRST, Ask('If-Match: "1" | Range: bytes=0-1', status=206, body="bo")),
    ),
    Scenario(
        "RFC9111-4.3.2 an origin that has changed answers with the new",
        (Reply(_TAG), Reply('Cache-Control: max-age=60 | ETag: "2"', body="new")),
        (_FIRST, Ask('If-Match: "2"', comes_from="origin", body="new"), Ask(body="new")),
    ),
    Scenario(
        "RFC9111-4.3.2 an origin that ignores the condition has judged it",
        (Reply(_TAG), Reply(_TAG)),
        (_FIRST, Ask('If-Match: "2"', comes_from="origin", body="body")),
    ),
    Scenario(
        "RFC9111-4.3.2 nothing is stored: the origin refuses, and is asked again",
        (_REFUSAL, Reply(_TAG)),
        (Ask('If-Match: "2"', status=412, comes_from="origin", origin_saw='If-Match: "2"'), _FIRST),
    ),
    Scenario(
        "RFC9111-4.3.2 nothing is stored: what the origin sends is kept",
        (Reply(_TAG),),
        (Ask('If-Match: "1"', comes_from="origin", origin_saw='If-Match: "1"'), Ask()),
    ),
    Scenario(
        "RFC9111-4.3.2 what is stored is stale: the origin's own condition, not the cache's",
        (Reply(_TAG), _REFUSAL),
        (_FIRST, Ask('If-Match: "1"', after=61, status=412, comes_from="origin", origin_lacks=("If-None-Match",))),
    ),
    Scenario(
        "RFC9111-5.2.1.7 only-if-cached, and what is stored does not meet the condition",
        (Reply(_TAG),),
        (_FIRST, Ask('If-Match: "2" | Cache-Control: only-if-cached', status=504, comes_from="nobody")),
    ),
    Scenario(
        "RFC9110-13.1.1 HEAD",
        (Reply(_TAG), Reply("", 412, "")),
        (_FIRST, Ask('If-Match: "2"', "HEAD", status=412, comes_from="origin")),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_whose_conditions_they_are(scenario: Scenario) -> None:
    await play(scenario)


class Generator:
    """Pays no heed to preconditions, as most do."""

    def __init__(self) -> None:
        self.count = 0

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Answered:
        self.count += 1
        fields = (("Cache-Control", "max-age=60"), ("ETag", f'"{self.count}"'), ("Content-Length", "4"))
        return Answered(Response(200, "OK", freeze(fields)), BytesBody(b"page"), "")


async def test_for_a_generator_this_edge_is_the_origin() -> None:
    generator = Generator()
    active = (ActiveVersion(1, 100, "k"),)
    routes = (GeneratorRoutes(name="g", routes=("/*",), active=active, rule=CacheRule(), on_error=(OnError.ERROR,)),)
    async with edge_for("http://127.0.0.1:1", generators={"g": generator}, routes=routes) as edge:
        assert (await edge.fetch("/", headers={"If-Match": '"7"'})).status == 412
        assert (await edge.fetch("/", headers={"If-Match": '"1"'})).status == 200
        assert generator.count == 1
        assert (await edge.fetch("/", headers={"If-Match": '"2"'})).status == 200
        assert generator.count == 2
