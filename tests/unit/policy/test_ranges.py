from __future__ import annotations

from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.dates import format_date
from edgecache.policy.message import Request
from edgecache.policy.ranges import (
    FullBody,
    NotSatisfiable,
    Parts,
    body_length,
    closing,
    not_satisfiable,
    part_head,
    partial,
    select,
)
from tests.unit.policy.values import FIELD_TEXT, NOW, headers, request, response

TYPED = response(Content_Type="text/plain", ETag='"a"', Content_Length="100")


def spans(value: str, length: int = 100) -> tuple[tuple[int, int], ...] | None:
    found = select(request(Range=value), TYPED, length)
    return found.spans if isinstance(found, Parts) else None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("bytes=0-9", ((0, 9),), id="RFC9110-14.1.2 first and last"),
        pytest.param("bytes=90-", ((90, 99),), id="RFC9110-14.1.2 open end"),
        pytest.param("bytes=-5", ((95, 99),), id="RFC9110-14.1.2 suffix"),
        pytest.param("bytes=-500", ((0, 99),), id="RFC9110-14.1.2 suffix longer than the body"),
        pytest.param("bytes=50-500", ((50, 99),), id="RFC9110-14.1.2 end beyond the body"),
        pytest.param("Bytes=0-0", ((0, 0),), id="RFC9110-14.1 units are case-insensitive"),
        pytest.param("bytes= 0-0 ,\t2-2,", ((0, 0), (2, 2)), id="RFC9110-5.6.1 whitespace and empty members"),
        pytest.param("bytes=50-59,0-9", ((50, 59), (0, 9)), id="RFC9110-15.3.7.2 order of the request"),
        pytest.param("bytes=0-9,5-20,21-30", ((0, 30),), id="RFC9110-15.3.7.2 overlapping and adjoining"),
        pytest.param("bytes=0-9,500-", ((0, 9),), id="RFC9110-14.2 unsatisfiable one left out"),
        pytest.param(f"bytes={'0' * 30}5-{'9' * 5000}", ((5, 99),), id="RFC9110-14.1.1 long numbers"),
    ],
)
def test_spans(value: str, expected: tuple[tuple[int, int], ...]) -> None:
    assert spans(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("bytes=9-0", id="RFC9110-14.1.1 last before first"),
        pytest.param("bytes=0-1,9-0", id="RFC9110-14.1.1 one invalid spec"),
        pytest.param("bytes=-", id="no position"),
        pytest.param("bytes=a-b", id="no number"),
        pytest.param("bytes=0-1;2-3", id="other separator"),
        pytest.param("bytes", id="no set"),
        pytest.param("bytes=", id="empty set"),
        pytest.param("items=0-1", id="RFC9110-14.2 unknown unit"),
        pytest.param("bytes=" + ",".join(f"{2 * i}-{2 * i}" for i in range(17)), id="RFC9110-17.15 too many"),
        pytest.param("bytes=" + "," * 1000 + "0-1", id="RFC9110-17.15 too many empty members"),
    ],
)
def test_whole_body_instead(value: str) -> None:
    assert select(request(Range=value), TYPED, 100) == FullBody()


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(request(), id="no Range"),
        pytest.param(request(("Range", "bytes=0-1"), ("Range", "bytes=2-3")), id="two Range lines"),
        pytest.param(request(Range="bytes=0-1", method="HEAD"), id="RFC9110-14.2 GET only"),
    ],
)
def test_requests_without_a_range_that_counts(asked: Request) -> None:
    assert select(asked, TYPED, 100) == FullBody()


def test_only_200_is_cut() -> None:
    assert select(request(Range="bytes=0-1"), response(status=404), 100) == FullBody()


def test_origin_may_refuse_ranges() -> None:
    assert select(request(Range="bytes=0-1"), response(Accept_Ranges="none"), 100) == FullBody()


@pytest.mark.parametrize(
    ("value", "length"),
    [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=200-300,-0", 100)],
    ids=["beyond the body", "empty suffix", "empty body", "all of them"],
)
def test_not_satisfiable(value: str, length: int) -> None:
    assert select(request(Range=value), TYPED, length) == NotSatisfiable(length)


def test_suffix_of_an_empty_body_is_the_whole_of_it() -> None:
    assert select(request(Range="bytes=-5"), TYPED, 0) == FullBody()


OLD, RECENT = format_date(NOW - 100), format_date(NOW)


CODED = {"Content-Encoding": "gzip", "Last-Modified": OLD, "Date": RECENT}


@pytest.mark.parametrize(
    ("conditions", "fields", "applies"),
    [
        pytest.param(['"a"'], {"ETag": '"a"'}, True, id="RFC9110-13.1.5 same strong tag"),
        pytest.param(['"b"'], {"ETag": '"a"'}, False, id="RFC9110-13.1.5 other tag"),
        pytest.param(['W/"a"'], {"ETag": 'W/"a"'}, False, id="RFC9110-13.1.5 weak tags never match"),
        pytest.param(['"a"'], {}, False, id="RFC9110-13.1.5 no ETag"),
        pytest.param([OLD], {"Last-Modified": OLD, "Date": RECENT}, True, id="RFC9110-13.1.5 same date"),
        pytest.param([RECENT], {"Last-Modified": OLD, "Date": RECENT}, False, id="RFC9110-13.1.5 later date is not the same"),
        pytest.param([OLD], {"Last-Modified": OLD, "Date": OLD}, False, id="RFC9110-8.8.2.2 weak date"),
        pytest.param([OLD], {"Date": RECENT}, False, id="RFC9110-13.1.5 no Last-Modified"),
        pytest.param([OLD], CODED, False, id="RFC9110-8.8.2.2 a date that all codings share"),
        pytest.param([OLD], {**CODED, "Accept-Ranges": "bytes"}, True, id="RFC9110-14.3 of a coded file"),
        pytest.param([], CODED, False, id="RFC9110-8.8.2.2 nothing but such a date"),
        pytest.param([], {**CODED, "ETag": 'W/"a"'}, True, id="RFC9110-8.8.1 a weak tag tells clients"),
        pytest.param(["x"], {"Last-Modified": OLD, "Date": RECENT}, False, id="RFC9110-13.1.5 neither tag nor date"),
        pytest.param(['"a"', '"a"'], {"ETag": '"a"'}, False, id="two If-Range lines"),
    ],
)
def test_if_range(conditions: list[str], fields: dict[str, str], applies: bool) -> None:
    asked = request(("Range", "bytes=0-1"), *(("If-Range", condition) for condition in conditions))
    assert isinstance(select(asked, response(*fields.items()), 100), Parts if applies else FullBody)


def test_single_part_head() -> None:
    parts = Parts(((5, 9),), False, 100, "text/plain")
    head = partial(TYPED, parts, "unused")
    assert head.status == 206
    assert (head.headers["Content-Range"], head.headers["Content-Length"]) == ("bytes 5-9/100", "5")
    assert (head.headers["Content-Type"], head.headers["ETag"]) == ("text/plain", '"a"')


@pytest.mark.parametrize("content_type", ["text/plain", None])
def test_multipart_body_is_read_back_by_a_mime_parser(content_type: str | None) -> None:
    body = bytes(range(65, 91)) * 4
    parts = Parts(((0, 4), (50, 59)), True, len(body), content_type)
    head = partial(TYPED, parts, "b0undary")
    framed = b"".join(
        part_head(parts, i, "b0undary") + body[first : last + 1] for i, (first, last) in enumerate(parts.spans)
    ) + closing("b0undary")
    assert int(head.headers["Content-Length"]) == len(framed) == body_length(parts, "b0undary")
    assert "Content-Range" not in head.headers
    message = BytesParser().parsebytes(f"Content-Type: {head.headers['Content-Type']}\r\n\r\n".encode() + framed)
    found = [(part["Content-Range"], part.get_payload(decode=True)) for part in message.get_payload()]
    assert found == [("bytes 0-4/104", body[:5]), ("bytes 50-59/104", body[50:60])]


def test_416_head() -> None:
    head = not_satisfiable(TYPED, 100)
    assert (head.status, head.headers["Content-Range"], head.headers["ETag"]) == (416, "bytes */100", '"a"')
    assert "Content-Type" not in head.headers


SPECS = st.lists(st.sampled_from(["0-0", "5-", "-3", "7-9", "8-20", "99-", "-0", "40-50", "45-60"]), min_size=1, max_size=16)


@given(SPECS.map(",".join) | FIELD_TEXT, st.integers(0, 120), st.integers(0, 20))
def test_spans_lie_inside_the_body_and_apart(specs: str, length: int, max_parts: int) -> None:
    found = select(Request("GET", "http", "h", "/", headers(Range=f"bytes={specs}")), TYPED, length, max_parts=max_parts)
    if not isinstance(found, Parts):
        return
    assert 1 <= len(found.spans) <= max_parts
    assert found.multipart == (len(found.spans) > 1)
    ends = -1
    for first, last in sorted(found.spans):
        assert ends < first <= last < length
        ends = last + 1
    assert body_length(found, "b") >= sum(last - first + 1 for first, last in found.spans)
