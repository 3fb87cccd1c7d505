"""Which coding a client gets, and what coding makes of a head."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.coding import MIN_BYTES, Coding, as_stored, code, negotiated, weak_and_strong
from edgecache.policy.etag import entity_tag
from edgecache.policy.fields import names
from edgecache.policy.lookup import conditions
from edgecache.policy.rule import CacheRule
from edgecache.policy.validation import selects, update
from edgecache.policy.variance import variant_key
from tests.unit.policy.values import FIELD_TEXT, request, response, timed

ALL = (Coding.ZSTD, Coding.BR, Coding.GZIP)
TEXT = {"Content_Type": "text/html; charset=utf-8", "Content_Length": "5000"}


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [
        pytest.param("gzip", "gzip", id="RFC9110-12.5.3 the one accepted"),
        pytest.param("gzip, br", "br", id="of those wanted alike, the first offered"),
        pytest.param("gzip, br;q=0.5", "gzip", id="RFC9110-12.4.2 the one wanted more"),
        pytest.param("GZIP", "gzip", id="RFC9110-8.4.1 names in any case"),
        pytest.param("x-gzip", "gzip", id="RFC9110-8.4.1.3 x-gzip is gzip"),
        pytest.param("*", "zstd", id="RFC9110-12.5.3 any"),
        pytest.param("*, zstd;q=0", "br", id="RFC9110-12.5.3 any but one"),
        pytest.param("", "identity", id="RFC9110-12.5.3 empty: no coding"),
        pytest.param(None, "identity", id="absent: no coding, as clients that say nothing may decode nothing"),
        pytest.param("deflate", "identity", id="none that is offered"),
        pytest.param("gzip;q=0", "identity", id="RFC9110-12.4.2 refused"),
        pytest.param("identity, gzip;q=0.5", "identity", id="RFC9110-12.5.3 identity wanted more"),
        pytest.param("deflate, identity;q=0", None, id="RFC9110-12.5.3 nothing acceptable here"),
        pytest.param("deflate, *;q=0", None, id="RFC9110-12.5.3 all else refused, identity too"),
    ],
)
def test_the_client_chooses(accepts: str | None, expected: str | None) -> None:
    asked = request() if accepts is None else request(Accept_Encoding=accepts)
    assert negotiated(asked, ALL) == expected


def test_nothing_is_negotiated_where_nothing_is_offered() -> None:
    assert negotiated(request(Accept_Encoding="gzip"), ()) is None


def test_a_request_that_forbids_transformation_gets_no_coding() -> None:
    assert negotiated(request(Accept_Encoding="gzip", Cache_Control="no-transform"), ALL) == "identity"


@given(st.lists(FIELD_TEXT | st.sampled_from(["gzip", "br;q=0.2", "*;q=0", "identity;q=0", "zstd;q=x"]), max_size=3))
def test_a_coding_is_never_applied_against_the_clients_word(lines: list[str]) -> None:
    asked = request(*(("Accept-Encoding", line) for line in lines))
    chosen = negotiated(asked, ALL)
    assert chosen in (*ALL, "identity", None)
    if chosen in ALL:
        said = ",".join(lines).lower()
        assert chosen in said or "*" in said


def test_a_coded_head_says_so_and_loses_what_does_not_hold_for_the_coded_bytes() -> None:
    came = response(**TEXT, ETag='"v"', Accept_Ranges="bytes", Vary="Cookie", X_Own="1")
    head, coding = code(request(Accept_Encoding="gzip"), came, ALL)
    assert coding is Coding.GZIP
    assert head.headers["Content-Encoding"] == "gzip"
    assert head.headers["ETag"] == 'W/"v"'
    assert names(head.headers, "Vary") == ("cookie", "accept-encoding")
    assert head.headers["X-Own"] == "1"
    assert not {"Content-Length", "Accept-Ranges"} & set(head.headers)


def test_uncoded_answers_vary_too_and_keep_their_tag() -> None:
    head, coding = code(request(), response(**TEXT, ETag='"v"'), ALL)
    assert coding is None
    assert (head.headers["Vary"], head.headers["ETag"], head.headers["Content-Length"]) == ("Accept-Encoding", '"v"', "5000")


@pytest.mark.parametrize("vary", ["*", "accept-encoding", "Cookie, Accept-Encoding"])
def test_vary_is_not_said_twice(vary: str) -> None:
    head, _ = code(request(Accept_Encoding="br"), response(**TEXT, Vary=vary), ALL)
    assert head.headers.getall("Vary") == [vary]


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        pytest.param(200, {"Content_Encoding": "gzip"}, id="coded by the source"),
        pytest.param(200, {"Content_Encoding": "identity"}, id="any Content-Encoding"),
        pytest.param(200, {"Cache_Control": "max-age=9, No-Transform"}, id="RFC9111-5.2.2.6 no-transform"),
        pytest.param(200, {"Cache_Control": "no-transform", "CDN_Cache_Control": "max-age=9"}, id="no-transform beside RFC9213"),
        pytest.param(200, {"CDN_Cache_Control": "no-transform"}, id="RFC9213 no-transform"),
        pytest.param(200, {"Content_Type": "image/png"}, id="type"),
        pytest.param(200, {"Content_Type": "text/event-stream"}, id="events arrive at once"),
        pytest.param(200, {"Content_Length": str(MIN_BYTES - 1)}, id="too small"),
        pytest.param(200, {"Content_Digest": "sha-256=:AA==:"}, id="RFC9530 digest"),
        pytest.param(200, {"Repr_Digest": "sha-256=:AA==:"}, id="RFC9530 digest of the representation"),
        pytest.param(206, {"Content_Range": "bytes 0-1/5000"}, id="RFC9110-15.3.7 part"),
        pytest.param(204, {}, id="no content"),
        pytest.param(304, {"ETag": '"v"'}, id="not modified"),
        pytest.param(103, {}, id="interim"),
    ],
)
def test_it_is_left_as_it_came(status: int, fields: dict[str, str]) -> None:
    came = response(status=status, **{**TEXT, **fields})
    assert code(request(Accept_Encoding="gzip, br, zstd"), came, ALL) == (came, None)


def test_without_a_type_nothing_is_guessed() -> None:
    came = response(Content_Length="5000")
    assert code(request(Accept_Encoding="gzip"), came, ALL) == (came, None)


@pytest.mark.parametrize("kind", ["text/css", "application/json", "application/ld+json", "image/svg+xml", "TEXT/Plain ; a=b"])
def test_text_is_coded_whatever_it_is_called(kind: str) -> None:
    assert code(request(Accept_Encoding="gzip"), response(Content_Type=kind), ALL)[1] is Coding.GZIP


def test_a_304_names_the_weak_tag_under_which_the_client_holds_coded_bytes() -> None:
    not_modified = response(status=304, ETag='"v"')
    held_coded, held_plain = request(If_None_Match='W/"v"'), request(If_None_Match='"v"')
    assert code(held_coded, not_modified, ALL)[0].headers["ETag"] == 'W/"v"'
    assert code(held_plain, not_modified, ALL)[0].headers["ETag"] == '"v"'
    assert code(held_coded, not_modified, ())[0].headers["ETag"] == '"v"'


def test_a_304_from_the_source_does_not_make_a_coded_entry_strong() -> None:
    came = timed(**TEXT, ETag='"v"', Cache_Control="max-age=5")
    head, _ = code(request(Accept_Encoding="gzip"), came.response, ALL)
    stored = timed(*head.headers.items())
    fresh = timed(status=304, ETag='"v"', Vary="Cookie", Cache_Control="max-age=60")
    assert selects(stored, fresh)
    merged = update(stored, fresh).response.headers
    assert (merged["ETag"], merged["Content-Encoding"], merged["Cache-Control"]) == ('W/"v"', "gzip", "max-age=60")
    assert names(merged, "Vary") == ("cookie", "accept-encoding")


def test_an_uncoded_entry_takes_the_304_as_it_is() -> None:
    merged = response(ETag='"w"', Vary="Cookie")
    assert as_stored(response(ETag='W/"v"'), merged) == merged


def test_the_source_is_asked_about_both_forms_of_a_weakened_tag() -> None:
    head, _ = code(request(Accept_Encoding="gzip"), response(**TEXT, ETag='"v"'), ALL)
    assert conditions(head)["If-None-Match"] == 'W/"v", "v"'
    assert weak_and_strong(response(ETag='W/"v"').headers) == 'W/"v"'
    assert weak_and_strong(response(ETag='"v"', Content_Encoding="gzip").headers) == '"v"'


def test_variants_are_one_a_coding() -> None:
    rule = CacheRule(compress=ALL)
    accepts = ["gzip", "gzip, deflate", "gzip;q=0.9", "br, gzip", "br", "zstd, br, gzip", "", "deflate", None]
    keys = [
        variant_key(request() if one is None else request(Accept_Encoding=one), ("accept-encoding",), rule) for one in accepts
    ]
    assert len(set(keys)) == 4
    assert keys[0] == keys[1] == keys[2]


CODED = st.sampled_from(["gzip", "br", "zstd", "deflate", "*", "identity;q=0", "gzip;q=0", "br;q=0.1", "identity"])
ACCEPTS = st.lists(CODED, max_size=4).map(", ".join)
FIELDS = st.fixed_dictionaries(
    {"Content_Type": st.sampled_from(["text/plain", "image/png"])},
    optional={
        "ETag": st.sampled_from(['"v"', 'W/"v"', "v", ""]),
        "Content_Encoding": st.sampled_from(["gzip", "br"]),
        "Cache_Control": st.sampled_from(["no-transform", "max-age=1"]),
        "Content_Length": st.sampled_from(["0", "1023", "1024", "99999", "x"]),
        "Vary": st.sampled_from(["*", "Cookie", "Accept-Encoding"]),
    },
)


@given(ACCEPTS, ACCEPTS, FIELDS, st.permutations(ALL), st.sampled_from([200, 206, 304, 404]))
def test_requests_with_one_key_get_one_coding_and_no_strong_tag_names_two_bodies(
    one: str, other: str, fields: dict[str, str], offered: list[Coding], status: int
) -> None:
    rule = CacheRule(compress=tuple(offered))
    came = response(status=status, **fields)
    asked = [request(Accept_Encoding=accepts) for accepts in (one, other)]
    heads = [code(each, came, rule.compress) for each in asked]
    keys = [variant_key(each, names(head.headers, "Vary"), rule) for each, (head, _) in zip(asked, heads, strict=True)]
    for (head, coding), (_, against) in itertools.permutations(heads):
        if coding is not against:
            assert keys[0] != keys[1] or fields.get("Vary") == "*"
        if coding is not None:
            tag = entity_tag(head.headers)
            assert tag is None or tag.weak
            assert "Content-Encoding" not in fields and status != 206 and fields.get("Cache_Control") != "no-transform"
