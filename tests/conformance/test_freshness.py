"""RFC 9111 sections 4.2, 5.1 and 5.3, RFC 5861: how long what is kept answers."""

from __future__ import annotations

import pytest

from edgecache.policy.rule import CacheRule
from tests.conformance.scenario import Ask, Reply, Scenario, not_reused, play, stored

_DOWN = Reply(down=True)


def _stale(name: str, fields: str, *, answers: bool, status: int = 502, failing: Reply = _DOWN) -> Scenario:
    """The origin fails after the lifetime of 2 s."""
    then = Ask(after=3, comes_from="stored", body="body") if answers else Ask(after=3, comes_from="nobody", status=status)
    return Scenario(name, (Reply(fields), failing), (Ask(comes_from="origin"), then))


def _age(name: str, fields: str, *, fresh: bool) -> Scenario:
    text = f"Cache-Control: max-age=3600 | {fields}"
    return stored(name, text) if fresh else not_reused(name, text)


SCENARIOS = [
    stored("RFC9111-4.2.1 within max-age", "Cache-Control: max-age=60", after=59),
    not_reused("RFC9111-4.2.1 after max-age", "Cache-Control: max-age=60", after=61),
    not_reused("RFC9111-5.2.2.1 max-age=0", "Cache-Control: max-age=0"),
    stored("RFC9111-5.2.2.10 s-maxage goes before max-age", "Cache-Control: max-age=1, s-maxage=60", after=30),
    not_reused("RFC9111-5.2.2.10 and is as short as it says", "Cache-Control: max-age=60, s-maxage=1", after=30),
    stored("RFC9111-5.3 max-age goes before Expires", "Cache-Control: max-age=60 | Expires: {date-60}"),
    not_reused("RFC9111-5.3 so does one that is short", "Cache-Control: max-age=1 | Expires: {date+60}", after=30),
    stored("RFC9111-5.3 Expires", "Expires: {date+60}", after=59),
    not_reused("RFC9111-5.3 Expires is past", "Expires: {date-1}"),
    not_reused("RFC9111-5.3 Expires: 0", "Expires: 0"),
    not_reused("RFC9111-5.3 Expires is no date", "Expires: Thursday | Last-Modified: {date-100000}"),
    not_reused("RFC9111-5.3 Expires is relative to Date", "Expires: {date+60} | Date: {date+60}", after=1),
    stored("RFC9110-5.6.7 Expires in the form of RFC 850", "Expires: Friday, 01-Jan-38 01:01:01 GMT"),
    stored("RFC9110-5.6.7 Expires in the form of asctime", "Expires: Fri Jan  1 01:01:01 2038"),
    *(
        stored(f"RFC9111-1.2.2 max-age={value}", f"Cache-Control: max-age={value}")
        for value in ("2147483648", "99999999999", "003600", '"3600"')
    ),
    *(
        not_reused(f"RFC9111-4.2.1 max-age={value} is no lifetime", f"Cache-Control: max-age={value}")
        for value in ("-1", "3600.0", "abc", "", "'3600'", "= 3600", " 3600")
    ),
    stored("RFC9111-5.2 directive names have no case", "Cache-Control: MaX-aGe=60"),
    stored("RFC9110-5.6.1 empty list members", "Cache-Control: ,, max-age=60 ,"),
    not_reused("RFC9111-4.2.1 of two max-age the first counts", "Cache-Control: max-age=0 | Cache-Control: max-age=60"),
    stored("RFC9111-5.1 Age is added to", "Cache-Control: max-age=60 | Age: 30", after=29),
    not_reused("RFC9111-5.1 Age uses the lifetime up", "Cache-Control: max-age=60 | Age: 30", after=31),
    _age("RFC9111-5.1 Age above the lifetime", "Age: 7200", fresh=False),
    _age("RFC9111-5.1 Age of 2^31", "Age: 2147483648", fresh=False),
    _age("RFC9111-5.1 Age beyond all numbers", "Age: 99999999999999999999", fresh=False),
    _age("RFC9111-5.1 Age that is no number is ignored", "Age: abc", fresh=True),
    _age("RFC9111-5.1 negative Age is ignored", "Age: -7200", fresh=True),
    _age("RFC9111-5.1 Age with a fraction is ignored", "Age: 7200.0", fresh=True),
    _age("RFC9111-5.1 of two Age lines the first counts, fresh", "Age: 0 | Age: 7200", fresh=True),
    _age("RFC9111-5.1 of two Age lines the first counts, stale", "Age: 7200 | Age: 0", fresh=False),
    _age("RFC9111-5.1 of two Age members the first counts", "Age: 0, 7200", fresh=True),
    _age("RFC9111-4.2.3 an old Date ages", "Date: {date-7200}", fresh=False),
    Scenario(
        "RFC9111-5.1 Age is sent",
        (Reply("Cache-Control: max-age=60"),),
        (Ask(comes_from="origin"), Ask(after=7, has="Age: 7"), Ask(after=7, has="Age: 14")),
    ),
    Scenario(
        "RFC9110-6.6.1 Date is the origin's",
        (Reply("Cache-Control: max-age=60 | Date: Fri, 01 Jan 2038 01:01:01 GMT"),),
        (Ask(comes_from="origin"), Ask(after=7, has="Date: Fri, 01 Jan 2038 01:01:01 GMT")),
    ),
    stored("RFC9111-4.2.2 a tenth of the time since Last-Modified", "Last-Modified: {date-1000}", after=99),
    not_reused("RFC9111-4.2.2 and no more", "Last-Modified: {date-1000}", after=101),
    Scenario(
        "RFC9110-12.5.5 stale and validated: 304 makes it fresh",
        (Reply('Cache-Control: max-age=2 | ETag: "1"'), Reply('Cache-Control: max-age=60 | ETag: "1"', 304)),
        (
            Ask(comes_from="origin"),
            Ask(after=3, comes_from="origin", body="body", origin_saw='If-None-Match: "1"'),
            Ask(after=30, body="body"),
        ),
    ),
    _stale("RFC9111-4.2.4 stale while disconnected", "Cache-Control: max-age=2", answers=True),
    Scenario(
        "RFC9111-4.2.4 an error of the origin is no disconnection",
        (Reply("Cache-Control: max-age=2"), Reply("", 503, "down")),
        (Ask(comes_from="origin"), Ask(after=3, comes_from="origin", status=503, body="down")),
    ),
    Scenario(
        "RFC9111-4.2.4 stale while disconnected, but no longer than the operator allows",
        (Reply("Cache-Control: max-age=2"), _DOWN),
        (Ask(comes_from="origin"), Ask(after=13, comes_from="nobody", status=502)),
        CacheRule(stale_if_unreachable=10),
    ),
    Scenario(
        "RFC9111-5.2.1.4 a client that wants no stored response gets none while disconnected",
        (Reply("Cache-Control: max-age=2"), _DOWN),
        (Ask(comes_from="origin"), Ask("Cache-Control: no-cache", after=3, comes_from="nobody", status=502)),
    ),
    _stale("RFC5861-4 stale-if-error, connection lost", "Cache-Control: max-age=2, stale-if-error=60", answers=True),
    *(
        _stale(f"RFC5861-4 stale-if-error, {status}", "Cache-Control: max-age=2, stale-if-error=60", answers=True, failing=reply)
        for status, reply in ((status, Reply("", status)) for status in (500, 502, 503, 504))
    ),
    _stale("RFC5861-4 after its time", "Cache-Control: max-age=1, stale-if-error=1", answers=False),
    _stale("RFC9111-5.2.2.2 must-revalidate", "Cache-Control: max-age=2, must-revalidate", answers=False, status=504),
    _stale(
        "RFC9111-5.2.2.2 must-revalidate overrules stale-if-error",
        "Cache-Control: max-age=2, must-revalidate, stale-if-error=60",
        answers=False,
        status=504,
    ),
    _stale("RFC9111-5.2.2.8 proxy-revalidate", "Cache-Control: max-age=2, proxy-revalidate", answers=False, status=504),
    _stale("RFC9111-5.2.2.10 s-maxage", "Cache-Control: s-maxage=2", answers=False, status=504),
    Scenario(
        "RFC5861-3 stale-while-revalidate answers at once",
        (Reply('Cache-Control: max-age=2, stale-while-revalidate=60 | ETag: "1"'),),
        (Ask(comes_from="origin"), Ask(after=3, comes_from="stored", has="Age: 3", body="body")),
    ),
    not_reused("RFC5861-3 after its time", "Cache-Control: max-age=1, stale-while-revalidate=4", after=6),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_how_long_it_answers(scenario: Scenario) -> None:
    await play(scenario)
