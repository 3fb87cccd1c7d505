from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.dates import format_date
from edgecache.policy.freshness import LifetimeSource
from edgecache.policy.message import Request, Timed
from edgecache.policy.rule import DEFAULT_RULE, CacheRule
from edgecache.policy.storing import MAX_TAGS, NoStore, NoStoreReason, Storable, admit, strip
from edgecache.policy.variance import MAX_VARY_NAMES
from tests.unit.policy.values import FIELD_TEXT, NOW, headers, request, response, timed

FRESH = ("Cache-Control", "max-age=60")
MODIFIED = ("Last-Modified", format_date(NOW - 1000))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        pytest.param(request(), timed(FRESH), id="RFC9111-3 explicit freshness"),
        pytest.param(request(), timed(FRESH, status=302), id="RFC9111-3 explicit freshness makes any final status storable"),
        pytest.param(request(), timed(FRESH, status=599), id="RFC9111-3 unknown status with freshness"),
        pytest.param(request(), timed(MODIFIED), id="RFC9111-4.2.2 heuristic"),
        pytest.param(request(), timed(MODIFIED, status=404), id="RFC9110-15.1 heuristic for 404"),
        pytest.param(request(), timed(ETag='"a"'), id="validator alone: every use is validated"),
        pytest.param(request(), timed(Cache_Control="no-cache", ETag='"a"'), id="RFC9111-5.2.2.4 no-cache is storable"),
        pytest.param(request(), timed(Cache_Control="public", status=302, ETag='"a"'), id="RFC9111-3 public"),
        pytest.param(request(), timed(Cache_Control="max-age=0, stale-while-revalidate=9"), id="RFC5861-3 stale use is use"),
        pytest.param(request(), timed(Cache_Control='private="x", max-age=9'), id="RFC9111-5.2.2.7 private fields"),
        pytest.param(
            request(),
            timed(Cache_Control="must-understand, no-store, max-age=9"),
            id="RFC9111-5.2.2.3 must-understand before no-store",
        ),
        pytest.param(request(Authorization="x"), timed(Cache_Control="max-age=9, public"), id="RFC9111-3.5 public"),
        pytest.param(request(Authorization="x"), timed(Cache_Control="s-maxage=9"), id="RFC9111-3.5 s-maxage"),
        pytest.param(
            request(Authorization="x"), timed(Cache_Control="max-age=9, must-revalidate"), id="RFC9111-3.5 must-revalidate"
        ),
        pytest.param(
            request(), timed(Cache_Control="max-age=9, public", Set_Cookie="a=b"), id="RFC9111-7.3 Set-Cookie and public"
        ),
        pytest.param(request(), timed(Cache_Control="s-maxage=9", Set_Cookie="a=b"), id="RFC9111-7.3 Set-Cookie and s-maxage"),
        pytest.param(request(), timed(FRESH, Set_Cookie="a=b"), id="RFC9111-7.3 Set-Cookie and a lifetime"),
        pytest.param(
            request(),
            timed(Cache_Control='max-age=9, no-cache="set-cookie"', Set_Cookie="a=b"),
            id="RFC9111-7.3 Set-Cookie left out",
        ),
        pytest.param(
            request(),
            timed(CDN_Cache_Control="max-age=9", Cache_Control="no-store", Set_Cookie="a=b"),
            id="RFC9213-2.1 targeted field",
        ),
        pytest.param(request(Cookie="a=b"), timed(FRESH), id="Cookie in the request does not matter"),
        pytest.param(request(Range="bytes=0-1"), timed(FRESH), id="RFC9110-14.2 whole answer to a range"),
        pytest.param(request(), timed(FRESH, Content_Length="x"), id="unknown length"),
        pytest.param(request(), timed(FRESH, Pragma="no-cache"), id="RFC9111-5.4 Pragma in a response means nothing"),
    ],
)
def test_stored(asked: Request, answer: Timed) -> None:
    assert isinstance(admit(asked, answer, DEFAULT_RULE), Storable)


@pytest.mark.parametrize(
    ("asked", "answer", "reason"),
    [
        pytest.param(request(method="POST"), timed(FRESH), NoStoreReason.METHOD, id="RFC9111-3 method"),
        pytest.param(request(method="HEAD"), timed(FRESH), NoStoreReason.METHOD, id="RFC9111-4.3.5 HEAD has no body to store"),
        pytest.param(request(), timed(FRESH, status=103), NoStoreReason.STATUS, id="RFC9111-3 interim"),
        pytest.param(request(), timed(FRESH, status=206), NoStoreReason.PARTIAL, id="RFC9111-3.3 partial without a Range asked"),
        pytest.param(request(), timed(FRESH, status=304), NoStoreReason.STATUS, id="RFC9111-3 304"),
        pytest.param(request(), timed(FRESH, status=412), NoStoreReason.STATUS, id="RFC9110-13 answer to a precondition"),
        pytest.param(request(), timed(FRESH, status=429), NoStoreReason.STATUS, id="RFC6585-4 429"),
        pytest.param(request(), timed(status=302), NoStoreReason.STATUS, id="RFC9111-3 302 without freshness"),
        pytest.param(request(), timed(MODIFIED, status=500), NoStoreReason.STATUS, id="RFC9111-4.2.2 no heuristic for 500"),
        pytest.param(
            request(),
            timed(Cache_Control="must-understand, max-age=9", status=299),
            NoStoreReason.NOT_UNDERSTOOD,
            id="RFC9111-5.2.2.3 must-understand",
        ),
        pytest.param(request(Cache_Control="no-store"), timed(FRESH), NoStoreReason.REQUEST_NO_STORE, id="RFC9111-5.2.1.5"),
        pytest.param(request(), timed(Cache_Control="no-store, max-age=9"), NoStoreReason.NO_STORE, id="RFC9111-5.2.2.5"),
        pytest.param(request(), timed(Cache_Control="private, max-age=9"), NoStoreReason.PRIVATE, id="RFC9111-5.2.2.7"),
        pytest.param(request(Authorization="x"), timed(FRESH), NoStoreReason.AUTHORIZATION, id="RFC9111-3.5"),
        pytest.param(
            request(),
            timed(Last_Modified="Sat, 01 Jan 2000 00:00:00 GMT", Set_Cookie="a=b"),
            NoStoreReason.SET_COOKIE,
            id="RFC9111-7.3 Set-Cookie and a guessed lifetime",
        ),
        pytest.param(request(), timed(FRESH, Vary="a, *"), NoStoreReason.VARY_STAR, id="RFC9111-4.1 Vary star"),
        pytest.param(request(), timed(), NoStoreReason.NO_FRESHNESS, id="RFC9111-3 nothing said"),
        pytest.param(
            request(), timed(Cache_Control="public"), NoStoreReason.NO_FRESHNESS, id="RFC9111-3 public without a lifetime"
        ),
        pytest.param(request(), timed(Cache_Control="max-age=0"), NoStoreReason.UNUSABLE, id="already stale, no validator"),
        pytest.param(
            request(), timed(FRESH, Age="60"), NoStoreReason.UNUSABLE, id="RFC9111-4.2.3 stale on arrival, no validator"
        ),
        pytest.param(request(), timed(Cache_Control="no-cache, max-age=9"), NoStoreReason.UNUSABLE, id="no-cache, no validator"),
        pytest.param(
            request(), timed(FRESH, Content_Length=str((64 << 20) + 1)), NoStoreReason.TOO_LARGE, id="larger than the rule allows"
        ),
        pytest.param(
            request(), timed(FRESH, Cache_Tag=",".join(f"t{i}" for i in range(MAX_TAGS + 1))), NoStoreReason.TAG_LIMIT, id="tags"
        ),
        pytest.param(
            request(),
            timed(FRESH, Vary=",".join(f"x{i}" for i in range(MAX_VARY_NAMES + 1))),
            NoStoreReason.VARY_LIMIT,
            id="Vary names",
        ),
    ],
)
def test_not_stored(asked: Request, answer: Timed, reason: NoStoreReason) -> None:
    assert admit(asked, answer, DEFAULT_RULE) == NoStore(reason)


def test_store_says_what_the_entry_needs() -> None:
    answer = timed(FRESH, Vary="Accept-Language, a", Cache_Tag="x, y", Surrogate_Key="k1 k2")
    found = admit(request(), answer, CacheRule(tags=("shop",), vary=("B",)))
    assert isinstance(found, Storable)
    assert found.vary == ("a", "accept-language", "b")
    assert found.tags == {"x", "y", "k1", "k2", "shop"}
    assert (found.lifetime.seconds, found.lifetime.source) == (60, LifetimeSource.EXPLICIT)
    assert found.terms.born == NOW


def test_operators_default_makes_a_silent_response_storable() -> None:
    assert isinstance(admit(request(), timed(), CacheRule(default_ttl=5)), Storable)


def test_rule_can_ignore_a_clients_no_store() -> None:
    assert isinstance(admit(request(Cache_Control="no-store"), timed(FRESH), CacheRule(honour_client_reload=False)), Storable)


def test_strip_removes_what_must_not_be_kept() -> None:
    head = response(
        ("Connection", "close, X-Hop, Content-Length"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Proxy-Authenticate", "Basic"),
        ("Cache-Control", 'max-age=60, no-cache="Set-Cookie", private="X-User"'),
        ("Set-Cookie", "a=b"),
        ("x-user", "me"),
        ("Content-Length", "3"),
        ("X-Kept", "1"),
        ("X-Kept", "2"),
        ("Age", "3"),
    )
    kept = strip(head, received=NOW).headers
    assert list(kept.items()) == [
        ("Cache-Control", 'max-age=60, no-cache="Set-Cookie", private="X-User"'),
        ("Content-Length", "3"),
        ("X-Kept", "1"),
        ("X-Kept", "2"),
        ("Age", "3"),
        ("Date", format_date(NOW)),
    ]
    assert "Date" not in strip(head).headers


FIELDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Cache-Control", "CDN-Cache-Control", "Vary", "Age", "Expires", "ETag", "Set-Cookie", "Cache-Tag", "Connection"]
        ),
        FIELD_TEXT | st.sampled_from(["max-age=60", "no-store", "private", "public", '"a"', "*"]),
    ),
    max_size=6,
)


@given(FIELDS, FIELDS, st.integers(100, 599))
def test_any_exchange_gets_an_answer_and_no_store_is_obeyed(
    asked: list[tuple[str, str]], given_: list[tuple[str, str]], status: int
) -> None:
    found = admit(Request("GET", "http", "h", "/", headers(*asked)), timed(*given_, status=status), DEFAULT_RULE)
    assert isinstance(found, Storable | NoStore)
    forbidding = [
        ("Cache-Control", "no-store"),
        *(pair for pair in given_ if pair[0] != "CDN-Cache-Control" and "must" not in pair[1]),
    ]
    assert isinstance(admit(request(), timed(*forbidding, status=status), DEFAULT_RULE), NoStore)


@pytest.mark.parametrize(("said", "stored"), [("max-age=60", False), ("public, max-age=60", True), ("s-maxage=60", True)])
def test_cookies_need_a_word_of_their_own_where_the_rule_says_so(said: str, stored: bool) -> None:
    found = admit(request(), timed(Cache_Control=said, Set_Cookie="a=b"), CacheRule(store_set_cookie=False))
    assert (found == NoStore(NoStoreReason.SET_COOKIE)) is not stored


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"Content_Location": "/a", "Cache_Control": "max-age=60"}, None, id="RFC9110-9.3.3"),
        pytest.param({"Content_Location": "/b", "Cache_Control": "max-age=60"}, NoStoreReason.METHOD, id="another resource"),
        pytest.param({"Cache_Control": "max-age=60"}, NoStoreReason.METHOD, id="none named"),
        pytest.param({"Content_Location": "/a"}, NoStoreReason.METHOD, id="no lifetime"),
        pytest.param({"Content_Location": "/a", "Cache_Control": "max-age=60, private"}, NoStoreReason.PRIVATE, id="private"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_a_post_brings_may_answer_get(method: str, fields: dict[str, str], reason: NoStoreReason | None) -> None:
    lines = [(name.replace("_", "-"), value) for name, value in fields.items()]
    found = admit(request(method=method), timed(*lines), DEFAULT_RULE)
    if method == "PUT":
        assert found == NoStore(NoStoreReason.METHOD)
    elif reason is None:
        assert isinstance(found, Storable)
    else:
        assert found == NoStore(reason)
