from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.authority import authority_of, host_of, is_authority

AUTHORITIES = st.from_regex(r"(?:\[[0-9A-Fa-f:.]{2,9}\]|[A-Za-z.-]{0,9})(?::(?:80|443|[0-9]{0,5}))?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "scheme", "expected"),
    [
        ("Shop.Test", "http", "shop.test"),
        ("shop.test:80", "http", "shop.test"),
        ("shop.test:443", "https", "shop.test"),
        ("shop.test:443", "http", "shop.test:443"),
        ("shop.test:80", "https", "shop.test:80"),
        ("shop.test:8080", "http", "shop.test:8080"),
        ("shop.test:", "http", "shop.test"),
        ("shop.test.", "http", "shop.test"),
        ("shop.test.:8080", "http", "shop.test:8080"),
        ("shop.test.:443", "https", "shop.test"),
        ("[::80]", "http", "[::80]"),
        ("[::1]:80", "http", "[::1]"),
        ("", "http", ""),
    ],
)
def test_normal_form(text: str, scheme: str, expected: str) -> None:
    assert authority_of(text, scheme) == expected


@given(AUTHORITIES, st.sampled_from(["http", "https"]))
def test_a_normal_form_is_an_authority_and_stays_as_it_is(text: str, scheme: str) -> None:
    once = authority_of(text, scheme)
    assert is_authority(text)
    assert is_authority(once)
    assert authority_of(once, scheme) == once


@pytest.mark.parametrize("text", ["a@b", "a:80:80", "::1", "[::1", "a:port", "a:123456", "a/b", "bücher.test", "a b", "a\n"])
def test_what_is_no_authority(text: str) -> None:
    assert not is_authority(text)


@pytest.mark.parametrize(
    ("authority", "host"), [("a.test", "a.test"), ("a.test:8080", "a.test"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
)
def test_hosts(authority: str, host: str) -> None:
    assert host_of(authority) == host
