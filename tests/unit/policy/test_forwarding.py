from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.dates import format_date
from edgecache.policy.forwarding import HopsExhausted, Loop, NotForwardable, dated, to_client, to_source
from edgecache.policy.message import Headers, Request
from tests.unit.policy.values import FIELD_TEXT, NOW, headers, request, response


def sent(asked: Request, *, client_ip: str = "192.0.2.1", trusted: bool = False, whole: bool = False) -> Headers:
    return to_source(asked, client_ip=client_ip, edge_id="edge-1", trusted=trusted, whole=whole)


def test_unknown_fields_pass_unchanged_and_in_order() -> None:
    found = sent(request(("X-B", "1"), ("x-a", " 2"), ("X-B", "3"), ("Cookie", "a=b")))
    assert list(found.items())[:4] == [("X-B", "1"), ("x-a", " 2"), ("X-B", "3"), ("Cookie", "a=b")]


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Expect",
    ],
)
def test_fields_of_this_hop_stay_here(name: str) -> None:
    assert name not in sent(request((name, "x")))


def test_fields_that_connection_lists_stay_here() -> None:
    found = sent(request(Connection="X-Hop, Cache-Control, Host", X_Hop="1", Cache_Control="no-cache", Host="shop.test"))
    assert "X-Hop" not in found
    assert "Cache-Control" not in found
    assert found["Host"] == "shop.test"


def test_via_and_cdn_loop_are_appended() -> None:
    found = sent(request(Via="1.0 fred", CDN_Loop="other"))
    assert found.getall("Via") == ["1.0 fred", "1.1 edge-1"]
    assert found.getall("CDN-Loop") == ["other", "edge-1"]


@pytest.mark.parametrize(
    ("pairs", "passes"),
    [
        pytest.param([("Via", "1.1 fred, 1.1 edge-1 (x)")], 1, id="RFC9110-7.6.3 Via"),
        pytest.param([("Via", "HTTP/1.1 edge-1"), ("Via", "2 edge-1")], 2, id="RFC9110-7.6.3 Via twice"),
        pytest.param([("CDN-Loop", "a, EDGE-1; v=1")], 1, id="RFC8586-2 CDN-Loop"),
        pytest.param([("Connection", "Via, CDN-Loop"), ("CDN-Loop", "edge-1")], 1, id="RFC8586-3 hidden by Connection"),
    ],
)
def test_loops_are_found(pairs: list[tuple[str, str]], passes: int) -> None:
    with pytest.raises(Loop) as caught:
        sent(request(*pairs))
    assert caught.value.passes == passes
    assert to_source(request(*pairs), client_ip="192.0.2.1", edge_id="edge-1", max_passes=passes)


def test_other_names_are_no_loop() -> None:
    assert sent(request(Via="1.1 edge-12, 1.1", CDN_Loop="edge-10"))


@pytest.mark.parametrize(
    ("ip", "node"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", id="RFC7239-6 IPv4"),
        pytest.param("2001:db8::1", '"[2001:db8::1]"', id="RFC7239-6.1 IPv6"),
        pytest.param("fe80::1%eth0", '"[fe80::1]"', id="RFC7239-6.1 IPv6 zone"),
        pytest.param("", "unknown", id="RFC7239-6.2 unknown"),
        pytest.param("a;b", "unknown", id="RFC7239-6.2 no address"),
    ],
)
def test_forwarded_node(ip: str, node: str) -> None:
    assert sent(request(), client_ip=ip)["Forwarded"] == f"for={node};host=shop.test;proto=http"


def test_forwarded_quotes_a_host_with_a_port() -> None:
    asked = Request("GET", "https", "shop.test:8080", "/", headers())
    assert sent(asked)["Forwarded"] == 'for=192.0.2.1;host="shop.test:8080";proto=https'


def test_provenance_is_appended_to_what_came() -> None:
    found = sent(request(("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2"), ("Forwarded", "for=10.0.0.1")))
    assert found.getall("X-Forwarded-For") == ["10.0.0.1, 10.0.0.2, 192.0.2.1"]
    assert found.getall("Forwarded") == ["for=10.0.0.1, for=192.0.2.1;host=shop.test;proto=http"]


def test_only_a_trusted_peer_says_the_scheme_and_host() -> None:
    asked = request(X_Forwarded_Proto="https", X_Forwarded_Host="www.test")
    assert [sent(asked)[name] for name in ("X-Forwarded-Proto", "X-Forwarded-Host")] == ["http", "shop.test"]
    assert [sent(asked, trusted=True)[name] for name in ("X-Forwarded-Proto", "X-Forwarded-Host")] == ["https", "www.test"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("for=10.0.0.1;host=evil.test;proto=https", "for=10.0.0.1, "),
        ("host=evil.test", ""),
        ("proto=https;for=a, host=evil.test, for=b;by=c", "for=a, for=b;by=c, "),
        ('for="[::1]:80";Host=evil.test', 'for="[::1]:80", '),
        ('for="a;host=evil.test"', ""),
        ('for="a, host=evil.test', ""),
        ("for=a host=evil.test", ""),
        ("for=a;;host=evil.test", "for=a, "),
    ],
)
def test_what_a_client_says_it_asked_for_goes_no_further(said: str, kept: str) -> None:
    """Web cache poisoning: origins make links of the first host that Forwarded names, and the key knows nothing of it."""
    assert sent(request(Forwarded=said))["Forwarded"] == f"{kept}for=192.0.2.1;host=shop.test;proto=http"


def test_preconditions_pass_unless_the_whole_is_wanted() -> None:
    asked = request(If_None_Match='"a"', Range="bytes=0-1", If_Range='"a"')
    assert "If-None-Match" in sent(asked)
    assert not {"If-None-Match", "Range", "If-Range"} & set(sent(asked, whole=True))


def test_conditions_of_the_cache_replace_those_of_the_client() -> None:
    asked = request(If_None_Match='"client"', If_Match='"client"')
    found = to_source(asked, client_ip="192.0.2.1", edge_id="e", conditional=headers(If_None_Match='"stored"'))
    assert found.getall("If-None-Match") == ['"stored"']
    assert "If-Match" not in found


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        pytest.param("OPTIONS", "3", "2", id="RFC9110-7.6.2 counted down"),
        pytest.param("TRACE", "9" * 5000, "999999998", id="RFC9110-7.6.2 very long number"),
        pytest.param("GET", "0", "0", id="RFC9110-7.6.2 other methods"),
        pytest.param("OPTIONS", "x", "x", id="RFC9110-7.6.2 no number"),
    ],
)
def test_max_forwards(method: str, value: str, expected: str) -> None:
    assert sent(request(method=method, Max_Forwards=value))["Max-Forwards"] == expected


def test_max_forwards_ends_here() -> None:
    with pytest.raises(HopsExhausted):
        sent(request(method="OPTIONS", Max_Forwards="00"))


def test_to_client_drops_what_ends_here_and_names_this_edge() -> None:
    found = to_client(
        response(
            ("Connection", "X-Hop"), ("X-Hop", "1"), ("Transfer-Encoding", "chunked"), ("Set-Cookie", "a"), ("Set-Cookie", "b")
        ),
        edge_id="edge-1",
    )
    assert list(found.items()) == [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Via", "1.1 edge-1")]


def test_a_response_without_a_date_is_given_one() -> None:
    assert list(dated(response(("ETag", "a")), NOW).headers.items()) == [("ETag", "a"), ("Date", format_date(NOW))]
    had = response(Date="x")
    assert dated(had, NOW) is had


NAMES = st.sampled_from(["Via", "CDN-Loop", "Forwarded", "X-Forwarded-For", "Connection", "Max-Forwards", "X-A"])


@given(st.lists(st.tuples(NAMES, FIELD_TEXT), max_size=6), FIELD_TEXT, FIELD_TEXT)
def test_any_request_is_forwarded_or_refused(pairs: list[tuple[str, str]], ip: str, authority: str) -> None:
    asked = Request("OPTIONS", "http", authority, "/", headers(*pairs))
    try:
        found = sent(asked, client_ip=ip)
    except NotForwardable:
        return
    assert not any(c in value for name, value in found.items() if name in ("Forwarded", "X-Forwarded-Host") for c in "\r\n\0")
    assert "Connection" not in found
    assert found.getall("Via")[-1] == "1.1 edge-1"
