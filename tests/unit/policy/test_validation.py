from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.dates import format_date
from edgecache.policy.freshness import terms
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.rule import DEFAULT_RULE
from edgecache.policy.validation import Precondition, evaluate, head_update, not_modified, selects, update
from tests.unit.policy.values import FIELD_TEXT, NOW, request, response, timed

EARLIER, THEN, LATER = (format_date(NOW + offset) for offset in (-100, 0, 100))
NONE, NOT_MODIFIED, FAILED = Precondition.NONE, Precondition.NOT_MODIFIED, Precondition.FAILED


def test_304_replaces_fields_and_keeps_the_rest() -> None:
    stored = timed(("X-A", "1"), ("X-A", "2"), ("X-B", "1"), ("Cache-Control", "max-age=1"), ("Content-Type", "a/b"))
    fresh = timed(("X-A", "3"), ("Cache-Control", "max-age=9"), ("Content-Type", "a/c"), status=304, at=NOW + 50, delay=1)
    merged = update(stored, fresh)
    assert sorted(merged.response.headers.items()) == [
        ("Cache-Control", "max-age=9"),
        ("Content-Type", "a/c"),
        ("Date", format_date(NOW + 50)),
        ("X-A", "3"),
        ("X-B", "1"),
    ]
    assert (merged.response.status, merged.request_time, merged.response_time) == (200, NOW + 49, NOW + 50)


def test_304_does_not_change_what_describes_the_stored_bytes() -> None:
    stored = timed(Content_Length="10", Content_Encoding="gzip", Content_Digest="x")
    brought = timed(Content_Length="0", Content_Encoding="br", Content_Range="bytes 0-1/2", Content_Digest="y", status=304)
    kept = update(stored, brought).response.headers
    assert (kept["Content-Length"], kept["Content-Encoding"], kept["Content-Digest"]) == ("10", "gzip", "x")
    assert "Content-Range" not in kept


def test_304_does_not_bring_fields_of_its_connection() -> None:
    brought = timed(("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "x"), status=304)
    assert set(update(timed(), brought).response.headers) == {"Date"}


def test_304_does_not_bring_fields_that_may_not_be_kept() -> None:
    brought = timed(Cache_Control='max-age=9, no-cache="Set-Cookie"', Set_Cookie="a=b", status=304)
    assert "Set-Cookie" not in update(timed(), brought).response.headers


def test_304_makes_young() -> None:
    stored = timed(Age="1000", Date=EARLIER)
    brought = timed(status=304, at=NOW + 50, date=False)
    assert terms(update(stored, brought), DEFAULT_RULE).age(NOW + 60) == 10


@pytest.mark.parametrize(
    ("stored", "brought", "expected"),
    [
        pytest.param({"ETag": '"a"'}, {"ETag": '"a"'}, True, id="RFC9111-4.3.4 same strong validator"),
        pytest.param({"ETag": '"a"'}, {"ETag": '"b"'}, False, id="RFC9111-4.3.4 other strong validator"),
        pytest.param({"ETag": '"a"'}, {"ETag": 'W/"a"'}, True, id="RFC9111-4.3.4 weak validator"),
        pytest.param({"ETag": 'W/"a"'}, {"ETag": 'W/"a"'}, True, id="RFC9111-4.3.4 same weak validator"),
        pytest.param({"ETag": 'W/"a"'}, {"ETag": '"a"'}, False, id="RFC9111-4.3.4 strong validator of a weak one"),
        pytest.param(
            {"ETag": 'W/"a"', "Content-Encoding": "gzip"}, {"ETag": '"a"'}, True, id="RFC9110-8.8.3.3 weakened by who coded it"
        ),
        pytest.param({"ETag": "a"}, {"ETag": "a"}, True, id="RFC9111-4.3.4 without quotes"),
        pytest.param({}, {"ETag": '"a"'}, False, id="RFC9111-4.3.4 validator that is not stored"),
        pytest.param({"ETag": '"a"'}, {}, True, id="RFC9111-4.3.4 no validator"),
        pytest.param({"Last-Modified": THEN}, {"Last-Modified": THEN}, True, id="RFC9111-4.3.4 same date"),
        pytest.param({"Last-Modified": THEN}, {"Last-Modified": LATER}, False, id="RFC9111-4.3.4 other date"),
    ],
)
def test_304_selects(stored: dict[str, str], brought: dict[str, str], expected: bool) -> None:
    assert selects(timed(*stored.items()), timed(*brought.items(), status=304)) is expected


def test_head_updates_the_same_content() -> None:
    stored = timed(ETag='"a"', Content_Length="3", X_A="1")
    found = head_update(stored, timed(ETag='"a"', Content_Length="3", X_A="2", at=NOW + 5))
    assert found is not None
    assert (found.response.headers["X-A"], found.response_time) == ("2", NOW + 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ETag", '"b"'), ("Content-Length", "4"), ("Last-Modified", LATER)],
    ids=["RFC9111-4.3.5 ETag", "RFC9111-4.3.5 Content-Length", "RFC9111-4.3.5 Last-Modified"],
)
def test_head_that_speaks_of_other_content_makes_stale(name: str, value: str) -> None:
    assert head_update(timed(ETag='"a"', Content_Length="3"), timed((name, value))) is None


def test_head_with_another_status_makes_stale() -> None:
    assert head_update(timed(), timed(status=404)) is None


STORED = response(ETag='"a"', Last_Modified=THEN, Date=LATER)


@pytest.mark.parametrize(
    ("asked", "answer", "expected"),
    [
        pytest.param(request(), STORED, NONE, id="none"),
        pytest.param(request(If_None_Match='"b", "a"'), STORED, NOT_MODIFIED, id="RFC9110-13.1.2 one of several"),
        pytest.param(request(If_None_Match='W/"a"'), STORED, NOT_MODIFIED, id="RFC9110-13.1.2 weak comparison"),
        pytest.param(request(If_None_Match="*"), STORED, NOT_MODIFIED, id="RFC9110-13.1.2 star"),
        pytest.param(request(If_None_Match='"b"'), STORED, NONE, id="RFC9110-13.1.2 other tag"),
        pytest.param(request(If_None_Match='"a"'), response(), NONE, id="RFC9110-13.1.2 no ETag"),
        pytest.param(
            request(If_None_Match='"b"', If_Modified_Since=LATER), STORED, NONE, id="RFC9110-13.1.3 If-None-Match goes before"
        ),
        pytest.param(request(If_Modified_Since=THEN), STORED, NOT_MODIFIED, id="RFC9110-13.1.3 not modified since"),
        pytest.param(request(If_Modified_Since=EARLIER), STORED, NONE, id="RFC9110-13.1.3 modified since"),
        pytest.param(request(If_Modified_Since="x"), STORED, NONE, id="RFC9110-13.1.3 invalid date"),
        pytest.param(request(If_Modified_Since=LATER), response(Date=THEN), NOT_MODIFIED, id="RFC9111-4.3.2 Date in its place"),
        pytest.param(request(If_Modified_Since=LATER), response(), NONE, id="RFC9111-4.3.2 no date at all"),
        pytest.param(request(If_Match='"a"'), STORED, NONE, id="RFC9110-13.1.1 match"),
        pytest.param(request(If_Match="*"), STORED, NONE, id="RFC9110-13.1.1 star"),
        pytest.param(request(If_Match='W/"a"'), STORED, FAILED, id="RFC9110-13.1.1 strong comparison"),
        pytest.param(request(If_Match='"b"'), STORED, FAILED, id="RFC9110-13.1.1 other tag"),
        pytest.param(request(If_Match='"a"'), response(), FAILED, id="RFC9110-13.1.1 no ETag"),
        pytest.param(request(If_Unmodified_Since=EARLIER), STORED, FAILED, id="RFC9110-13.1.4 modified since"),
        pytest.param(request(If_Unmodified_Since=THEN), STORED, NONE, id="RFC9110-13.1.4 unmodified"),
        pytest.param(request(If_Unmodified_Since="x"), STORED, NONE, id="RFC9110-13.1.4 invalid date"),
        pytest.param(request(If_Unmodified_Since=EARLIER), response(), NONE, id="RFC9110-13.1.4 no date to compare"),
        pytest.param(
            request(If_Match='"a"', If_Unmodified_Since=EARLIER), STORED, NONE, id="RFC9110-13.1.4 If-Match goes before"
        ),
        pytest.param(request(If_Match='"a"', If_None_Match='"a"'), STORED, NOT_MODIFIED, id="RFC9110-13.2.2 both"),
        pytest.param(request(If_None_Match='"a"', method="HEAD"), STORED, NOT_MODIFIED, id="RFC9110-13.1.2 HEAD"),
        pytest.param(request(If_None_Match='"a"', method="POST"), STORED, NONE, id="RFC9110-13.2.1 other methods"),
        pytest.param(request(If_None_Match='"a"'), response(ETag='"a"', status=404), NONE, id="RFC9110-13.2.1 not 2xx"),
    ],
)
def test_preconditions_of_the_client(asked: Request, answer: Response, expected: Precondition) -> None:
    assert evaluate(asked, answer) is expected


def test_304_to_the_client_says_nothing_of_the_content() -> None:
    head = not_modified(response(ETag='"a"', Content_Type="a/b", Content_Length="3", Vary="a", Cache_Control="x", X_A="1"))
    assert head.status == 304
    assert set(head.headers) == {"ETag", "Vary", "Cache-Control", "X-A"}


FIELDS = st.lists(
    st.tuples(st.sampled_from(["Content-Length", "Content-Encoding", "ETag", "X-A", "Connection", "Age", "Date"]), FIELD_TEXT),
    max_size=8,
)


@given(FIELDS, FIELDS)
def test_merge_keeps_the_body_and_takes_the_rest(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> None:
    stored, brought = timed(*old), timed(*new, status=304, at=NOW + 9)
    merged: Timed = update(stored, brought)
    have, was, got = merged.response.headers, stored.response.headers, brought.response.headers
    for name in ("Content-Length", "Content-Encoding"):
        assert have.getall(name, []) == was.getall(name, [])
    if "Connection" not in got:
        assert have.getall("X-A", []) == got.getall("X-A", was.getall("X-A", []))
    assert have.getall("Age", []) in ([], got.getall("Age", []))
    assert merged.response_time == NOW + 9


@given(FIELD_TEXT, FIELD_TEXT, FIELD_TEXT, FIELD_TEXT)
def test_any_precondition_gets_an_answer(match: str, none_match: str, since: str, unmodified: str) -> None:
    asked = request(If_Match=match, If_None_Match=none_match, If_Modified_Since=since, If_Unmodified_Since=unmodified)
    assert evaluate(asked, STORED) in Precondition


def test_head_updates_nothing_that_was_coded_here_unless_a_validator_says_that_it_is_the_same() -> None:
    """Coding takes Content-Length away: the stored body may be another version's (found by `test_histories`)."""
    coded = {"Content_Encoding": "gzip"}
    assert head_update(timed(**coded), timed(**coded, X_A="2")) is None
    assert head_update(timed(**coded, ETag='W/"a"'), timed(**coded, ETag='W/"a"')) is not None
