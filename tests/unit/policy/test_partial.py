"""Parts of a representation (RFC 9110 section 15.3.7, RFC 9111 sections 3.3 and 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy import partial
from edgecache.policy.message import Response
from edgecache.policy.partial import MAX_SPANS, Held
from edgecache.policy.ranges import ByteSpan, NotSatisfiable, Parts
from tests.unit.policy.values import headers, request, response

DATED = {"Date": "Fri, 15 Jan 2027 08:00:00 GMT", "Last_Modified": "Fri, 15 Jan 2027 07:00:00 GMT"}


def part(span: str, *, etag: str | None = '"1"', **fields: str) -> Response:
    tag = {} if etag is None else {"ETag": etag}
    return response(status=206, Content_Range=span, **tag, **fields)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        pytest.param({"Content_Range": "bytes 0-4/10"}, ((0, 4), 10), id="RFC9110-14.4 one range"),
        pytest.param({"Content_Range": "Bytes 9-9/10"}, ((9, 9), 10), id="RFC9110-14.1 units have no case"),
        pytest.param({"Content_Range": "bytes 0-4/10", "Content_Length": "5"}, ((0, 4), 10), id="RFC9110-8.6 of that length"),
        pytest.param({"Content_Range": "bytes 0-4/10", "Content_Length": "6"}, None, id="RFC9110-8.6 of another length"),
        pytest.param({"Content_Range": "bytes 0-4/*"}, None, id="RFC9110-14.4 complete length unknown"),
        pytest.param({"Content_Range": "bytes */10"}, None, id="RFC9110-14.4 unsatisfied"),
        pytest.param({"Content_Range": "bytes 4-0/10"}, None, id="RFC9110-14.4 ends before it begins"),
        pytest.param({"Content_Range": "bytes 5-10/10"}, None, id="RFC9110-14.4 beyond the end"),
        pytest.param({"Content_Range": "items 0-4/10"}, None, id="RFC9110-14.1 another unit"),
        pytest.param({"Content_Range": "bytes 0-9999999999999999999/99999999999999999999"}, None, id="RFC9110-14.4 huge"),
        pytest.param({}, None, id="RFC9110-15.3.7.1 none"),
        pytest.param(
            {"Content_Range": "bytes 0-4/10", "Content_Type": "Multipart/ByteRanges; boundary=x"},
            None,
            id="RFC9110-15.3.7.2 several",
        ),
    ],
)
def test_what_a_206_brings(fields: dict[str, str], found: tuple[ByteSpan, int] | None) -> None:
    assert partial.incoming(response(status=206, **fields)) == found


def test_two_content_ranges_are_none() -> None:
    twice = response(("Content-Range", "bytes 0-0/9"), ("Content-Range", "bytes 2-2/9"), status=206)
    assert partial.incoming(twice) is None
    assert partial.parts_of(twice) == (((0, 0), (2, 2)), 9)


@pytest.mark.parametrize(
    "lines", [("bytes 0-4/10", "bytes 5-6/10"), ("bytes 5-6/10", "bytes 0-1/10"), ("bytes 0-1/9", "bytes 5-6/8")]
)
def test_a_stored_head_in_disorder_is_none(lines: tuple[str, ...]) -> None:
    assert partial.parts_of(response(*(("Content-Range", line) for line in lines), status=206)) is None


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("bytes=4-8", ((4, 8),), id="all that is stored"),
        pytest.param("bytes=5-6", ((5, 6),), id="a part of it"),
        pytest.param("bytes=-1", ((9, 9),), id="RFC9110-14.1.2 suffix"),
        pytest.param("bytes=9-", ((9, 9),), id="RFC9110-14.1.2 open end"),
        pytest.param("bytes=9-50", ((9, 9),), id="RFC9110-14.1.2 beyond the end"),
        pytest.param("bytes=4-4,9-9", ((4, 4), (9, 9)), id="RFC9110-15.3.7.2 two"),
        pytest.param("bytes=3-5", None, id="begins before"),
        pytest.param("bytes=4-9", ((4, 9),), id="adjoining"),
        pytest.param("bytes=-7", None, id="suffix begins before"),
        pytest.param("bytes=0-", None, id="all"),
        pytest.param("bytes=0-0,5-5", None, id="one of two is missing"),
        pytest.param("lines=4-5", None, id="RFC9110-14.2 another unit"),
        pytest.param("bytes=x", None, id="RFC9110-14.2 malformed"),
    ],
)
def test_which_ranges_stored_parts_answer(asked: str, found: tuple[ByteSpan, ...] | None) -> None:
    answer = partial.answerable(request(Range=asked), part("bytes 4-9/10"), 16)
    assert (answer.spans if isinstance(answer, Parts) else answer) == found


def test_they_answer_no_request_without_a_range() -> None:
    whole = part("bytes 0-9/10")
    assert partial.answerable(request(), whole, 16) is None
    assert partial.answerable(request(Range="bytes=0-1", method="HEAD"), whole, 16) is None


def test_a_range_outside_is_known_to_be_outside() -> None:
    assert partial.answerable(request(Range="bytes=10-"), part("bytes 4-5/10"), 16) == NotSatisfiable(10)


def test_if_range_of_another_representation_asks_for_the_whole() -> None:
    stored = part("bytes 4-8/10")
    assert partial.answerable(request(Range="bytes=4-5", If_Range='"2"'), stored, 16) is None
    assert isinstance(partial.answerable(request(Range="bytes=4-5", If_Range='"1"'), stored, 16), Parts)


@pytest.mark.parametrize(
    ("stored", "new", "same"),
    [
        pytest.param({"ETag": '"1"'}, {"ETag": '"1"'}, True, id="RFC9110-8.8.3.2 strong"),
        pytest.param({"ETag": '"1"'}, {"ETag": '"2"'}, False, id="RFC9110-8.8.3.2 others"),
        pytest.param({"ETag": 'W/"1"'}, {"ETag": 'W/"1"'}, False, id="RFC9110-8.8.3.2 weak"),
        pytest.param({"ETag": 'W/"1"'}, {"ETag": '"1"'}, False, id="RFC9110-8.8.3.2 weak and strong"),
        pytest.param({"ETag": '"1"'}, {}, False, id="RFC9110-15.3.7.3 one has none"),
        pytest.param({}, {}, False, id="RFC9110-15.3.7.3 none has one"),
        pytest.param(DATED, DATED, True, id="RFC9110-8.8.2.2 dates well before"),
        pytest.param(DATED, {**DATED, "ETag": '"1"'}, False, id="RFC9110-8.8.2.2 a tag goes before dates"),
        pytest.param(DATED, {**DATED, "Date": DATED["Last_Modified"]}, False, id="RFC9110-8.8.2.2 made in that second"),
        pytest.param({"ETag": '"1"', "Content_Encoding": "gzip"}, {"ETag": '"1"'}, False, id="RFC9110-8.8.3.3 other codings"),
    ],
)
def test_what_makes_two_parts_belong_together(stored: dict[str, str], new: dict[str, str], same: bool) -> None:
    assert partial.same_representation(headers(**stored), headers(**new)) is same


@pytest.mark.parametrize(
    ("spans", "missing", "asks"),
    [
        (((0, 4),), (5, 9), "bytes=5-"),
        (((5, 9),), (0, 4), "bytes=0-4"),
        (((0, 1), (8, 9)), (2, 7), "bytes=2-7"),
        (((0, 1), (4, 5), (8, 9)), None, None),
        (((2, 3),), None, None),
        (((0, 9),), None, None),
    ],
)
def test_what_is_missing(spans: tuple[ByteSpan, ...], missing: ByteSpan | None, asks: str | None) -> None:
    parts = Held(spans, 10, bytes(sum(last - first + 1 for first, last in spans)))
    assert partial.gap(parts) == missing
    if missing is not None:
        fields = partial.completing(response(status=206, ETag='"1"'), missing, 10)
        assert fields is not None
        assert dict(fields) == {"Range": asks, "If-Range": '"1"'}


@pytest.mark.parametrize("etag", ['W/"1"', None])
def test_without_a_strong_validator_nothing_is_completed(etag: str | None) -> None:
    assert partial.completing(part("bytes 0-4/10", etag=etag), (5, 9), 10) is None


def test_a_strong_date_completes_too() -> None:
    fields = partial.completing(part("bytes 0-4/10", etag=None, **DATED), (5, 9), 10)
    assert fields is not None
    assert fields["If-Range"] == DATED["Last_Modified"]


def test_parts_that_contradict_each_other_are_not_joined() -> None:
    older = Held(((0, 4),), 10, b"01234")
    assert partial.join(older, Held(((3, 6),), 10, b"3456")) == Held(((0, 6),), 10, b"0123456")
    assert partial.join(older, Held(((3, 6),), 10, b"3x56")) is None
    assert partial.join(older, Held(((3, 6),), 11, b"3456")) is None
    assert partial.join(older, Held(((5, 6),), 10, b"56"), limit_bytes=6) is None


def test_spans_have_a_bound() -> None:
    many = Held(tuple((at, at) for at in range(0, 2 * MAX_SPANS, 2)), 1000, bytes(MAX_SPANS))
    assert partial.join(many, Held(((1, 1),), 1000, b"\0")) is not None
    assert partial.join(many, Held(((999, 999),), 1000, b"\0")) is None


def test_cut_refuses_what_is_not_stored() -> None:
    with pytest.raises(ValueError, match="8-9"):
        partial.cut(Held(((0, 4),), 10, b"01234"), (8, 9))


CONTENT = st.binary(min_size=12, max_size=12)


@st.composite
def _held(draw: st.DrawFn, content: bytes) -> Held:
    kept = draw(st.lists(st.booleans(), min_size=len(content), max_size=len(content)))
    spans: list[ByteSpan] = []
    for at, keep in enumerate(kept):
        if keep and spans and spans[-1][1] == at - 1:
            spans[-1] = spans[-1][0], at
        elif keep:
            spans.append((at, at))
    return Held(tuple(spans), len(content), b"".join(content[a : b + 1] for a, b in spans))


@given(st.data(), CONTENT)
def test_joined_parts_hold_all_bytes_of_both_and_no_others(data: st.DataObject, content: bytes) -> None:
    one, other = data.draw(_held(content)), data.draw(_held(content))
    both = partial.join(one, other)
    assert both is not None
    positions = {at for parts in (one, other) for first, last in parts.spans for at in range(first, last + 1)}
    assert {at for first, last in both.spans for at in range(first, last + 1)} == positions
    assert both.content == bytes(content[at] for at in sorted(positions))
    for span in both.spans:
        assert partial.cut(both, span) == content[span[0] : span[1] + 1]
    if positions:
        head = partial.head_of(part("bytes 0-0/12"), both)
        assert partial.held(head, both.content) == both
        assert partial.held(head, both.content + b"x") is None


@dataclass(frozen=True)
class Version:
    """What an origin has at one time."""

    content: bytes
    etag: str | None


def _versions(contents: list[bytes], kinds: list[str]) -> list[Version]:
    tags = {"strong": '"{}"', "weak": 'W/"{}"'}
    return [
        Version(content, tags[kind].format(at) if kind in tags else None)
        for at, (content, kind) in enumerate(zip(contents, kinds, strict=True))
    ]


@given(
    st.lists(CONTENT, min_size=3, max_size=3, unique=True),
    st.lists(st.sampled_from(["strong", "strong", "weak", "none"]), min_size=3, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 11), st.integers(0, 11), st.integers(0, 11), st.integers(0, 11)), max_size=20
    ),
)
def test_no_answer_mixes_two_representations(
    contents: list[bytes], kinds: list[str], steps: list[tuple[int, int, int, int, int]]
) -> None:
    """Whatever ranges an origin sends of whatever versions, what is stored answers with bytes of the version it names."""
    versions = _versions(contents, kinds)
    stored: tuple[Response, bytes] | None = None
    current = 0
    for version, a, b, c, d in steps:
        first, last = sorted((a, b))
        brought = part(f"bytes {first}-{last}/12", etag=versions[version].etag)
        new = partial.held(brought, versions[version].content[first : last + 1])
        assert new is not None
        old = None if stored is None else partial.held(*stored)
        same = stored is not None and partial.same_representation(stored[0].headers, brought.headers)
        joined = partial.join(old, new) if same and old is not None else None
        kept = joined or new
        stored, current = (partial.head_of(brought, kept), kept.content), version
        low, high = sorted((c, d))
        answer = partial.answerable(request(Range=f"bytes={low}-{high}"), stored[0], 16)
        if isinstance(answer, Parts):
            assert b"".join(partial.cut(kept, span) for span in answer.spans) == versions[current].content[low : high + 1]
        if kept.whole:
            assert kept.content == versions[current].content
