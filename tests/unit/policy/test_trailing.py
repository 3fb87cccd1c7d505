"""Which trailers may be passed on, in either direction."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.trailing import MAX_TRAILERS, announced, following, passable, wants_trailers


def request(*fields: tuple[str, str]) -> Request:
    return Request("POST", "http", "a", "/", freeze(fields))


def test_names_are_announced_in_any_case_and_over_several_lines() -> None:
    assert announced(request(("Trailer", "X-Sum, Digest"), ("trailer", " x-sum ,,ETag-Of"))) == ("x-sum", "digest", "etag-of")


def test_nothing_is_announced_without_the_field() -> None:
    assert announced(request(("TE", "trailers"))) == ()


def test_what_a_merging_origin_would_believe_is_not_let_through() -> None:
    forbidden = """
        host content-length transfer-encoding trailer te connection upgrade expect authorization cookie range if-match
        via forwarded x-forwarded-for x-forwarded-any cdn-loop x-real-ip x-original-url x-request-id x-http-method-override
        proxy-authorization sec-fetch-site access-control-request-method accept accept-encoding origin traceparent max-forwards
        x_forwarded_host X_Original_URL transfer_encoding content_length x-http-host-override
    """
    assert [name for name in forbidden.split() if announced(request(("Trailer", name)))] == []


def test_what_is_no_name_is_not_announced() -> None:
    assert announced(request(("Trailer", '"x", x sum, x:y, x-\u00e9, x-sum'))) == ("x-sum",)


def test_names_are_bounded() -> None:
    many = request(("Trailer", ", ".join(f"x-{number}" for number in range(1000))))
    assert len(announced(many)) == MAX_TRAILERS


@given(st.lists(st.tuples(st.sampled_from(["X-Sum", "x-sum", "Host", "X-Other", "If-Match"]), st.text("ab", max_size=3))))
def test_only_what_was_promised_follows_in_its_order(fields: list[tuple[str, str]]) -> None:
    sent = request(("Trailer", ", ".join(announced(request(("Trailer", "x-sum, host, if-match"))))))
    assert list(following(sent, fields)) == [(name, value) for name, value in fields if name.lower() == "x-sum"]


def test_of_responses_framing_and_caching_fields_are_not_passed_on() -> None:
    assert passable([("X-Sum", "1"), ("Set-Cookie", "a"), ("If-Match", "b"), ("Content-Length", "1")]) == (("X-Sum", "1"),)
    assert wants_trailers(request(("TE", "gzip;q=1, Trailers"))) and not wants_trailers(request(("TE", "gzip")))
