"""Requests without a body as they are written: byte for byte what the client said, or nothing."""

from __future__ import annotations

import pytest
from yarl import URL

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.upstream.http1.request_head import encode_request, is_bodiless
from edgecache.upstream.http1.way import Way


def request(*fields: tuple[str, str], method: str = "GET", target: str = "/a?b") -> Request:
    return Request(method, "http", "site.test", target, freeze(fields))


def test_host_comes_first_and_once() -> None:
    head = encode_request(request(("Accept", "*/*"), ("hOST", "site.test"), ("X", "1"), ("X", "2")), "origin.test")
    assert head == b"GET /a?b HTTP/1.1\r\nHost: site.test\r\nAccept: */*\r\nX: 1\r\nX: 2\r\n\r\n"


def test_an_origin_is_named_where_the_request_names_nobody() -> None:
    assert encode_request(request(target="/"), "origin.test:81") == b"GET / HTTP/1.1\r\nHost: origin.test:81\r\n\r\n"


def test_octets_that_are_no_text_pass_unchanged() -> None:
    raw = b"/\xff\xe4"
    head = encode_request(
        request(("X", b"\xe9".decode("utf-8", "surrogateescape")), target=raw.decode("utf-8", "surrogateescape")), "o"
    )
    assert head == b"GET " + raw + b" HTTP/1.1\r\nHost: o\r\nX: \xe9\r\n\r\n"


@pytest.mark.parametrize("bad", ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\x7fb", "\x1b"])
def test_what_would_break_the_framing_is_never_sent(bad: str) -> None:
    for unsafe in (request(("X", bad)), request(("X" + bad, "1")), request(target="/" + bad)):
        with pytest.raises(ValueError, match="control character"):
            encode_request(unsafe, "o")


def test_a_tab_is_part_of_a_value() -> None:
    assert b"X: a\tb\r\n" in encode_request(request(("X", "a\tb")), "o")


def test_ways_differ_by_address_security_and_name() -> None:
    ways = [
        Way(URL("http://o.test"), True, None),
        Way(URL("http://o.test:81"), True, None),
        Way(URL("https://o.test"), True, None),
        Way(URL("https://o.test"), True, "other.test"),
        Way(URL("https://p.test"), True, None),
    ]
    assert len({way.connection_key for way in ways}) == len(ways)
    assert [way.host for way in ways] == ["o.test", "o.test:81", "o.test", "o.test", "p.test"]
    assert [way.is_ssl() for way in ways] == [False, False, True, True, True]


def test_only_get_and_head_without_a_switch_or_an_expectation_go_this_way() -> None:
    assert is_bodiless(request()) and is_bodiless(request(method="HEAD"))
    assert not any(is_bodiless(request(method=method)) for method in ("POST", "OPTIONS", "get", "DELETE"))
    assert not is_bodiless(request(("Upgrade", "websocket"), ("Connection", "Upgrade")))
    assert not is_bodiless(request(("Expect", "100-continue")))
